//! `up --netns`: programs that know nothing of the mesh are in it. Needs root, iproute2, nftables or iptables, and curl; says
//! so and passes where something is missing.

use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::support::sniff::Sniffer;
use super::support::{BASE, Mesh, eventually, text};

const FILES: &[(&str, &str)] = &[("netns.yaml", include_str!("support/netns.yaml"))];

/// Why this machine cannot run such a mesh.
fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root".to_owned());
    }
    let there = |program: &str| found(program).is_some();
    if let Some(program) = ["ip", "curl", "bash"].into_iter().find(|program| !there(program)) {
        return Some(format!("{program} is not installed"));
    }
    if !there("nft") && !there("iptables-restore") {
        return Some("neither nft nor iptables is installed".to_owned());
    }
    let made = std::thread::spawn(|| nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET));
    made.join().unwrap().err().map(|error| format!("network namespaces cannot be made: {error}"))
}

/// A mesh with namespaces, where that is possible.
fn up(files: &[(&str, &str)]) -> Option<Mesh> {
    match missing() {
        None => Some(Mesh::up(files, &["--netns"])),
        Some(why) => {
            eprintln!("SKIPPED: `meshctl up --netns` is not tested here: {why}");
            None
        }
    }
}

/// What a program in an instance prints; `None` when it fails.
fn within(mesh: &Mesh, instance: &str, program: &[&str]) -> Option<String> {
    let arguments = [&["exec", instance, "--name", mesh.name(), "--"], program].concat();
    let output = super::support::meshctl(&arguments);
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// What an unchanged curl in an instance gets.
fn curl(mesh: &Mesh, instance: &str, url: &str) -> Option<Value> {
    let told = within(mesh, instance, &["curl", "-sS", "-g", "-f", "-m", "20", url])?;
    Some(serde_json::from_str(&told).unwrap_or_else(|error| panic!("{error}: {told}")))
}

/// What curl on the machine, outside of the mesh, gets.
fn curl_from_outside(arguments: &[&str]) -> Option<Value> {
    let output = Command::new("curl").args(["-sS", "-f", "-m", "10"]).args(arguments).output().unwrap();
    output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
}

fn pod_of(mesh: &Mesh, workload: &str) -> Ipv4Addr {
    mesh.pod_ip(workload)
}

/// curl, names, a server that speaks first, STRICT in between, the gateway from outside.
#[test]
fn any_program_is_in_the_mesh() {
    let Some(mesh) = up(FILES) else { return };
    let by = "spiffe://cluster.local/ns/default/sa/client";
    for name in ["web", "web.default", "web.default.svc", "web.default.svc.cluster.local"] {
        let answer = curl(&mesh, "client-0", &format!("http://{name}/")).expect(name);
        assert_eq!((&answer["workload"], &answer["peer"]), (&"web".into(), &by.into()), "{answer}");
        assert_eq!(answer["client"], "127.0.0.6", "the sidecar is between: {answer}");
    }
    let pod = pod_of(&mesh, "web");
    let direct = curl(&mesh, "client-0", &format!("http://{pod}/")).expect("by pod address");
    assert_eq!((&direct["instance"], &direct["peer"]), (&"web-0".into(), &by.into()));
    // STRICT: what has no certificate does not get in, on whatever port.
    assert_eq!(curl_from_outside(&[&format!("http://{pod}/")]), None);
    let listen = "exec 3<>/dev/tcp/greeter/7000 && read -t 20 line <&3 && echo \"$line\"";
    assert_eq!(within(&mesh, "client-0", &["bash", "-c", listen]).as_deref(), Some("I speak first"));
    let gateway = pod_of(&mesh, "istio-ingressgateway");
    let at = format!("http://{gateway}/");
    let answer = curl_from_outside(&["-H", "host: front.example.com", &at]).expect("through the gateway");
    assert_eq!(answer["workload"], "web");
    assert_eq!(mesh.one(&["http://front.example.com/", "--via", "front"])["status"], 200);
    assert_eq!(mesh.statuses(&["http://web/", "--from", "by-port", "-n", "3"]), [200; 3]);
    ipv6_is_captured(&mesh);
    names_come_and_go(&mesh);
    transparent_to_the_application(&mesh);
    what_is_excluded_goes_past(&mesh);
}

/// Services have an IPv6 address too, and so have pods.
fn ipv6_is_captured(mesh: &Mesh) {
    let place = mesh.instances("seen").remove(0)["place"].clone();
    let Some(seen6) = place["pod_ip6"].as_str() else {
        return eprintln!("SKIPPED: this machine has no IPv6");
    };
    let by = "spiffe://cluster.local/ns/default/sa/client";
    let client6 = mesh.instances("client").remove(0)["place"]["pod_ip6"].clone();
    let answer = curl(mesh, "client-0", &format!("http://[{seen6}]:8080/")).expect("by pod address");
    assert_eq!((&answer["peer"], &answer["client"]), (&by.into(), &client6), "TPROXY: {answer}");
    let get = ["curl", "-6", "-sS", "-f", "-m", "20", "http://web/"];
    let answer = within(mesh, "client-0", &get).expect("by the service's name");
    assert!(answer.contains(by), "{answer}");
    // STRICT holds there too.
    assert_eq!(curl_from_outside(&["-g", &format!("http://[{seen6}]:8080/")]), None);
}

fn names_come_and_go(mesh: &Mesh) {
    let service = "{apiVersion: v1, kind: Service, metadata: {name: late}, spec: {selector: {app: web}, ports: [{name: \
                   http, port: 80}]}}";
    let resolves = || within(mesh, "client-0", &["getent", "hosts", "late"]);
    assert_eq!(resolves(), None);
    mesh.write("late.yaml", service);
    eventually("the new name is there", || resolves().ok_or_else(String::new));
    assert!(curl(mesh, "client-0", "http://late/").is_some());
    mesh.delete("late.yaml");
    eventually("the old name is gone", || resolves().map_or(Ok(()), Err));
}

fn transparent_to_the_application(mesh: &Mesh) {
    let client = pod_of(mesh, "client");
    let answer = curl(mesh, "client-0", "http://seen:8080/").expect("by TPROXY");
    assert_eq!(answer["client"], client.to_string(), "{answer}");
    assert!(answer["peer"].is_string(), "through the mesh: {answer}");
}

/// Pairs that differ in the annotation alone.
fn what_is_excluded_goes_past(mesh: &Mesh) {
    let web = pod_of(mesh, "web");
    let open = format!("http://{web}:9999/");
    assert!(curl_from_outside(&[&open]).is_some(), "excludeInboundPorts: nobody asks for a certificate");
    for (instance, workload) in [("by-port-0", "by-port"), ("by-range-0", "by-range")] {
        let answer = curl(mesh, instance, &open).expect("past the sidecar");
        let own = pod_of(mesh, workload).to_string();
        assert_eq!((&answer["client"], &answer["peer"]), (&own.into(), &Value::Null), "{instance}");
    }
    // Other ports are in the mesh still; a range that holds the services' addresses leads nowhere else.
    assert!(curl(mesh, "by-port-0", "http://web/").is_some_and(|answer| answer["peer"].is_string()));
    assert_eq!(curl(mesh, "by-range-0", &format!("http://{web}/")), None, "plaintext into STRICT");
}

const DENIED: &str = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: { name: denied }\nspec:\n  \
                      selector: { matchLabels: { app: web } }\n  action: DENY\n  \
                      rules: [{ to: [{ operation: { paths: [/denied] } }] }]\n";

/// A packet sniffer on the bridge sees no plaintext; what is excluded shows that it would.
#[test]
fn no_plaintext_between_instances() {
    let Some(mesh) = up(FILES) else { return };
    let hub = mesh.status()["mesh"]["hub"].as_str().expect("a hub").to_owned();
    let web = pod_of(&mesh, "web");
    let sniffed = |instance: &str, url: &str| {
        let sniffer = Sniffer::start(&hub, "c4n4ry-in-a-header");
        for _ in 0..5 {
            let send = ["curl", "-sS", "-f", "-m", "20", "-H", "x-canary: c4n4ry-in-a-header", url];
            let told = within(&mesh, instance, &send).expect("an answer");
            assert!(told.contains("c4n4ry-in-a-header"), "{told}");
        }
        sniffer.end()
    };
    let meshed = sniffed("client-0", "http://web/");
    assert!(meshed.packets > 10 && !meshed.seen, "{meshed:?}");
    // Nor of what a policy denies.
    mesh.write("denied.yaml", DENIED);
    let codes = || {
        let each = ["curl", "-s", "-m", "20", "-o", "/dev/null", "-w", "%{http_code} "];
        let send =
            ["-H", "x-canary: c4n4ry-in-a-header", "-d", "c4n4ry-in-a-header", "http://web/denied?[1-9]"];
        within(&mesh, "client-0", &[&each[..], &send[..]].concat()).expect("answers")
    };
    eventually("each instance denies", || {
        let codes = codes();
        if codes == ["403"; 9].join(" ") { Ok(()) } else { Err(codes) }
    });
    let sniffer = Sniffer::start(&hub, "c4n4ry-in-a-header");
    assert_eq!(codes(), ["403"; 9].join(" "));
    let denied = sniffer.end();
    assert!(denied.packets > 10 && !denied.seen, "{denied:?}");
    let plain = sniffed("by-port-0", &format!("http://{web}:9999/"));
    assert!(plain.seen, "{plain:?}");
}

/// Replicas stopped (drained) and started in turn, while curl asks without retries of its own: none is lost.
#[test]
fn a_replica_that_stops_loses_nothing() {
    let Some(mesh) = up(FILES) else { return };
    let done = AtomicBool::new(false);
    let asked = std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut codes = Vec::new();
            while !done.load(Ordering::Relaxed) {
                let each = ["-s", "-o", "/dev/null", "-w", "%{http_code}\n", "-H", "connection: close"];
                let each = [&["curl"], &each[..], &["http://web/?[1-100]"]].concat();
                let told = within(&mesh, "client-0", &each).expect("no connection fails");
                codes.extend(told.lines().map(str::to_owned));
            }
            codes
        });
        for instance in ["web-0", "web-1", "web-2"] {
            mesh.must(&["stop", instance]);
            assert_eq!(within(&mesh, instance, &["true"]), None, "{instance} is stopped");
            mesh.must(&["start", instance]);
            eventually("it is ready", || {
                let found = mesh.instances("web").into_iter().find(|i| i["name"] == instance);
                let state = found.map(|i| i["state"].to_string()).unwrap_or_default();
                if state == "\"ready\"" { Ok(()) } else { Err(state) }
            });
        }
        done.store(true, Ordering::Relaxed);
        load.join().expect("the load ends")
    });
    let lost = asked.iter().filter(|code| *code != "200").count();
    assert_eq!((lost, asked.len() >= 100), (0, true), "of {}", asked.len());
}

