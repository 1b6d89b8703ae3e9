//! A network namespace without a name: it lives as long as a process in it, or a file that is open here (namespaces(7)).
//!
//! In: a path (`/proc/PID/fd/N`, the open file of the supervisor). Out: threads, sockets and programs that are inside. Only
//! threads of their own ever enter: the supervisor itself stays where it is.

use std::fs::File;
use std::io;
use std::net::SocketAddrV4;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};

/// A namespace that this process keeps.
#[derive(Debug)]
pub struct Netns {
    file: File,
}

impl Netns {
    /// Makes one, empty.
    ///
    /// # Errors
    /// What the kernel says; EPERM without `CAP_SYS_ADMIN`.
    pub fn create() -> io::Result<Self> {
        let file = apart(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        })?;
        Ok(Self { file })
    }

    /// Where others find it while this process has it open.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()).into()
    }

    /// Does something inside.
    ///
    /// # Errors
    /// What it says itself, or that it could not enter.
    pub fn within<T, E>(&self, what: impl FnOnce() -> Result<T, E> + Send) -> Result<T, E>
    where
        T: Send,
        E: From<io::Error> + Send,
    {
        apart(|| {
            setns(&self.file, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
            what()
        })
    }
}

/// Runs on a thread of its own, which may go where it likes.
fn apart<T: Send, E: From<io::Error> + Send>(what: impl FnOnce() -> Result<T, E> + Send) -> Result<T, E> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, what)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Moves this thread into a namespace; what it executes is there too.
///
/// # Errors
/// When there is none at this path, or what the kernel says.
pub fn enter(path: &Path) -> io::Result<()> {
    Ok(setns(File::open(path)?, CloneFlags::CLONE_NEWNET)?)
}

/// Shows this process `file` where the path `over` is, and nobody else.
///
/// # Errors
/// What the kernel says.
pub fn see_as(files: &[(&Path, &str)]) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none: Option<&str> = None;
    // What the machine mounts later is seen; what is mounted here is not seen by the machine.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)?;
    for (file, over) in files {
        // A machine without such a file needs no other one: nothing reads it.
        if Path::new(over).exists() {
            mount(Some(*file), *over, none, MsFlags::MS_BIND, none)?;
        }
    }
    Ok(())
}

/// A connection from within a namespace. A socket belongs to the namespace where it was made, wherever it is used.
///
/// # Errors
/// When the namespace is gone, or nobody listens.
pub async fn connect(path: &Path, to: SocketAddrV4) -> io::Result<TcpStream> {
    let socket = apart(|| {
        enter(path)?;
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        io::Result::Ok(socket)
    })?;
    TcpSocket::from_std_stream(socket.into()).connect(to.into()).await
}
