//! One inbound connection, from its first byte to the code that serves it.
//!
//! In: a socket accepted on podIP:port. Out: mTLS terminated where it must be, requests or bytes passed to the application,
//! or the connection closed before a byte of it reached the application.

use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use mesh_proto::model::{Protocol as Declared, SpiffeId};
use mesh_proto::runtime::svid::Svid;
use mesh_proto::runtime::tls::{explain, peer};
use rustls::pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};
use tokio_rustls::TlsAcceptor;

use super::client_cert;
use super::decide::{self, Decision, Look, PATIENCE, Seen, Through, decide};
use super::http::{Inbound, Peer};
use super::live::Admitted;
use crate::authorization::{Connection, Ended, Gate, gate};
use crate::capture::Application;
use crate::detect::first_word::{self, Wait};
use crate::detect::{First, detect_read, detect_until};
use crate::drain::{Closer, DrainWatch};
use crate::exchange::Ends;
use crate::http::{Protocol, serve_connection};
use crate::io::Io;
use crate::outbound::direct;
use crate::outbound::tcp::{Told, refused, splice};
use crate::respond::Failure;
use crate::revocation;
use crate::tcp::Copy;
use crate::telemetry::{Party, Reporter};
use crate::tls::{self, MeshAlpn};
use crate::worker::{Me, Worker, me};

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How long before a certificate's end its connections are asked to end.
const GOODBYE: Duration = Duration::from_secs(30);

/// What a peer showed, leaf first.
type Chain = Vec<CertificateDer<'static>>;

/// What is known about a connection while it is being let in.
struct Arrival {
    worker: Rc<Worker>,
    /// Who was verified.
    peer: Option<SpiffeId>,
    me: Rc<Me>,
    port: Application,
    ends: Ends,
    closer: Closer,
    watch: DrainWatch,
    /// To the application, opened while the client was silent.
    early: Option<Io>,
}

/// Serves one connection to `port`.
pub async fn serve(worker: Rc<Worker>, stream: TcpStream, remote: SocketAddr, port: Application) {
    let Ok(me) = worker.me() else {
        tracing::info!(%remote, port = port.port, "closed: this proxy has no configuration yet");
        return;
    };
    let (closer, watch) = worker.inbound.for_connection();
    let _live = watch.enter();
    let ends = Ends {
        reporter: Reporter::Destination,
        source: Party::unknown(),
        destination: me.party.clone(),
        service: me.service(port.port).clone(),
        mtls: false,
        local: port.dialled().or(stream.local_addr().ok()),
        remote: Some(remote),
        server_name: Rc::from(""),
        policies: None,
    };
    let mut arrival = Arrival { worker, peer: None, me, port, ends, closer, watch, early: None };
    let Some(seen) = arrival.look(&stream).await else { return };
    // Policy may have changed while we waited for the first byte.
    let Some(config) = arrival.worker.store.self_config() else { return };
    let decision = decide(&config, port.port, seen);
    if decision != Decision::Opaque {
        arrival.early = None;
    }
    match decision {
        Decision::Close(failure) => refused(&arrival.worker, &arrival.ends, &failure),
        // Boxed: what serves a connection is not paid for while it is being let in, nor the other way round.
        Decision::Mtls => {
            if let Some((arrival, io, chain, peer)) = Box::pin(arrival.handshake(stream)).await {
                Box::pin(arrival.mtls(io, chain, peer)).await;
            }
        }
        Decision::Http(protocol) => {
            let io = Io::Plain(stream);
            Box::pin(arrival.http(io, Bytes::new(), protocol, None, Vec::new())).await;
        }
        Decision::Opaque => {
            Box::pin(arrival.opaque(Io::Plain(stream), Bytes::new(), Vec::new())).await;
        }
    }
}

