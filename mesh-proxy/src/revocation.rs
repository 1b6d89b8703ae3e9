//! The mTLS connections of this worker, both ways, by who is at the other end: those of an identity that is revoked end at
//! once, whatever they carry.
//!
//! In: each connection, while it lives. Out: [`end`] shuts sockets down; whoever reads or writes there sees the end. A
//! worker is a thread, and a connection never leaves it: the table is the thread's.

use std::cell::RefCell;
use std::collections::HashMap;
use std::os::fd::{AsRawFd as _, RawFd};
use std::sync::Arc;

use mesh_proto::model::SpiffeId;
use mesh_proto::runtime::identity::{MeshTls, Roots};
use nix::sys::socket::{Shutdown, shutdown};

use crate::io::Io;

thread_local! {
    static LIVE: RefCell<Live> = RefCell::default();
}

#[derive(Default)]
struct Live {
    next: u64,
    connections: HashMap<u64, (SpiffeId, RawFd)>,
    /// By which connections were ended last: one whose handshake was under way then ends when it comes.
    roots: Arc<Roots>,
    tls: Arc<MeshTls>,
}

/// One of them; gone from the table when dropped, which is before its socket closes.
#[derive(Debug)]
pub struct Entry(u64);

impl Drop for Entry {
    fn drop(&mut self) {
        // At the end of the thread the table may be gone first.
        let _ = LIVE.try_with(|live| live.borrow_mut().connections.remove(&self.0));
    }
}

/// `io`, known to have `peer` at its other end for as long as it lives.
#[must_use]
pub fn watched(io: Io, peer: Option<&SpiffeId>) -> Io {
    let (Some(peer), Some(socket)) = (peer, io.tcp().map(|tcp| tcp.as_raw_fd())) else { return io };
    let id = LIVE.with_borrow_mut(|live| {
        live.next += 1;
        live.connections.insert(live.next, (peer.clone(), socket));
        if live.tls.is_tainted(&live.roots, peer) {
            close(socket);
        }
        live.next
    });
    io.watched(Entry(id))
}

/// Ends every connection to whom `roots` refuse by name, whatever name of our trust domain it has in `tls`; how many.
pub fn end(roots: &Arc<Roots>, tls: &Arc<MeshTls>) -> usize {
    LIVE.with_borrow_mut(|live| {
        (live.roots, live.tls) = (roots.clone(), tls.clone());
        let ended = live.connections.values().filter(|(peer, _)| tls.is_tainted(roots, peer));
        ended.map(|(_, socket)| close(*socket)).count()
    })
}

fn close(socket: RawFd) {
    // An error means that the peer has ended it already.
    let _ = shutdown(socket, Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mesh_proto::runtime::testing::TestCa;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn open(listener: &TcpListener, peer: &SpiffeId) -> (Io, TcpStream) {
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (other, _) = listener.accept().await.unwrap();
        (watched(Io::Plain(tcp), Some(peer)), other)
    }

    #[tokio::test]
    async fn connections_to_whom_is_refused_end_and_others_do_not() {
        let id = |account: &str| format!("spiffe://td/ns/default/sa/{account}").parse::<SpiffeId>().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (mut a, mut far_a) = open(&listener, &id("a")).await;
        let (mut b, mut far_b) = open(&listener, &id("b")).await;
        let (gone, _far) = open(&listener, &id("a")).await;
        drop(gone);
        let ca = TestCa::of("td");
        let domain = "td".parse().unwrap();
        let tainted =
            |ids: &[SpiffeId]| Arc::new(ca.roots().with_tainted(&domain, ids.iter().cloned().collect()));
        let plain = Arc::default();
        assert_eq!(end(&tainted(&[id("a")]), &plain), 1, "what is closed is not in the table");
        let mut byte = [0];
        let read = tokio::time::timeout(Duration::from_secs(5), a.read(&mut byte)).await.unwrap();
        assert_eq!(read.unwrap(), 0);
        assert_eq!(far_a.read(&mut byte).await.unwrap(), 0);
        b.write_all(b"x").await.unwrap();
        assert_eq!(far_b.read(&mut byte).await.unwrap(), 1);
        // A handshake that was under way when the others were ended.
        let (mut late, _far) = open(&listener, &id("a")).await;
        assert_eq!(late.read(&mut byte).await.unwrap(), 0);
        drop((a, late));
        // By another name of its trust domain: only where that is one.
        let (mut old, _far) = open(&listener, &"spiffe://old/ns/default/sa/a".parse().unwrap()).await;
        assert_eq!(end(&tainted(&[id("a")]), &plain), 0);
        let names = ["td", "old"].map(|name| name.parse().unwrap()).to_vec();
        let aliased = Arc::new(MeshTls { trust_domains: names, ..MeshTls::default() });
        assert_eq!(end(&tainted(&[id("a")]), &aliased), 1);
        assert_eq!(old.read(&mut byte).await.unwrap(), 0);
        drop((b, old));
        assert_eq!(end(&tainted(&[id("a"), id("b")]), &plain), 0);
    }
}
