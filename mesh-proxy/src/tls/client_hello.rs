//! Reads a TLS ClientHello without taking it: ALPN tells the mesh's own handshakes from the application's.
//!
//! In: a socket whose first bytes are a TLS record (`detect::First::Tls`). Out: [`ClientHello`], or `None` when it is no
//! well-formed hello. Source: RFC 8446 §4.1.2, through rustls' own parser.

use std::io;
use std::time::Duration;

use rustls::server::Acceptor;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::MeshAlpn;
use crate::detect::more;

/// One record of the largest size that TLS allows, with its head; a hello that does not fit is refused.
const LONGEST: usize = 16 * 1024 + 5;
/// Where most hellos fit, with a post-quantum key share.
const USUAL: usize = 4 * 1024;

/// What a client offers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientHello {
    /// The host name that it asks for.
    pub server_name: Option<String>,
    /// The protocols that it offers, in its order.
    pub alpn: Vec<Vec<u8>>,
}

impl ClientHello {
    /// Whether this is a handshake between sidecars.
    #[must_use]
    pub fn is_mesh(&self) -> bool {
        self.alpn.iter().any(|name| MeshAlpn::of(name).is_some())
    }
}

/// Reads the hello that is waiting in `stream`, at most until `limit` has passed.
///
/// # Errors
/// When the socket fails or the client ends or dawdles before the hello is whole.
pub async fn peek(stream: &TcpStream, limit: Duration) -> io::Result<Option<ClientHello>> {
    let deadline = Instant::now() + limit;
    let mut buffer = vec![0u8; USUAL];
    let mut seen = 0;
    let mut ended = false;
    loop {
        let peeked = timeout_at(deadline, stream.peek(&mut buffer)).await.map_err(|_| late())??;
        if peeked == 0 || ended && peeked == seen {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if peeked > seen {
            seen = peeked;
            match parse(&buffer[..peeked]) {
                Parsed::Hello(hello) => return Ok(Some(hello)),
                Parsed::Broken => return Ok(None),
                Parsed::Partial => {}
            }
        }
        if seen == buffer.len() {
            if seen >= LONGEST {
                return Ok(None);
            }
            buffer.resize(LONGEST, 0);
            continue;
        }
        ended = more(stream, deadline).await?;
        if Instant::now() >= deadline {
            return Err(late());
        }
    }
}

fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the client hello did not come whole")
}

enum Parsed {
    Hello(ClientHello),
    Partial,
    Broken,
}

fn parse(mut bytes: &[u8]) -> Parsed {
    let mut acceptor = Acceptor::default();
    while !bytes.is_empty() {
        match acceptor.read_tls(&mut bytes) {
            Ok(0) => break,
            Ok(_) => {}
            Err(_) => return Parsed::Broken,
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                return Parsed::Hello(ClientHello {
                    server_name: hello.server_name().map(str::to_owned),
                    alpn: hello.alpn().into_iter().flatten().map(<[u8]>::to_vec).collect(),
                });
            }
            Ok(None) => {}
            Err(_) => return Parsed::Broken,
        }
    }
    Parsed::Partial
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    fn hello(alpn: &[&[u8]], name: &'static str) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|a| a.to_vec()).collect();
        let mut client =
            ClientConnection::new(Arc::new(config), ServerName::try_from(name).unwrap()).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    #[tokio::test]
    async fn reads_a_hello_that_comes_in_pieces_and_leaves_it_there() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        let sent = hello(&[b"istio-h2", b"h2"], "reviews.default");
        client.write_all(&sent[..40]).await.unwrap();
        let (seen, ()) = tokio::join!(peek(&server, Duration::from_secs(5)), async {
            tokio::task::yield_now().await;
            client.write_all(&sent[40..]).await.unwrap();
        });
        let seen = seen.unwrap().unwrap();
        assert!(seen.is_mesh());
        assert_eq!(seen.server_name.as_deref(), Some("reviews.default"));
        let mut all = vec![0; sent.len()];
        server.read_exact(&mut all).await.unwrap();
        assert_eq!(all, sent);
    }

    #[test]
    fn foreign_and_broken_hellos() {
        let Parsed::Hello(foreign) = parse(&hello(&[b"h2"], "a.example")) else { panic!("a hello") };
        assert!(!foreign.is_mesh());
        assert!(matches!(parse(b"\x16\x03\x01\x00\x05hello"), Parsed::Broken));
        assert!(matches!(parse(&hello(&[], "a")[..20]), Parsed::Partial));
    }
}