/// The network namespaces (by inode) of the mesh, and this machine's link to it.
fn traces(mesh: &Mesh) -> (Vec<String>, String) {
    let told = mesh.status()["mesh"].clone();
    let instances = told["workloads"].as_array().cloned().unwrap_or_default();
    let instances = instances.iter().flat_map(|w| w["instances"].as_array().cloned().unwrap_or_default());
    let paths: Vec<String> = instances
        .map(|i| i["place"]["netns"].as_str().expect("a namespace").to_owned())
        .chain([told["hub"].as_str().expect("a hub").to_owned()])
        .collect();
    let inode = |path: &String| std::fs::read_link(path).expect("it is open").display().to_string();
    let network = told["network"].as_str().expect("a network").to_owned();
    let link = format!("/sys/class/net/mesh-{}", network.split('.').nth(1).expect("10.N.0.0/16"));
    assert!(std::path::Path::new(&link).exists(), "{link}");
    (paths.iter().map(inode).collect(), link)
}

/// Whether neither link nor a process in one of the namespaces is left.
fn nothing_of((namespaces, link): &(Vec<String>, String)) -> Result<(), String> {
    if std::path::Path::new(link).exists() {
        return Err(format!("{link} is still there"));
    }
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let at = std::fs::read_link(process.path().join("ns/net")).unwrap_or_default();
        if namespaces.contains(&at.display().to_string()) {
            return Err(format!("{} is still in {}", process.path().display(), at.display()));
        }
    }
    Ok(())
}

