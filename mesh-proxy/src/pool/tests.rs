//! The pool over real sockets: what lies idle, and for how long.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::LocalSet;

use super::*;

/// Answers every head with 200; counts connections.
async fn upstream() -> (SocketAddr, Rc<Cell<usize>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = Rc::new(Cell::new(0));
    let counted = count.clone();
    tokio::task::spawn_local(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            counted.set(counted.get() + 1);
            tokio::task::spawn_local(async move {
                let mut chunk = [0; 4096];
                while tcp.read(&mut chunk).await.is_ok_and(|n| n > 0) {
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                    if tcp.write_all(answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, count)
}

fn target(address: SocketAddr, tls: u64) -> Target {
    Target {
        key: PoolKey::new("a.test:80".parse().unwrap(), Arc::from("uid"), Protocol::Http1, tls, None),
        address,
        tls: None,
        source: None,
        connect_timeout: Duration::from_secs(5),
        idle_timeout: Duration::from_secs(10),
        max_requests: None,
        greeting: None,
    }
}

fn get() -> Request<Body> {
    Request::get("/").header("host", "a").body(Body::empty()).unwrap()
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, test);
}

#[test]
fn connections_are_shared_by_equal_keys_only() {
    run(async {
        let (address, count) = upstream().await;
        let pool = Pool::new();
        for generation in [0, 0, 1, 0, 1] {
            // Keys made anew each time: they are compared by content.
            assert_eq!(pool.send(&target(address, generation), get()).await.unwrap().status(), 200);
        }
        assert_eq!((count.get(), pool.idle()), (2, 2));
    });
}

#[test]
fn idle_connections_are_closed_in_time_and_keys_forgotten() {
    run(async {
        let (address, count) = upstream().await;
        let pool = Pool::new();
        pool.send(&target(address, 0), get()).await.unwrap();
        assert_eq!(pool.idle(), 1);
        tokio::time::pause();
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(pool.idle(), 1);
        tokio::time::sleep(Duration::from_secs(7)).await;
        assert_eq!(pool.idle(), 0);
        assert!(pool.0.slots.borrow().is_empty());
        tokio::time::resume();
        pool.send(&target(address, 0), get()).await.unwrap();
        assert_eq!(count.get(), 2);
        assert!(pool.0.swept.get(), "the sweeper runs again");
    });
}

#[test]
fn a_raw_connection_is_nobody_elses() {
    run(async {
        let (address, count) = upstream().await;
        let pool = Pool::new();
        let mut raw = pool.connect_raw(&target(address, 0)).await.unwrap();
        raw.write_all(b"x").await.unwrap();
        let mut answer = [0; 12];
        raw.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        assert_eq!((count.get(), pool.idle()), (1, 0));
    });
}

#[test]
fn a_connect_that_takes_too_long_times_out() {
    run(async {
        // A listener that is never accepted from does connect; TLS on it never answers.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut target = target(listener.local_addr().unwrap(), 0);
        target.connect_timeout = Duration::from_millis(50);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        target.tls = Some((Arc::new(config), "a.test".try_into().unwrap()));
        let error = Pool::new().send(&target, get()).await.unwrap_err();
        assert_eq!(error.kind, SendErrorKind::ConnectTimeout);
        assert!(error.kind.is_safe_to_repeat() && error.request.is_some());
    });
}

/// A request that is dropped in the middle takes its connection with it.
#[test]
fn an_abandoned_request_closes_its_connection() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = target(listener.local_addr().unwrap(), 0);
        let pool = Pool::new();
        let sending = pool.send(&target, get());
        let accepted = async {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let mut head = [0; 16];
            tcp.read_exact(&mut head).await.unwrap();
            tcp
        };
        let mut tcp = tokio::select! {
            _ = sending => panic!("nothing was answered"),
            tcp = accepted => tcp,
        };
        let mut rest = Vec::new();
        tcp.read_to_end(&mut rest).await.unwrap();
        assert_eq!(pool.idle(), 0);
        drop(Bytes::from(rest));
    });
}
