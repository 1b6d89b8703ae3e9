//! A TLS connection to a gateway, from its first byte to what is inside.
//!
//! In: a socket whose client speaks TLS. Out: by SNI, TLS ended (requests or bytes are served then) or passed on as it is.
//! Where no server has the name, or its certificate is not there, the connection is closed before a byte was answered.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use mesh_proto::runtime::tls::{explain, peer};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::termination::Termination;
use super::{Gateway, admitted, bytes_to, connection};
use crate::authorization::Connection;
use crate::drain::{Closer, DrainWatch};
use crate::exchange::Ends;
use crate::http::{Protocol, serve_connection};
use crate::inbound::accept::until_expiry;
use crate::inbound::client_cert;
use crate::inbound::live::{Admitted, Client};
use crate::io::Io;
use crate::outbound::tcp::refused;
use crate::respond::Failure;
use crate::revocation;
use crate::store::listener::{Inside, Listener, TlsAction};
use crate::tls::{self, MeshAlpn};
use crate::worker::{Worker, me};

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// What a connection's requests have to know of its TLS.
pub(super) struct Secure {
    /// What the client asked for.
    pub(super) sni: Option<String>,
    /// The settings that it was let in with.
    pub(super) key: Arc<[u8]>,
    /// The roots that it was let in with.
    pub(super) trust: u64,
    /// `x-forwarded-client-cert`.
    pub(super) client_cert: Option<HeaderValue>,
}

/// Serves one connection to a TLS port.
pub(super) async fn serve(
    worker: Rc<Worker>,
    stream: TcpStream,
    listener: &Arc<Listener>,
    mut ends: Ends,
    (closer, watch): (Closer, DrainWatch),
) {
    let Ok(hello) = tls::peek(&stream, HANDSHAKE).await else { return };
    let Some(hello) = hello else {
        return refused(&worker, &ends, &Failure::Handshake("not a client hello".to_owned()));
    };
    let mesh = hello.is_mesh();
    let sni = hello.server_name;
    if let Some(name) = &sni {
        ends.server_name = Rc::from(name.as_str());
    }
    let Some(server) = listener.tls_server(sni.as_deref()) else {
        let asked = sni.unwrap_or_else(|| "a client without SNI".to_owned());
        return refused(&worker, &ends, &Failure::NoTlsServer(asked));
    };
    let (settings, inside) = match &server.action {
        // Only who speaks as members of the mesh do gets to them; whether it is one, they find out.
        TlsAction::Forward(rule) if rule.mesh_tls && !mesh => {
            return refused(&worker, &ends, &Failure::NoTlsServer(sni.unwrap_or_default()));
        }
        TlsAction::Forward(rule) => {
            let rules = std::slice::from_ref(rule);
            let connection = connection(listener, &ends, None);
            return bytes_to(&worker, Io::Plain(stream), rules, ends, &connection, &closer).await;
        }
        TlsAction::Terminate(settings, inside) => (settings, inside),
    };
    let generation = worker.store.generation();
    let Some(termination) = worker.terminations.settled(&settings.key, generation).await else {
        return refused(&worker, &ends, &Failure::NoCertificate);
    };
    let mut io = match handshake(&termination, stream).await {
        Ok(io) => io,
        Err(failure) => return refused(&worker, &ends, &failure),
    };
    let mut client_cert = io.peer_certificates().and_then(<[_]>::first).and_then(client_cert::of_outsider);
    let chain = io.peer_certificates().unwrap_or_default().to_vec();
    let (mut workload, mut expires) = (None, None);
    if termination.mesh {
        // Verified in the handshake: a workload of the mesh.
        let Ok(peer) = peer(&chain) else { return };
        io = revocation::watched(io, Some(&peer.id));
        ends.source = me::from_certificate(&peer.id);
        client_cert = chain.first().and_then(|leaf| client_cert::value(worker.identity.id(), &peer.id, leaf));
        expires = Some(peer.not_after.min(worker.identity.leaf().not_after));
        workload = Some(peer.id);
    }
    let connection = connection(listener, &ends, workload);
    // Roots and lists of what is revoked that change meanwhile count too.
    let (key, trust) = (settings.key.clone(), Cell::new(termination.trust));
    let client = termination.clients.is_some().then(|| Client { key, trust, chain: chain.clone() });
    let entry = (termination.mesh || client.is_some())
        .then(|| Admitted { client, ..admitted(&worker, &connection, chain, &closer) });
    let _live = entry.map(|entry| worker.live.admit(entry));
    let secure = Secure { sni, key: settings.key.clone(), trust: termination.trust, client_cert };
    let ending = closer.clone();
    let serving =
        pin!(serve_inside(&worker, io, listener, inside, (ends, connection), secure, (closer, watch)));
    match expires {
        Some(expires) => until_expiry(serving, expires, &ending).await,
        None => serving.await,
    }
}

async fn handshake(termination: &Termination, stream: TcpStream) -> Result<Io, Failure> {
    let acceptor = TlsAcceptor::from(termination.config.clone());
    match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => Ok(Io::Server(Box::new(stream))),
        Ok(Err(error)) => Err(Failure::Handshake(explain(&error))),
        Err(_) => Err(Failure::Handshake("it took too long".to_owned())),
    }
}

/// Serves what is inside of the TLS that was ended.
async fn serve_inside(
    worker: &Rc<Worker>,
    io: Io,
    listener: &Arc<Listener>,
    inside: &Inside,
    (ends, connection): (Ends, Rc<Connection>),
    secure: Secure,
    (closer, watch): (Closer, DrainWatch),
) {
    if let Inside::Tcp(rules) = inside {
        return bytes_to(worker, io, rules, ends, &connection, &closer).await;
    }
    let protocol = match io.alpn() {
        Some(b"h2") => Protocol::Http2,
        Some(name) if MeshAlpn::of(name) == Some(MeshAlpn::Http2) => Protocol::Http2,
        _ => Protocol::Http1,
    };
    let service = Gateway::new(worker, connection, listener.port, ends, closer, Some(secure));
    serve_connection(io, Bytes::new(), protocol, &worker.settings, Rc::new(service), watch).await;
}