impl Arrival {
    /// What the connection begins with; `None` when it is over.
    async fn look(&mut self, stream: &TcpStream) -> Option<Seen> {
        let (limit, both) = match decide::look(&self.me.config, self.port.port) {
            Look::No => return Some(Seen::Silent),
            Look::For(limit) => (limit, None),
            Look::Both { limit, hold } => (PATIENCE, Some((limit, hold))),
        };
        // A silent connection must not hold up a drain for long.
        let linger = self.worker.settings.drain_linger;
        let mut early = None;
        let first = {
            let client = detect_until(stream, limit, &self.watch, linger);
            let server = async {
                let Some((limit, hold)) = both else { return std::future::pending().await };
                let wait = Wait { since: Instant::now(), hold, limit };
                // Boxed when it is needed: hardly any connection waits so long.
                let open = async { Box::pin(self.open(wait)).await };
                first_word::waits_for_bytes(stream, wait, open, &mut early).await;
            };
            tokio::select! {
                biased;
                first = client => first.ok()??,
                () = server => First::Silent,
            }
        };
        self.early = early;
        Some(match first {
            First::Closed => return None,
            First::Silent => Seen::Silent,
            First::Other => Seen::Other,
            First::Http1 => Seen::Http1,
            First::Http2 => Seen::Http2,
            First::Tls => {
                let hello = tls::peek(stream, HANDSHAKE).await.ok()?;
                if let Some(name) = hello.as_ref().and_then(|h| h.server_name.as_deref()) {
                    self.ends.server_name = Rc::from(name);
                }
                if hello.is_some_and(|h| h.is_mesh()) { Seen::MeshTls } else { Seen::ForeignTls }
            }
        })
    }

    /// To the application, for a client that may wait for it to speak: only where its silence would be let in as bytes. Whoever is
    /// to be asked for that is not asked before it can be nothing else.
    async fn open(&self, wait: Wait) -> Option<Io> {
        let mut config = self.worker.store.self_config()?;
        if config.external.is_some() {
            sleep_until(wait.since + wait.limit).await;
            config = self.worker.store.self_config()?;
        }
        let connection = self.connection();
        if decide(&config, self.port.port, Seen::Silent) != Decision::Opaque {
            return None;
        }
        gate::bytes_of(&self.worker, &config, &connection, self.ends.source()).await.ok()?;
        let target = direct::application(&self.worker.targets, self.port, MeshAlpn::Tcp);
        self.worker.pool.connect_raw(&target).await.ok()
    }

    /// Terminates mTLS; `None` when that failed, which is told.
    async fn handshake(self, stream: TcpStream) -> Option<(Self, Io, Chain, Svid)> {
        let acceptor = TlsAcceptor::from(self.worker.server_tls());
        let accepted = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await;
        let why = match accepted {
            Ok(Ok(stream)) => {
                let io = Io::Server(Box::new(stream));
                let chain = io.peer_certificates().unwrap_or_default().to_vec();
                match peer(&chain) {
                    Ok(peer) => return Some((self, io, chain, peer)),
                    Err(error) => error.to_string(),
                }
            }
            Ok(Err(error)) => explain(&error),
            Err(_) => "it took too long".to_owned(),
        };
        refused(&self.worker, &self.ends, &Failure::Handshake(why));
        None
    }

    async fn mtls(mut self, io: Io, chain: Chain, peer: Svid) {
        let mut io = revocation::watched(io, Some(&peer.id));
        self.ends.mtls = true;
        self.ends.source = me::from_certificate(&peer.id);
        self.peer = Some(peer.id.clone());
        let expires = peer.not_after.min(self.worker.identity.leaf().not_after);
        let told = Peer { client_cert: self.client_cert(&peer.id, &chain), id: peer.id };
        let closer = self.closer.clone();
        // It may say nothing for long: roots and policies that change meanwhile count for it too.
        let waiting = self.worker.live.admit(self.admitted(&io, chain.clone()));
        let serving = std::pin::pin!(async {
            let protocol = tokio::select! {
                protocol = self.protocol(&mut io) => protocol,
                () = self.closer.closed() => None,
            };
            let _waiting = waiting;
            match protocol {
                Some((Some(protocol), first)) => self.http(io, first, protocol, Some(told), chain).await,
                Some((None, first)) => self.opaque(io, first, chain).await,
                None => {}
            }
        });
        until_expiry(serving, expires, &closer).await;
    }

