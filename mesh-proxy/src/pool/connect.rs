//! Opens connections: TCP, from a given address where the target has one, then TLS where it has it.

use std::io;
use std::net::{IpAddr, SocketAddr};

use mesh_proto::runtime::tls::peer_id;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::IpBindAddressNoPort;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

use crate::io::Io;
use crate::pool::{SendErrorKind, Target};
use crate::revocation;

/// The mark of what the proxy itself sends under TPROXY (Istio's): the rules let it pass.
pub const MARK: u32 = 1337;

/// The address that a connection is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// One of this machine's.
    Own(IpAddr),
    /// A client's, which is not ours (TPROXY). Needs `CAP_NET_ADMIN`.
    Transparent(IpAddr),
}

/// Connects within the target's time.
pub(super) async fn connect(target: &Target) -> Result<Io, SendErrorKind> {
    match tokio::time::timeout(target.connect_timeout, handshakes(target)).await {
        Ok(result) => result,
        Err(_) => Err(SendErrorKind::ConnectTimeout),
    }
}

async fn handshakes(target: &Target) -> Result<Io, SendErrorKind> {
    let opened = match target.source {
        None => TcpStream::connect(target.address).await,
        Some(source) => from(source, target.address).await,
    };
    let tcp = opened
        .and_then(|tcp| tcp.set_nodelay(true).map(|()| tcp))
        .and_then(|tcp| keep_alive(&tcp, target).map(|()| tcp))
        .map_err(|error| SendErrorKind::ConnectFailed(error.kind()))?;
    let Some((config, name)) = &target.tls else { return Ok(Io::Plain(tcp)) };
    let connector = TlsConnector::from(config.clone());
    match connector.connect(name.clone(), tcp).await {
        Ok(tls) => {
            // Who answered, of those that were expected.
            let chain = tls.get_ref().1.peer_certificates().filter(|_| target.mesh);
            let peer = chain.and_then(|chain| peer_id(chain).ok());
            Ok(revocation::watched(Io::Client(Box::new(tls)), peer.as_ref()))
        }
        Err(error) => Err(SendErrorKind::Tls(tls_text(&error))),
    }
}

async fn from(source: Source, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = bound(source, to).inspect_err(|error| {
        tracing::warn!(?source, %to, %error, "cannot connect from this address");
    })?;
    TcpSocket::from_std_stream(socket.into()).connect(to).await
}

fn bound(source: Source, to: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    let ip = match source {
        Source::Own(ip) => ip,
        Source::Transparent(ip) => {
            transparent(&socket, to)?;
            socket.set_mark(MARK)?;
            ip
        }
    };
    // Only saves ports: they are then chosen per destination, so that 28,000 connections are no limit.
    let _ = setsockopt(&socket, IpBindAddressNoPort, &true);
    socket.bind(&SocketAddr::new(ip, 0).into())?;
    Ok(socket)
}

/// Lets `socket` have addresses that are not this machine's. `of`: of which family it is.
///
/// # Errors
/// Without `CAP_NET_ADMIN`.
pub fn transparent(socket: &Socket, of: SocketAddr) -> io::Result<()> {
    if of.is_ipv4() { socket.set_ip_transparent_v4(true) } else { socket.set_ip_transparent_v6(true) }
}

fn keep_alive(tcp: &TcpStream, target: &Target) -> io::Result<()> {
    let Some(wanted) = target.connections.keepalive else { return Ok(()) };
    let mut keepalive = socket2::TcpKeepalive::new();
    if let Some(time) = wanted.time {
        keepalive = keepalive.with_time(time);
    }
    if let Some(interval) = wanted.interval {
        keepalive = keepalive.with_interval(interval);
    }
    if let Some(probes) = wanted.probes {
        keepalive = keepalive.with_retries(probes.get());
    }
    socket2::SockRef::from(tcp).set_tcp_keepalive(&keepalive)
}

/// The verifier's own words, without the layers around them.
fn tls_text(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other))) => {
            other.0.to_string()
        }
        Some(tls) => tls.to_string(),
        None => error.to_string(),
    }
}
