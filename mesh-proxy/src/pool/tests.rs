//! The pool over real sockets: what lies idle, and for how long.

use std::cell::Cell;
use std::num::NonZeroU32;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use mesh_proto::wire::mesh::v1 as wire;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::LocalSet;

use super::*;
use crate::cluster::limits::LimitSettings;

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
        key: PoolKey::new("a.test:80".parse().unwrap(), Arc::from("uid"), Protocol::Http1, tls, &[]),
        address,
        tls: None,
        source: None,
        mesh: false,
        connect_timeout: Duration::from_secs(5),
        idle_timeout: Duration::from_secs(10),
        max_requests: None,
        connections: ConnectionSettings::default(),
        limits: None,
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

/// Answers each head once it may.
async fn gated() -> (SocketAddr, Rc<Cell<usize>>, Rc<tokio::sync::Semaphore>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (count, gate) = (Rc::new(Cell::new(0)), Rc::new(tokio::sync::Semaphore::new(0)));
    let (counted, gated) = (count.clone(), gate.clone());
    tokio::task::spawn_local(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            counted.set(counted.get() + 1);
            let gate = gated.clone();
            tokio::task::spawn_local(async move {
                let mut chunk = [0; 4096];
                while tcp.read(&mut chunk).await.is_ok_and(|n| n > 0) {
                    gate.acquire().await.unwrap().forget();
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                    if tcp.write_all(answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, count, gate)
}

fn limited(address: SocketAddr, wire: &wire::Limits) -> (Target, Arc<Limits>) {
    let limits = Arc::new(Limits::default());
    limits.configure(&LimitSettings::new(wire));
    let mut target = target(address, 0);
    target.limits = Some(limits.clone());
    (target, limits)
}

fn spawn(pool: &Pool, target: &Target) -> tokio::task::JoinHandle<Result<u16, SendErrorKind>> {
    let (pool, target) = (pool.clone(), target.clone());
    tokio::task::spawn_local(async move {
        let sent = pool.send(&target, get()).await;
        sent.map(|response| response.status().as_u16()).map_err(|error| {
            assert!(error.request.is_some());
            error.kind
        })
    })
}

async fn until(what: impl Fn() -> bool) {
    let patience = Duration::from_secs(20);
    let waited = tokio::time::timeout(patience, async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    waited.await.expect("in time");
}

/// Istio's circuit breaking task: one connection, one that waits; whoever comes then is refused at once.
#[test]
fn one_is_served_one_waits_and_the_third_overflows() {
    for max_requests in [None, Some(1)] {
        run(async {
            let (address, connections, gate) = gated().await;
            let numbers = wire::Limits {
                max_connections: Some(1),
                max_pending_requests: Some(1),
                ..Default::default()
            };
            let (mut target, limits) = limited(address, &numbers);
            target.max_requests = max_requests;
            let pool = Pool::new();
            let first = spawn(&pool, &target);
            until(|| limits.active(Resource::Requests) == 1).await;
            let second = spawn(&pool, &target);
            until(|| limits.active(Resource::Pending) == 1).await;
            let third = spawn(&pool, &target).await.unwrap();
            assert_eq!(third, Err(SendErrorKind::Overflow(Overflow::Pending)));
            gate.add_permits(2);
            assert_eq!((first.await.unwrap(), second.await.unwrap()), (Ok(200), Ok(200)));
            // With one request a connection, the one that waited got the next connection.
            assert_eq!(connections.get(), if max_requests.is_some() { 2 } else { 1 });
            assert_eq!(limits.refused(Resource::Pending), 1);
            assert_eq!((limits.active(Resource::Pending), limits.active(Resource::Requests)), (0, 0));
            let left = if max_requests.is_some() { 0 } else { 1 };
            assert_eq!(limits.active(Resource::Connections), left);
        });
    }
}

/// Whoever asks again as soon as it has its answer does not meet the one that was pending meanwhile.
#[test]
fn the_one_that_waits_goes_on_before_the_answer_is_seen() {
    for max_requests in [None, Some(1)] {
        run(async {
            let (address, _, gate) = gated().await;
            let one = Some(1);
            let numbers =
                wire::Limits { max_connections: one, max_pending_requests: one, ..Default::default() };
            let (mut target, limits) = limited(address, &numbers);
            target.max_requests = max_requests;
            let pool = Pool::new();
            let first = {
                let (pool, target, limits) = (pool.clone(), target.clone(), limits.clone());
                tokio::task::spawn_local(async move {
                    pool.send(&target, get()).await.unwrap();
                    limits.active(Resource::Pending)
                })
            };
            until(|| limits.active(Resource::Requests) == 1).await;
            let second = spawn(&pool, &target);
            until(|| limits.active(Resource::Pending) == 1).await;
            gate.add_permits(2);
            assert_eq!(first.await.unwrap(), 0);
            assert_eq!(second.await.unwrap(), Ok(200));
        });
    }
}

/// While a connection is being opened for it, a request is pending: a burst on a cold pool overflows, as Envoy's does.
#[test]
fn a_burst_on_a_cold_pool_overflows() {
    run(async {
        let (address, _, gate) = gated().await;
        let (target, _) =
            limited(address, &wire::Limits { max_pending_requests: Some(1), ..Default::default() });
        let pool = Pool::new();
        let all: Vec<_> = (0..3).map(|_| spawn(&pool, &target)).collect();
        gate.add_permits(3);
        let mut statuses = Vec::new();
        for one in all {
            statuses.push(one.await.unwrap());
        }
        assert_eq!(statuses.iter().filter(|status| **status == Ok(200)).count(), 1, "{statuses:?}");
    });
}

#[test]
fn requests_and_raw_connections_have_limits_of_their_own() {
    run(async {
        let (address, _, gate) = gated().await;
        let numbers = wire::Limits { max_requests: Some(1), max_connections: Some(2), ..Default::default() };
        let (target, limits) = limited(address, &numbers);
        let pool = Pool::new();
        let first = spawn(&pool, &target);
        until(|| limits.active(Resource::Requests) == 1).await;
        let second = spawn(&pool, &target).await.unwrap();
        assert_eq!(second, Err(SendErrorKind::Overflow(Overflow::Requests)));
        gate.add_permits(1);
        assert_eq!(first.await.unwrap(), Ok(200));
        // The two connections are idle in the pool, and count.
        assert_eq!(limits.active(Resource::Connections), 2);
        let raw = pool.connect_raw(&target).await.err().map(|error| error.kind);
        assert_eq!(raw, Some(SendErrorKind::Overflow(Overflow::Connections)));
        drop(pool);
    });
}

/// Streams are limited, too; who has no place waits for one.
#[test]
fn shared_connections_under_limits() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let gate = Rc::new(tokio::sync::Semaphore::new(0));
        let gated = gate.clone();
        tokio::task::spawn_local(async move {
            let (tcp, _) = listener.accept().await.unwrap();
            let mut connection = ::h2::server::handshake(tcp).await.unwrap();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                let gate = gated.clone();
                tokio::task::spawn_local(async move {
                    gate.acquire().await.unwrap().forget();
                    let _ = respond.send_response(http::Response::new(()), true);
                });
            }
        });
        let numbers =
            wire::Limits { max_connections: Some(1), max_pending_requests: Some(1), ..Default::default() };
        let (mut target, limits) = limited(address, &numbers);
        target.key = PoolKey::new("a.test:80".parse().unwrap(), Arc::from("uid"), Protocol::Http2, 0, &[]);
        target.connections.max_streams = NonZeroU32::new(1);
        let pool = Pool::new();
        let first = spawn(&pool, &target);
        until(|| limits.active(Resource::Requests) == 1).await;
        let second = spawn(&pool, &target);
        until(|| limits.active(Resource::Pending) == 1).await;
        let third = spawn(&pool, &target).await.unwrap();
        assert_eq!(third, Err(SendErrorKind::Overflow(Overflow::Pending)));
        gate.add_permits(2);
        assert_eq!((first.await.unwrap(), second.await.unwrap()), (Ok(200), Ok(200)));
        assert_eq!((limits.active(Resource::Requests), limits.active(Resource::Connections)), (0, 1));
    });
}