    fn client_cert(&self, peer: &SpiffeId, chain: &[CertificateDer<'static>]) -> Option<http::HeaderValue> {
        client_cert::value(self.worker.identity.id(), peer, chain.first()?)
    }

    /// What the inside of an mTLS connection speaks (none: bytes), and what was read of it to find out.
    async fn protocol(&self, io: &mut Io) -> Option<(Option<Protocol>, Bytes)> {
        let declared = self.me.config.protocol_of(self.port.port);
        let alpn = io.alpn().and_then(MeshAlpn::of);
        let nothing = Bytes::new();
        match (declared, alpn) {
            (Declared::Tcp | Declared::Tls, _) => Some((None, nothing)),
            (_, Some(MeshAlpn::Http1)) => Some((Some(Protocol::Http1), nothing)),
            (_, Some(MeshAlpn::Http2)) => Some((Some(Protocol::Http2), nothing)),
            (Declared::Auto, Some(MeshAlpn::Tcp)) => Some((None, nothing)),
            (_, Some(MeshAlpn::Tcp) | None) => {
                let Some(limit) = decide::look(&self.me.config, self.port.port).limit() else {
                    return Some((None, nothing));
                };
                let (first, read) = detect_read(io, nothing, limit).await.ok()?;
                match first {
                    First::Closed => None,
                    First::Http2 => Some((Some(Protocol::Http2), read)),
                    First::Http1 => Some((Some(Protocol::Http1), read)),
                    _ if declared.is_http() => Some((Some(Protocol::Http1), read)),
                    First::Tls | First::Other | First::Silent => Some((None, read)),
                }
            }
        }
    }

    /// What policies are asked about.
    fn connection(&self) -> Rc<Connection> {
        let address = self.ends.local.map_or(self.port.target.ip(), |local| local.ip());
        Rc::new(Connection {
            peer: self.peer.clone(),
            source: self.ends.source_ip(),
            destination: SocketAddr::new(address, self.port.port),
            sni: Box::from(&*self.ends.server_name),
            ended: Ended::default(),
        })
    }

    /// One that carries requests: each of them is asked about.
    fn admitted(&self, io: &Io, chain: Chain) -> Admitted {
        let through = if io.is_tls() { Through::Mtls } else { Through::Plain };
        Admitted {
            connection: self.connection(),
            bytes: false,
            through,
            chain,
            closer: self.closer.clone(),
            asked: None,
            client: None,
        }
    }

    async fn http(self, io: Io, first: Bytes, protocol: Protocol, peer: Option<Peer>, chain: Chain) {
        let admitted = self.admitted(&io, chain);
        let gate = Gate::new(admitted.connection.clone());
        let _entry = self.worker.live.admit(admitted);
        let declared = self.me.config.protocol_of(self.port.port);
        let worker = self.worker;
        let service = Inbound::new(worker.clone(), self.port, declared, self.ends, (peer, gate), self.closer);
        serve_connection(io, first, protocol, &worker.settings, Rc::new(service), self.watch).await;
    }

    async fn opaque(mut self, io: Io, first: Bytes, chain: Chain) {
        // Requests are told in words; bytes cannot be, and what policy forbids may have become known during a handshake.
        let config = self.worker.store.self_config();
        // Of the same configuration as is asked by: a newer one has not asked anybody.
        let asked = config.as_ref().and_then(|config| config.external.clone());
        let admitted = Admitted { bytes: true, asked, ..self.admitted(&io, chain) };
        let connection = admitted.connection.clone();
        // Before anybody is asked: what changes meanwhile counts too.
        let _entry = self.worker.live.admit(admitted);
        let watch = |config: &Arc<_>| gate::watch_bytes(&self.worker, config, &connection);
        self.ends.policies = config.as_ref().and_then(watch);
        let allowed = match config {
            None => Err(Failure::NotReady),
            Some(config) => gate::bytes_of(&self.worker, &config, &connection, self.ends.source()).await,
        };
        if let Err(failure) = allowed {
            return refused(&self.worker, &self.ends, &failure);
        }
        let target = direct::application(&self.worker.targets, self.port, MeshAlpn::Tcp);
        let app = match self.early.take() {
            Some(early) => Ok(early),
            None => self.worker.pool.connect_raw(&target).await,
        };
        match app {
            Ok(app) => {
                let mut copy = Copy::new(io, app, first, Bytes::new());
                let cluster = format!("inbound|{}||", self.port.port);
                let told =
                    Told { cluster: &cluster, address: self.port.target, idle: crate::tcp::IDLE, max: None };
                splice(&self.worker, &mut copy, &self.ends, &told, &self.closer).await;
            }
            Err(error) => {
                let failure = Failure::Send { kind: error.kind, retried: false };
                refused(&self.worker, &self.ends, &failure);
            }
        }
    }
}

/// An mTLS connection lives at most until the earlier certificate expires: it is asked to end a little before, and cut then.
pub(crate) async fn until_expiry(
    mut serving: Pin<&mut impl Future<Output = ()>>,
    expires: SystemTime,
    closer: &Closer,
) {
    let left = expires.duration_since(SystemTime::now()).unwrap_or_default();
    let goodbye = GOODBYE.min(left / 4);
    tokio::select! {
        () = &mut serving => return,
        () = tokio::time::sleep(left - goodbye) => closer.close(),
    }
    // Whoever ends in time is not lost; a stream without an end is.
    if tokio::time::timeout(goodbye, serving).await.is_err() {
        tracing::info!("closed: a certificate of this connection has expired");
    }
}
