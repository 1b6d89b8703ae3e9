//! A connection that the application opened: what it speaks decides who serves it.
//!
//! In: a socket accepted on a VIP listener or the HTTP proxy port, or the inside of a CONNECT tunnel. Ports that declare a
//! protocol are believed; others are looked at until the detection timeout.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mesh_proto::model::Protocol as Declared;
use tokio::net::TcpStream;

use super::connect::declared;
use super::goal::{self, Asked, Goal};
use super::http::{Entry, Outbound};
use super::tcp;
use crate::destination::Traffic;
use crate::detect::{First, detect, detect_read};
use crate::drain::{Closer, DrainWatch};
use crate::exchange::Ends;
use crate::http::{Protocol, serve_connection};
use crate::io::Io;
use crate::respond::Failure;
use crate::telemetry::{Party, Reporter, Service};
use crate::tls;
use crate::worker::Worker;

/// How long a client of a declared HTTP port may take to begin: as long as an idle connection may last.
const HTTP_SILENCE: Duration = Duration::from_secs(3600);
/// How long a ClientHello may take.
const HELLO: Duration = Duration::from_secs(10);
/// A detection timeout of zero means to wait for as long as it takes.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Serves one connection on the HTTP proxy port.
pub async fn proxy(worker: Rc<Worker>, stream: TcpStream, peer: SocketAddr) {
    let Ok(ends) = ends(&worker, &stream, peer) else { return };
    let (closer, watch) = worker.outbound.for_connection();
    let _live = watch.enter();
    match detect(&stream, HTTP_SILENCE).await {
        Ok(First::Http1) => serve(worker, stream, Protocol::Http1, Entry::Proxy, ends, (closer, watch)).await,
        Ok(First::Http2) => serve(worker, stream, Protocol::Http2, Entry::Proxy, ends, (closer, watch)).await,
        // Only HTTP is spoken here: the codec refuses anything else in words.
        Ok(First::Other | First::Tls) => {
            serve(worker, stream, Protocol::Http1, Entry::Proxy, ends, (closer, watch)).await;
        }
        Ok(First::Silent | First::Closed) | Err(_) => {}
    }
}

/// Serves one connection to the listener that stands for `vip`.
pub async fn vip(worker: Rc<Worker>, stream: TcpStream, peer: SocketAddr, vip: SocketAddr) {
    let Ok(ends) = ends(&worker, &stream, peer) else { return };
    let (closer, watch) = worker.outbound.for_connection();
    let _live = watch.enter();
    let service = match worker.store.resolve(&goal::lookup(bytes_at(vip))) {
        crate::destination::Resolved::Service(service, _) => service,
        _ => return tcp::refused(&worker, &ends, &Failure::Blocked(vip.to_string())),
    };
    speaking(&worker, stream, vip, service.protocol, (ends, closer, watch)).await;
}

/// Serves a connection to `vip`, whose port declares a protocol.
pub(super) async fn speaking(
    worker: &Rc<Worker>,
    stream: TcpStream,
    vip: SocketAddr,
    declared: Declared,
    (mut ends, closer, watch): (Ends, Closer, DrainWatch),
) {
    let http = |protocol| (protocol, Entry::Vip(vip));
    let (protocol, entry) = match declared {
        Declared::Tcp => return forward(worker, stream, bytes_at(vip), ends, &closer).await,
        Declared::Tls => return opaque_tls(worker, stream, vip, &mut ends, &closer).await,
        Declared::Http | Declared::Http2 | Declared::Grpc => match detect(&stream, HTTP_SILENCE).await {
            Ok(First::Http2) => http(Protocol::Http2),
            Ok(First::Silent | First::Closed) | Err(_) => return,
            Ok(_) => http(Protocol::Http1),
        },
        Declared::Auto => match detect(&stream, detection(worker)).await {
            Ok(First::Http1) => http(Protocol::Http1),
            Ok(First::Http2) => http(Protocol::Http2),
            Ok(First::Tls) => return opaque_tls(worker, stream, vip, &mut ends, &closer).await,
            Ok(First::Other | First::Silent) => {
                return forward(worker, stream, bytes_at(vip), ends, &closer).await;
            }
            Ok(First::Closed) | Err(_) => return,
        },
    };
    serve(worker.clone(), stream, protocol, entry, ends, (closer, watch)).await;
}

