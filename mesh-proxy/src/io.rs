//! The byte stream under a connection: plain TCP or TLS, either end of it.
//!
//! In: an accepted or connected socket, after its TLS handshake. Out: one type for everything above, without a box per call.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::pool::Lease;
use crate::revocation::Entry;

/// A connected byte stream. TLS states are boxed: the enum is moved with every change of owner.
pub enum Io {
    /// Plain TCP.
    Plain(TcpStream),
    /// TLS that we accepted.
    Server(Box<tokio_rustls::server::TlsStream<TcpStream>>),
    /// TLS that we opened.
    Client(Box<tokio_rustls::client::TlsStream<TcpStream>>),
    /// One of those with a peer of the mesh at the other end, which ends when the peer is revoked.
    Watched(Box<Watched>),
    /// One of those that we opened, and that counts as a connection as long as it lives.
    Counted(Box<Counted>),
    /// An in-memory stream: tests with paused time need one.
    #[cfg(test)]
    Memory(tokio::io::DuplexStream),
}

/// A connection in the table of those that can be ended.
pub struct Watched {
    // First: it leaves the table before the socket closes.
    _entry: Entry,
    io: Io,
}

/// A connection under a limit.
pub struct Counted {
    io: Io,
    _lease: Lease,
}

impl Io {
    /// The same, counted until it is dropped.
    #[must_use]
    pub fn counted(self, lease: Lease) -> Self {
        Self::Counted(Box::new(Counted { io: self, _lease: lease }))
    }

    /// The same, in the table until it is dropped.
    #[must_use]
    pub fn watched(self, entry: Entry) -> Self {
        Self::Watched(Box::new(Watched { _entry: entry, io: self }))
    }

    /// The socket below; none for a stream that has no socket.
    #[must_use]
    pub fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(tcp) => Some(tcp),
            Self::Server(tls) => Some(tls.get_ref().0),
            Self::Client(tls) => Some(tls.get_ref().0),
            Self::Counted(counted) => counted.io.tcp(),
            Self::Watched(watched) => watched.io.tcp(),
            #[cfg(test)]
            Self::Memory(_) => None,
        }
    }

    /// The peer's address.
    #[must_use]
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.tcp().and_then(|tcp| tcp.peer_addr().ok())
    }

    /// The peer's certificate chain, where TLS asked for one.
    #[must_use]
    pub fn peer_certificates(&self) -> Option<&[CertificateDer<'static>]> {
        match self {
            Self::Server(tls) => tls.get_ref().1.peer_certificates(),
            Self::Client(tls) => tls.get_ref().1.peer_certificates(),
            Self::Counted(counted) => counted.io.peer_certificates(),
            Self::Watched(watched) => watched.io.peer_certificates(),
            _ => None,
        }
    }

    /// The application protocol that the TLS handshake agreed on.
    #[must_use]
    pub fn alpn(&self) -> Option<&[u8]> {
        match self {
            Self::Server(tls) => tls.get_ref().1.alpn_protocol(),
            Self::Client(tls) => tls.get_ref().1.alpn_protocol(),
            Self::Counted(counted) => counted.io.alpn(),
            Self::Watched(watched) => watched.io.alpn(),
            _ => None,
        }
    }

    /// Whether several slices go out in one system call. TLS gathers them into records by itself.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        match self {
            Self::Server(_) | Self::Client(_) => true,
            Self::Counted(counted) => counted.io.is_tls(),
            Self::Watched(watched) => watched.io.is_tls(),
            _ => false,
        }
    }

    /// Whether an idle connection can still be used: the peer has neither closed it nor sent anything unasked.
    #[must_use]
    pub fn is_quiet(&mut self) -> bool {
        let mut byte = [0_u8; 1];
        let mut buffer = ReadBuf::new(&mut byte);
        let mut context = Context::from_waker(std::task::Waker::noop());
        Pin::new(self).poll_read(&mut context, &mut buffer).is_pending()
    }
}

/// Runs one expression on whichever stream it is.
macro_rules! each {
    ($io:expr, $stream:ident => $call:expr) => {
        match $io.get_mut() {
            Io::Plain($stream) => $call,
            Io::Server($stream) => $call,
            Io::Client($stream) => $call,
            Io::Counted(counted) => {
                let $stream = &mut counted.io;
                $call
            }
            Io::Watched(watched) => {
                let $stream = &mut watched.io;
                $call
            }
            #[cfg(test)]
            Io::Memory($stream) => $call,
        }
    };
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, s => Pin::new(s).poll_read(cx, buf))
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, s => Pin::new(s).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, s => Pin::new(s).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, s => Pin::new(s).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, s => Pin::new(s).poll_shutdown(cx))
    }
}
