//! Network namespaces of a test's own: a hub with a bridge, a client's pod and a server's pod. Nothing of the host is touched.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpListener};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};

use nix::sched::{CloneFlags, setns};

static NEXT: AtomicU8 = AtomicU8::new(0);

/// Who is no proxy.
const NOBODY: u32 = 65534;

/// Why this machine cannot run such a test.
pub fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root".to_owned());
    }
    let there = |program: &&str| {
        let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
        found.is_ok_and(|output| output.status.success())
    };
    let absent = ["nft", "ip", "iptables-restore", "curl", "bash", "setpriv"].into_iter().find(|p| !there(p));
    if let Some(program) = absent {
        return Some(format!(
            "{program} is not installed (apt-get install nftables iproute2 iptables curl util-linux)"
        ));
    }
    let probe = format!("mesh-test-{}", std::process::id());
    let made = Command::new("ip").args(["netns", "add", &probe]).output().unwrap();
    let _ = Command::new("ip").args(["netns", "del", &probe]).output();
    (!made.status.success()).then(|| String::from_utf8_lossy(&made.stderr).into_owned())
}

/// One namespace.
#[derive(Clone)]
pub struct Netns(String);

impl Netns {
    /// Moves this thread there.
    pub fn enter(&self) {
        let file = File::open(format!("/run/netns/{}", self.0)).unwrap();
        setns(file, CloneFlags::CLONE_NEWNET).unwrap();
    }

    /// Does something there.
    pub fn within<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter();
                f()
            });
            thread.join().unwrap()
        })
    }

    /// Runs a program there, as an application would.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Output {
        use std::os::unix::process::CommandExt as _;
        self.within(|| {
            let mut command = Command::new(program);
            command.args(arguments).uid(NOBODY).gid(NOBODY).current_dir("/").output().unwrap()
        })
    }

    /// What an unchanged curl there gets; `None` when it fails.
    pub fn curl(&self, url: &str) -> Option<String> {
        let output = self.run("curl", &["-sS", "-g", "-f", "--noproxy", "*", "-m", "10", url]);
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    /// The first line that a server there says to somebody who says nothing.
    pub fn listen_to(&self, host: &str, port: u16) -> String {
        let script = format!("exec 3<>/dev/tcp/{host}/{port} && read -t 10 line <&3 && echo \"$line\"");
        String::from_utf8(self.run("bash", &["-c", &script]).stdout).unwrap().trim().to_owned()
    }

    /// What a program there prints, run by root.
    pub fn shown(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.within(|| Command::new(program).args(arguments).output().unwrap());
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Serves HTTP on both families: the answer is the client's address.
    pub fn serve_http(&self, port: u16) {
        self.serve(
            port,
            |from| {
                let body = from.to_string();
                format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                )
            },
            true,
        );
    }

    /// Serves a protocol in which the server speaks first.
    pub fn serve_first(&self, port: u16) {
        self.serve(port, |from| format!("hello {from}\n"), false);
    }

    fn serve(&self, port: u16, says: impl Fn(IpAddr) -> String + Send + 'static, waits: bool) {
        let listener = self.within(|| TcpListener::bind(("::", port)).unwrap());
        // Ends with the process: its namespace goes before.
        std::thread::spawn(move || {
            while let Ok((mut stream, from)) = listener.accept() {
                if waits {
                    let mut head = Vec::new();
                    let mut byte = [0];
                    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
                        head.push(byte[0]);
                    }
                }
                let _ = stream.write_all(says(from.ip().to_canonical()).as_bytes());
            }
        });
    }
}

/// A hub and two pods.
pub struct World {
    pub hub: Netns,
    pub client: Netns,
    pub server: Netns,
}

impl World {
    pub fn new() -> Self {
        let id = format!("mesh-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let name = |part: &str| Netns(format!("{id}-{part}"));
        let world = Self { hub: name("h"), client: name("c"), server: name("s") };
        let hub = &world.hub.0;
        let mut script = format!(
            "ip netns add {hub}\nip -n {hub} link set lo up\nip -n {hub} link add br0 type bridge\n\
             ip -n {hub} link set br0 up\nip -n {hub} addr add 10.201.0.254/24 dev br0\n\
             ip -n {hub} -6 addr add fd77::ff/64 dev br0 nodad\n"
        );
        for (pod, n) in [(&world.client.0, 1), (&world.server.0, 2)] {
            script.push_str(&format!(
                "ip netns add {pod}\nip -n {hub} link add v{n} type veth peer name eth0 netns {pod}\n\
                 ip -n {hub} link set v{n} master br0 up\nip -n {pod} addr add 10.201.0.{n}/24 dev eth0\n\
                 ip -n {pod} -6 addr add fd77::{n}/64 dev eth0 nodad\nip -n {pod} link set lo up\n\
                 ip -n {pod} link set eth0 up\nip -n {pod} route add default via 10.201.0.254\n\
                 ip -n {pod} -6 route add default via fd77::ff\n"
            ));
        }
        let made = Command::new("sh").args(["-ec", &script]).stderr(Stdio::inherit()).status().unwrap();
        assert!(made.success(), "the namespaces cannot be made");
        world
    }

    /// Tells a story in the hub, where pilot and authority are, on a runtime whose threads are there too; blocks.
    pub fn run(self, story: impl FnOnce(Self, &tokio::runtime::Runtime) + Send + 'static) {
        let hub = self.hub.clone();
        let thread = std::thread::spawn(move || {
            hub.enter();
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .on_thread_start(move || hub.enter())
                .enable_all()
                .build()
                .unwrap();
            story(self, &runtime);
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for namespace in [&self.client, &self.server, &self.hub] {
            let _ = Command::new("ip").args(["netns", "del", &namespace.0]).status();
        }
    }
}