pub(super) fn bytes_at(vip: SocketAddr) -> Asked<'static> {
    Asked { vip: Some(vip), host: None, traffic: Traffic::Tcp }
}

/// How long an undeclared port's client is waited for.
#[must_use]
pub fn detection(worker: &Worker) -> Duration {
    let configured = worker.store.self_config().map(|c| c.protocol_detection_timeout);
    match configured {
        Some(Duration::ZERO) | None => FOR_EVER,
        Some(limit) => limit,
    }
}

async fn serve(
    worker: Rc<Worker>,
    stream: TcpStream,
    protocol: Protocol,
    entry: Entry,
    ends: Ends,
    (closer, watch): (Closer, DrainWatch),
) {
    let service = Rc::new(Outbound::new(worker.clone(), entry, ends, (closer, watch.clone())));
    let io = Io::Plain(stream);
    serve_connection(io, Bytes::new(), protocol, &worker.settings, service, watch).await;
}

/// TLS of the application's own: SNI may name another service than the VIP does.
async fn opaque_tls(
    worker: &Rc<Worker>,
    stream: TcpStream,
    vip: SocketAddr,
    ends: &mut Ends,
    closer: &Closer,
) {
    let Ok(hello) = tls::peek(&stream, HELLO).await else { return };
    let name = hello.and_then(|h| h.server_name);
    if let Some(name) = &name {
        ends.server_name = Rc::from(name.as_str());
    }
    let asked = Asked { vip: Some(vip), host: name.as_deref(), traffic: Traffic::Tls };
    forward(worker, stream, asked, ends.clone(), closer).await;
}

async fn forward(worker: &Rc<Worker>, stream: TcpStream, asked: Asked<'_>, ends: Ends, closer: &Closer) {
    match open(worker, asked, &ends).await {
        Ok(upstream) => {
            tcp::join(worker, Io::Plain(stream), Bytes::new(), upstream, ends, closer).await;
        }
        Err(failure) => tcp::refused(worker, &ends, &failure),
    }
}

async fn open(worker: &Rc<Worker>, asked: Asked<'_>, ends: &Ends) -> Result<tcp::Upstream, Failure> {
    let goal = goal::find(worker, asked).await?;
    let client = tcp::Client { source: ends.source_ip(), dialled: asked.vip, sni: asked.host };
    tcp::connect(worker, &goal, &client).await
}

/// Serves what comes through a CONNECT tunnel whose goal declares HTTP, or nothing.
pub async fn inside_tunnel(service: Rc<Outbound>, mut client: Io, first: Bytes, goal: Goal) {
    let worker = service.worker.clone();
    let limit = if declared(&goal).is_http() { HTTP_SILENCE } else { detection(&worker) };
    let Ok((seen, first)) = detect_read(&mut client, first, limit).await else { return };
    let watch = service.watch.clone();
    let http = match (seen, declared(&goal).is_http()) {
        (First::Closed, _) => return,
        (First::Http2, _) => Some(Protocol::Http2),
        (First::Http1, _) | (_, true) => Some(Protocol::Http1),
        (First::Tls | First::Other | First::Silent, false) => None,
    };
    if let Some(protocol) = http {
        serve_connection(client, first, protocol, &worker.settings, service, watch).await;
        return;
    }
    match tcp::connect(&worker, &goal, &tcp::Client::at(service.ends.source_ip())).await {
        Ok(upstream) => {
            tcp::join(&worker, client, first, upstream, service.ends.clone(), &service.closer).await;
        }
        Err(failure) => tcp::refused(&worker, &service.ends, &failure),
    }
}

/// What is known about a connection of the application.
pub(super) fn ends(worker: &Worker, stream: &TcpStream, peer: SocketAddr) -> Result<Ends, Failure> {
    let me = worker.me()?;
    Ok(Ends {
        reporter: Reporter::Source,
        source: me.party.clone(),
        destination: Party::unknown(),
        service: Arc::new(Service::named("BlackHoleCluster")),
        mtls: false,
        local: stream.local_addr().ok(),
        remote: Some(peer),
        server_name: Rc::from(""),
        policies: None,
    })
}
