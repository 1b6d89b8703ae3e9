//! Binding and accepting.
//!
//! An accept loop ends only by its [`DrainWatch`]: out of file descriptors it waits, and what had already been queued by
//! the kernel when the drain began is still served.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use crate::drain::DrainWatch;

/// Connections that the kernel may hold for us.
const BACKLOG: i32 = 1024;
/// How long to wait for a file descriptor to come free.
const OUT_OF_FILES: Duration = Duration::from_millis(50);

/// Binds and listens. With `shared`, other workers may bind the same address.
///
/// # Errors
/// What the kernel says.
pub fn bind(address: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    listen(socket, address, shared)
}

/// Binds `socket`, which may have options already, and listens.
pub(super) fn listen(socket: Socket, address: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts until the drain begins, then empties the kernel's queue and closes.
pub async fn accept_loop(
    listener: TcpListener,
    drain: DrainWatch,
    mut serve: impl FnMut(TcpStream, SocketAddr),
) {
    let _live = drain.listen();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = drain.closing() => break,
        };
        match accepted {
            Ok((stream, peer)) => ready(stream, peer, &mut serve),
            Err(error) => pause(&error).await,
        }
    }
    let Ok(listener) = listener.into_std() else { return };
    while let Ok((stream, peer)) = listener.accept() {
        if stream.set_nonblocking(true).is_ok()
            && let Ok(stream) = TcpStream::from_std(stream)
        {
            ready(stream, peer, &mut serve);
        }
    }
}

fn ready(stream: TcpStream, peer: SocketAddr, serve: &mut impl FnMut(TcpStream, SocketAddr)) {
    // Fails only for a socket that is closed already, which its first read will tell.
    let _ = stream.set_nodelay(true);
    serve(stream, peer);
}

/// An accept error is about one connection, except when resources ran out: then trying at once would spin.
async fn pause(error: &io::Error) {
    use nix::errno::Errno;
    let out = [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM].map(|e| e as i32);
    if error.raw_os_error().is_some_and(|e| out.contains(&e)) {
        tracing::warn!(%error, "cannot accept connections; waiting");
        tokio::time::sleep(OUT_OF_FILES).await;
    } else {
        tracing::debug!(%error, "a connection was lost before it was accepted");
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use tokio::task::LocalSet;

    use super::*;
    use crate::drain::{Drain, Drained};

    #[tokio::test]
    async fn serves_what_was_queued_when_the_drain_began() {
        let listener = bind("127.0.0.1:0".parse().unwrap(), false).unwrap();
        let address = listener.local_addr().unwrap();
        let mut clients = Vec::new();
        for _ in 0..20 {
            clients.push(std::net::TcpStream::connect(address).unwrap());
        }
        let drain = Drain::new();
        drain.begin();
        let served = Rc::new(RefCell::new(Vec::new()));
        let local = LocalSet::new();
        local
            .run_until(accept_loop(TcpListener::from_std(listener).unwrap(), drain.watch(), {
                let served = served.clone();
                move |stream, _| served.borrow_mut().push(stream)
            }))
            .await;
        assert_eq!(served.borrow().len(), 20);
        assert!(std::net::TcpStream::connect(address).is_err());
        assert_eq!(drain.drained(Duration::from_secs(1)).await, Drained::Empty);
    }

    /// It ends no loop, and is not tried again at once.
    #[tokio::test(start_paused = true)]
    async fn h12_running_out_of_files_is_waited_out() {
        let waited = async |error: nix::errno::Errno| {
            let began = tokio::time::Instant::now();
            pause(&io::Error::from_raw_os_error(error as i32)).await;
            began.elapsed()
        };
        use nix::errno::Errno::{ECONNABORTED, EMFILE, ENFILE, ENOMEM, EPROTO};
        for error in [EMFILE, ENFILE, ENOMEM] {
            assert_eq!(waited(error).await, OUT_OF_FILES, "{error}");
        }
        for error in [ECONNABORTED, EPROTO] {
            assert_eq!(waited(error).await, Duration::ZERO, "{error}");
        }
    }

    #[tokio::test]
    async fn workers_share_an_address() {
        let first = bind("127.0.0.1:0".parse().unwrap(), true).unwrap();
        let address = first.local_addr().unwrap();
        bind(address, true).unwrap();
        assert!(bind(address, false).is_err());
    }
}
