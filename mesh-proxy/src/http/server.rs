//! Serving one accepted connection, whichever protocol it speaks.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use crate::drain::DrainWatch;
use crate::http::service::Service;
use crate::http::{h1, h2};
use crate::io::Io;

/// The protocol of a connection, known from ALPN or the first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.0 and HTTP/1.1.
    Http1,
    /// HTTP/2, with prior knowledge or by ALPN.
    Http2,
}

/// Limits of a served connection.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// The longest head, in bytes.
    pub max_head: usize,
    /// The most header fields of a head.
    pub max_headers: usize,
    /// From the first byte of a head to its last.
    pub header_timeout: Duration,
    /// From the end of an exchange to the next request's first byte.
    pub idle_timeout: Duration,
    /// The longest silence inside a request body, and the longest wait for the client to take answer bytes.
    pub body_timeout: Duration,
    /// The longest time for a body that is held until somebody has been asked about it: however steadily it drips.
    pub hold_timeout: Duration,
    /// How long an idle connection still takes a request after the drain has begun: one may be on its way.
    pub drain_linger: Duration,
    /// How much of a request body is read and dropped after an early answer, before the connection is closed instead.
    pub drain_body: usize,
    /// HTTP/2 only.
    pub http2: Http2Settings,
}

/// Limits of an HTTP/2 connection.
#[derive(Debug, Clone)]
pub struct Http2Settings {
    /// Open streams.
    pub max_streams: u32,
    /// Bytes that a peer may send on one stream before we take them.
    pub stream_window: u32,
    /// The same for the connection.
    pub connection_window: u32,
    /// Decoded size of a header list.
    pub max_header_list: u32,
    /// Bytes buffered for a stream that the peer does not read.
    pub send_buffer: usize,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            max_head: 64 << 10,
            max_headers: 100,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(3600),
            body_timeout: Duration::from_secs(300),
            hold_timeout: Duration::from_secs(300),
            drain_linger: Duration::from_secs(1),
            drain_body: 64 << 10,
            http2: Http2Settings::default(),
        }
    }
}

impl Default for Http2Settings {
    fn default() -> Self {
        Self {
            max_streams: 100,
            stream_window: 256 << 10,
            connection_window: 4 << 20,
            max_header_list: 16 << 10,
            send_buffer: 256 << 10,
        }
    }
}

/// Serves a connection until it ends. `first` is what was read from it already. Dropping the future closes it at once.
pub async fn serve_connection<S: Service>(
    io: Io,
    first: Bytes,
    protocol: Protocol,
    settings: &ServerSettings,
    service: Rc<S>,
    drain: DrainWatch,
) {
    match protocol {
        Protocol::Http1 => h1::server::serve(io, first, settings, &*service, &drain).await,
        Protocol::Http2 => h2::server::serve(io, first, settings, &*service, &drain).await,
    }
}
