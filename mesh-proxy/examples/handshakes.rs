//! How many full mTLS handshakes a core makes a second: both sides ours, ECDSA P-256, nothing resumed.
//!
//! `handshakes [SECONDS]`: a client on one core, a server on another one, over loopback, with the TLS settings of a sidecar's
//! two sides. For each key exchange it prints the handshakes a second, the CPU time that each side spends on one (with its
//! sockets), and the bytes that go over the wire. A machine with one core gives half of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use mesh_proto::model::TlsParameters;
use mesh_proto::model::tls::Group;
use mesh_proto::runtime::identity::{Identity, MeshTls};
use mesh_proto::runtime::testing::TestCa;
use mesh_proto::runtime::tls::{ClientAuth, ClientIdentity, Expect, client_config, server_config};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{UsageWho, getrusage};
use nix::unistd::Pid;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Connections under way at once: enough that neither side waits for the other.
const AT_ONCE: usize = 16;
/// What a sidecar asks for.
const NAME: &str = "outbound_.9080_._.ratings.default.svc.cluster.local";
const ALPN: &[&[u8]] = &[b"istio-http/1.1"];

/// What one side has done.
#[derive(Debug, Default, Clone, Copy)]
struct Done {
    handshakes: u64,
    cpu: Duration,
}

fn main() -> anyhow::Result<()> {
    let seconds = std::env::args().nth(1).map_or(Ok(5), |text| text.parse()).context("SECONDS")?;
    let ca = TestCa::new();
    for group in [Group::X25519Mlkem768, Group::X25519, Group::P256] {
        let (client, server) = (ca.identity("default", "reviews"), ca.identity("default", "ratings"));
        for identity in [&client, &server] {
            let parameters = TlsParameters { groups: vec![group], ..TlsParameters::default() };
            identity.roots_handle().set_tls(MeshTls { parameters, ..MeshTls::default() });
        }
        let (client, server) = settings(&client, &server);
        let bytes = bytes_of_one(&client, &server)?;
        let (at_client, at_server, took) = run(&client, &server, Duration::from_secs(seconds))?;
        let each = |done: Done| done.cpu.as_secs_f64() * 1e6 / done.handshakes.max(1) as f64;
        println!(
            "{group:<15} {:>6.0} handshakes/s, CPU of one: client {:>4.0} us, server {:>4.0} us; bytes: client {}, server {}",
            at_client.handshakes as f64 / took.as_secs_f64(),
            each(at_client),
            each(at_server),
            bytes.0,
            bytes.1,
        );
    }
    Ok(())
}

fn settings(client: &Identity, server: &Identity) -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let expect = Expect::OneOf(vec![server.id().clone()]);
    let roots = client.roots_handle().clone();
    (
        client_config(ClientIdentity::Mesh(client), roots, expect, ALPN),
        server_config(server, ClientAuth::Required, ALPN),
    )
}

/// Both sides at it for `time`, and how long it took.
fn run(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
    time: Duration,
) -> anyhow::Result<(Done, Done, Duration)> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let at = listener.local_addr()?;
    let over = Arc::new(AtomicBool::new(false));
    let (acceptor, stop) = (TlsAcceptor::from(server.clone()), over.clone());
    let serving = on_core(1, async move || {
        let listener = TcpListener::from_std(listener)?;
        serve(&listener, &acceptor, &stop).await
    });
    let connector = TlsConnector::from(client.clone());
    let asking = on_core(0, async move || ask(at, &connector, time).await);
    let (at_client, took) = joined(asking)?;
    over.store(true, Ordering::Relaxed);
    // The server looks after each connection whether it is over.
    drop(std::net::TcpStream::connect(at)?);
    let (at_server, _) = joined(serving)?;
    Ok((at_client, at_server, took))
}

type Side = JoinHandle<anyhow::Result<(Done, Duration)>>;

/// A thread of its own on one core, with what it has used of it.
fn on_core<F>(core: usize, work: impl FnOnce() -> F + Send + 'static) -> Side
where
    F: Future<Output = anyhow::Result<u64>>,
{
    std::thread::spawn(move || {
        let mut cores = CpuSet::new();
        cores.set(core)?;
        if sched_setaffinity(Pid::from_raw(0), &cores).is_err() {
            eprintln!("there is no core {core}: both sides share one");
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let local = tokio::task::LocalSet::new();
        let (began, before) = (Instant::now(), cpu()?);
        let handshakes = local.block_on(&runtime, work())?;
        Ok((Done { handshakes, cpu: cpu()?.saturating_sub(before) }, began.elapsed()))
    })
}

fn joined(side: Side) -> anyhow::Result<(Done, Duration)> {
    side.join().map_err(|_| anyhow::anyhow!("a side has panicked"))?
}

/// CPU time of this thread.
fn cpu() -> anyhow::Result<Duration> {
    let used = getrusage(UsageWho::RUSAGE_THREAD)?;
    let micros = |time: nix::sys::time::TimeVal| {
        Duration::new(time.tv_sec().unsigned_abs(), (time.tv_usec().unsigned_abs() * 1000) as u32)
    };
    Ok(micros(used.user_time()) + micros(used.system_time()))
}

async fn serve(listener: &TcpListener, acceptor: &TlsAcceptor, over: &AtomicBool) -> anyhow::Result<u64> {
    let done = std::rc::Rc::new(std::cell::Cell::new(0));
    while !over.load(Ordering::Relaxed) {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (acceptor, done) = (acceptor.clone(), done.clone());
        tokio::task::spawn_local(async move {
            let accepted = acceptor.accept(stream).await;
            if let Ok(mut stream) = accepted {
                done.set(done.get() + 1);
                // The client is sure of us only when it has heard from us.
                let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"!").await;
            }
        });
    }
    Ok(done.get())
}

async fn ask(at: SocketAddr, connector: &TlsConnector, time: Duration) -> anyhow::Result<u64> {
    let end = Instant::now() + time;
    let tasks = (0..AT_ONCE).map(|_| {
        let connector = connector.clone();
        tokio::task::spawn_local(async move {
            let mut done = 0;
            while Instant::now() < end {
                let stream = TcpStream::connect(at).await?;
                stream.set_nodelay(true)?;
                let mut stream = connector.connect(ServerName::try_from(NAME)?, stream).await?;
                tokio::io::AsyncReadExt::read_u8(&mut stream).await?;
                done += 1;
            }
            anyhow::Ok(done)
        })
    });
    let mut all = 0;
    for task in tasks.collect::<Vec<_>>() {
        all += task.await??;
    }
    Ok(all)
}

/// What each side sends for one handshake.
fn bytes_of_one(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> anyhow::Result<(usize, usize)> {
    let mut client = ClientConnection::new(client.clone(), ServerName::try_from(NAME)?)?;
    let mut server = ServerConnection::new(server.clone())?;
    let mut sent = (0, 0);
    while client.is_handshaking() || server.is_handshaking() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            sent.0 += client.write_tls(&mut bytes)?;
        }
        server.read_tls(&mut &bytes[..])?;
        server.process_new_packets()?;
        bytes.clear();
        while server.wants_write() {
            sent.1 += server.write_tls(&mut bytes)?;
        }
        client.read_tls(&mut &bytes[..])?;
        client.process_new_packets()?;
    }
    Ok(sent)
}
