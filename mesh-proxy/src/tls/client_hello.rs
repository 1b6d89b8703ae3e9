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

/// What the first bytes are.
pub(crate) enum Parsed {
    /// A whole one.
    Hello(ClientHello),
    /// The beginning of one.
    Partial,
    /// Nothing that could become one.
    Broken,
}

/// Reads what is there.
pub(crate) fn parse(mut bytes: &[u8]) -> Parsed {
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

    /// The same hello in records of `size` bytes.
    fn fragmented(hello: &[u8], size: usize) -> Vec<u8> {
        let record = |part: &[u8]| {
            let length = u16::try_from(part.len()).unwrap().to_be_bytes();
            [&[0x16, 3, 1], &length[..], part].concat()
        };
        hello[5..].chunks(size).flat_map(record).collect()
    }

    /// However it is cut, it is the same hello or not yet one; in several records, too.
    #[test]
    fn t1_a_hello_cut_anywhere_is_the_same_hello() {
        let whole = hello(&[b"istio", b"h2"], "reviews.default");
        let is_it =
            |seen: &ClientHello| seen.is_mesh() && seen.server_name.as_deref() == Some("reviews.default");
        for cut in 0..whole.len() {
            assert!(matches!(parse(&whole[..cut]), Parsed::Partial), "{cut} bytes");
        }
        for size in [1, 2, 3, 5, 64, 500] {
            let records = fragmented(&whole, size);
            let Parsed::Hello(seen) = parse(&records) else { panic!("records of {size} bytes") };
            assert!(is_it(&seen), "records of {size} bytes: {seen:?}");
            assert!(!matches!(parse(&records[..records.len() - 1]), Parsed::Hello(_)));
        }
        // What follows the hello is not looked at.
        let Parsed::Hello(seen) = parse(&[&whole[..], b"anything"].concat()) else { panic!("a hello") };
        assert!(is_it(&seen));
    }

    /// What is no hello of TLS 1.2 or later, or longer than any, is none; nothing is guessed.
    #[test]
    fn t1_what_is_no_hello_is_none() {
        let whole = hello(&[b"istio"], "a");
        // Says to be so much longer than it is.
        for claimed in [LONGEST + 1, 64 << 10, (1 << 24) - 1] {
            let mut lying = whole.clone();
            lying[6..9].copy_from_slice(&u32::try_from(claimed).unwrap().to_be_bytes()[1..]);
            assert!(!matches!(parse(&lying), Parsed::Hello(_)), "{claimed}");
        }
        let mut other = whole.clone();
        // A handshake that is no hello; a record that is no handshake; one without an end.
        for (at, byte) in [(5, 2), (0, 0x17), (0, 0x15), (3, 0xff)] {
            other.clone_from(&whole);
            other[at] = byte;
            assert!(!matches!(parse(&other), Parsed::Hello(_)), "{at}");
        }
        // SSL 2.0.
        assert!(!matches!(parse(b"\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10"), Parsed::Hello(_)));
        // Empty records, and an endless one.
        assert!(!matches!(parse(&b"\x16\x03\x01\x00\x00".repeat(100)), Parsed::Hello(_)));
        let endless = fragmented(&[&[0; 5], &[1, 0xff, 0xff, 0xff][..], &[0; 40_000]].concat(), 1000);
        assert!(!matches!(parse(&endless), Parsed::Hello(_)));
    }

    /// One in pieces of one byte, with the stream's own end in the middle: no connection waits for what cannot come.
    #[tokio::test]
    async fn t1_a_hello_that_ends_in_the_middle_is_no_hello() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let sent = hello(&[b"istio"], "a");
        client.write_all(&sent[..sent.len() - 1]).await.unwrap();
        client.shutdown().await.unwrap();
        let error = peek(&server, Duration::from_secs(3600)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    /// H13: slow bytes do not make it wait longer, nor long ones read more.
    #[tokio::test(start_paused = true)]
    async fn slow_and_endless_ones_are_bounded() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pair = async || {
            let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            (client, listener.accept().await.unwrap().0)
        };
        let (mut client, server) = pair().await;
        let began = Instant::now();
        let dribbling = tokio::spawn(async move {
            for byte in hello(&[b"istio"], "reviews.default") {
                tokio::time::sleep(Duration::from_secs(3)).await;
                client.write_all(&[byte]).await.unwrap();
            }
        });
        let late = peek(&server, Duration::from_secs(10)).await.unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() < Duration::from_secs(11), "{:?}", began.elapsed());
        dribbling.abort();

        let (mut client, server) = pair().await;
        // Of 16 MiB, as its head says.
        let begun = [&[0x16, 3, 1, 0x40, 0][..], &[1, 0xff, 0xff, 0xff], &[0; 0x4000 - 4]].concat();
        let sending = tokio::spawn(async move {
            let _ = client.write_all(&begun).await;
            let _ = client.write_all(&begun).await;
            client
        });
        assert_eq!(peek(&server, Duration::from_secs(10)).await.unwrap(), None);
        drop(sending);
    }

    #[test]
    fn foreign_and_broken_hellos() {
        let Parsed::Hello(foreign) = parse(&hello(&[b"h2"], "a.example")) else { panic!("a hello") };
        assert!(!foreign.is_mesh());
        assert!(matches!(parse(b"\x16\x03\x01\x00\x05hello"), Parsed::Broken));
        assert!(matches!(parse(&hello(&[], "a")[..20]), Parsed::Partial));
    }
}