/// `down` leaves no namespace and no link, and neither does a supervisor that was killed.
#[test]
fn no_namespace_is_left() {
    let Some(mesh) = up(&[("base.yaml", BASE)]) else { return };
    let (first, supervisor) = (traces(&mesh), mesh.status()["mesh"]["pid"].as_i64().unwrap());
    kill(Pid::from_raw(i32::try_from(supervisor).unwrap()), Signal::SIGKILL).unwrap();
    eventually("the kernel has taken everything away", || nothing_of(&first));
    mesh.must(&["up", &mesh.dir().display().to_string(), "--detach", "--netns"]);
    let second = traces(&mesh);
    assert!(curl(&mesh, "client-0", "http://web/").is_some());
    mesh.must(&["down"]);
    eventually("nothing is left", || nothing_of(&second));
}

/// A program that listens where it likes, under a probe that STRICT would refuse; and iptables where there is no nft.
#[test]
fn a_program_of_ones_own_with_iptables() {
    const YAML: &str = include_str!("support/own.yaml");
    let paths: Vec<_> =
        ["ip", "iptables-restore", "iptables-save", "ip6tables-restore", "ip6tables-save", "perl", "bash"]
            .into_iter()
            .map(|program| (program, found(program)))
            .collect();
    let absent =
        paths.iter().find(|(_, path)| path.is_none()).map(|(name, _)| format!("{name} is not installed"));
    if let Some(why) = missing().or(absent) {
        return eprintln!("SKIPPED: `meshctl up --netns` with iptables is not tested here: {why}");
    }
    let bin = tempfile::tempdir().unwrap();
    for (program, path) in paths {
        std::os::unix::fs::symlink(path.unwrap(), bin.path().join(program)).unwrap();
    }
    let mesh = Mesh::up_with(&[("own.yaml", YAML)], &["--netns"], &[("PATH", bin.path().as_os_str())]);
    let answer = within(&mesh, "client-0", &["curl", "-sS", "-f", "-m", "20", "http://own/"]);
    assert_eq!(answer.as_deref(), Some("hello from perl"));
    let pod = pod_of(&mesh, "own");
    let outside =
        Command::new("curl").args(["-sS", "-f", "-m", "10", &format!("http://{pod}/")]).output().unwrap();
    assert!(!outside.status.success(), "STRICT");
    let rules = within(&mesh, "own-0", &["sh", "-c", "iptables-save; ip6tables-save"]).unwrap();
    assert!(rules.contains("MESH_"), "{rules}");
}

