//! The address that the client of a captured connection dialled, and the sockets where captured connections arrive.
//!
//! In: an accepted socket. Out: its original destination: what conntrack remembers of a REDIRECT, or under TPROXY the
//! socket's own address. A connection that nobody redirected was made to the capture port itself: it has none.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::TcpStream;

use crate::pool::connect::transparent;

/// Where a redirected connection was going; `None`: here.
#[must_use]
pub fn redirected(stream: &TcpStream) -> Option<SocketAddr> {
    let local = stream.local_addr().ok()?;
    let socket = SockRef::from(stream);
    let original = if local.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    // ENOENT: conntrack does not know the connection, so nothing has changed its address.
    let original = original.ok()?.as_socket()?;
    (original != local).then_some(original)
}

/// Where a connection that came by TPROXY was going; `None`: to `listener` itself.
#[must_use]
pub fn transparent_destination(stream: &TcpStream, listener: SocketAddr) -> Option<SocketAddr> {
    stream.local_addr().ok().filter(|local| local.port() != listener.port())
}

/// The addresses to bind for a capture port: an unspecified one means both families.
#[must_use]
pub fn families(listener: SocketAddr) -> Vec<SocketAddr> {
    if !listener.ip().is_unspecified() {
        return vec![listener];
    }
    // A socket each: then an IPv4 client's address looks like one.
    let any = [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()];
    any.map(|ip| SocketAddr::new(ip, listener.port())).to_vec()
}

/// Binds and listens at one of [`families`]; `None` where the kernel has no IPv6.
///
/// # Errors
/// What the kernel says.
pub fn bind(address: SocketAddr, shared: bool, tproxy: bool) -> io::Result<Option<std::net::TcpListener>> {
    use nix::errno::Errno;
    match open(address, shared, tproxy) {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if address.is_ipv6() => match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL) => Ok(None),
            _ => Err(error),
        },
        Err(error) => Err(error),
    }
}

fn open(address: SocketAddr, shared: bool, tproxy: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if tproxy {
        transparent(&socket, address)?;
    }
    super::listener::listen(socket, address, shared)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unspecified_address_is_of_both_families() {
        let families = |text: &str| {
            let all = super::families(text.parse().unwrap());
            all.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(families("0.0.0.0:15001"), ["0.0.0.0:15001", "[::]:15001"]);
        assert_eq!(families("127.9.4.1:15001"), ["127.9.4.1:15001"]);
        assert_eq!(families("[::]:15001"), ["0.0.0.0:15001", "[::]:15001"]);
    }

    #[tokio::test]
    async fn what_nobody_redirected_has_no_other_destination() {
        let listener = bind("127.0.0.1:0".parse().unwrap(), false, false).unwrap().unwrap();
        let at = listener.local_addr().unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let _client = TcpStream::connect(at).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        assert_eq!(redirected(&accepted), None);
        assert_eq!(transparent_destination(&accepted, at), None);
        let other = "127.0.0.1:1".parse().unwrap();
        assert_eq!(transparent_destination(&accepted, other), Some(at));
    }
}