/// Where a program is.
fn found(program: &str) -> Option<String> {
    let output = Command::new("sh").args(["-c", &format!("command -v {program}")]).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// An annotation that makes no sense stops its workload, by name; others go on.
#[test]
fn a_wrong_annotation_is_named() {
    let wrong = BASE.replacen(
        "metadata: { labels: { app: web, version: v1 } }",
        "metadata: { labels: { app: web, version: v1 }, annotations: { traffic.sidecar.istio.io/excludeOutboundPorts: \"80;90\" } }",
        1,
    );
    let Some(mesh) = up(&[("base.yaml", &wrong)]) else { return };
    let instance = mesh.instances("web").remove(0);
    let why = instance["reason"].as_str().unwrap_or_default();
    assert!(instance["state"] == "failed" && why.contains("excludeOutboundPorts"), "{instance}");
    assert_eq!(mesh.statuses(&["http://api:8080/"]), [200]);
}

/// Without root or without namespaces the answer says what to do.
#[test]
fn what_is_not_possible_says_what_to_do() {
    if nix::unistd::geteuid().is_root() {
        let nobody = Command::new(env!("CARGO_BIN_EXE_meshctl"))
            .args(["up", "--netns", "--detach", "--name", "nobody"])
            .uid(65534)
            .gid(65534)
            .current_dir("/")
            .output();
        match nobody {
            Ok(output) => {
                let told = text(&output);
                assert!(!output.status.success() && told.contains("sudo meshctl up --netns"), "{told}");
            }
            Err(error) => eprintln!("SKIPPED: another user cannot run this build: {error}"),
        }
    }
    let mesh = Mesh::up(
        &[(
            "base.yaml",
            &BASE.replacen(
                "labels: { app: web, version: v1 }",
                "labels: { app: web, version: v1 }, annotations: \
            { sidecar.istio.io/interceptionMode: TPROXY }",
                1,
            ),
        )],
        &[],
    );
    let output = super::support::meshctl(&["exec", "web-0", "--name", mesh.name(), "--", "true"]);
    assert!(!output.status.success() && text(&output).contains("without --netns"), "{}", text(&output));
    let notices = mesh.status()["mesh"]["notices"].to_string();
    assert!(
        notices.contains("sidecar.istio.io/interceptionMode") && notices.contains("--netns"),
        "{notices}"
    );
}
