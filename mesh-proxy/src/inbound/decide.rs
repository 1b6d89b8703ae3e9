//! What to do with an inbound connection: pure decisions over PeerAuthentication, the port's protocol and the first bytes.
//!
//! In: mode, declared protocol, what was seen. Out: [`Decision`]. Also asked again for live connections when policy changes.
//! Source: istio-features §7 (12): PERMISSIVE is a sniff per connection; STRICT lets nothing but mTLS reach a byte of the app.

use std::time::Duration;

use mesh_proto::model::Protocol;

use crate::detect::first_word;
use crate::http;
use crate::respond::Failure;
use crate::store::{MtlsMode, SelfConfig};

/// What the first bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// A TLS handshake with one of the mesh's protocols.
    MeshTls,
    /// Any other TLS handshake.
    ForeignTls,
    /// HTTP/1.
    Http1,
    /// HTTP/2.
    Http2,
    /// Other bytes.
    Other,
    /// None in time.
    Silent,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Terminate mTLS; a certificate is demanded.
    Mtls,
    /// Requests in plaintext.
    Http(http::Protocol),
    /// Bytes as they are.
    Opaque,
    /// Nothing.
    Close(Failure),
}

/// Whether the first bytes matter at all, and how long they are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// The decision is the same whatever comes: a server-first protocol must not wait.
    No,
    /// Look for so long.
    For(Duration),
    /// Look at the application too: where it speaks first, to a client that has been silent for `hold`, it is bytes; where it
    /// cannot be asked, silence for `limit` is.
    Both {
        /// The longest.
        limit: Duration,
        /// The shortest.
        hold: Duration,
    },
}

impl Look {
    /// How long to look at the client, if at all.
    #[must_use]
    pub fn limit(self) -> Option<Duration> {
        match self {
            Self::No => None,
            Self::For(limit) | Self::Both { limit, .. } => Some(limit),
        }
    }
}

/// How a live connection came through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Through {
    /// mTLS that we terminated.
    Mtls,
    /// Plaintext, or TLS that is the application's own.
    Plain,
    /// As a gateway's server says; PeerAuthentication is for workloads.
    Gateway,
}

/// How long a client of an HTTP port, or of a port that takes only TLS, may be silent.
pub const PATIENCE: Duration = Duration::from_secs(3600);
/// A detection timeout of zero means to wait for as long as it takes.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Whether to look at the first bytes of a connection to `port`.
#[must_use]
pub fn look(config: &SelfConfig, port: u16) -> Look {
    let declared = config.protocol_of(port);
    let detection = match config.protocol_detection_timeout {
        Duration::ZERO => FOR_EVER,
        limit => limit,
    };
    match config.mtls_of(port) {
        MtlsMode::MtlsStrict => Look::For(PATIENCE),
        MtlsMode::MtlsDisable if matches!(declared, Protocol::Tcp | Protocol::Tls) => Look::No,
        MtlsMode::MtlsDisable | MtlsMode::MtlsPermissive if declared.is_http() => Look::For(PATIENCE),
        // No server of TLS speaks first.
        MtlsMode::MtlsDisable | MtlsMode::MtlsPermissive if declared == Protocol::Tls => Look::For(detection),
        MtlsMode::MtlsDisable => Look::Both { limit: detection, hold: first_word::GRACE },
        MtlsMode::MtlsPermissive => Look::Both { limit: detection, hold: first_word::HOLD },
    }
}

/// What to do with a connection to `port` that began with `seen`. Where nothing may be let in ([`closed`]), requests are
/// still taken, to be told so; bytes cannot be.
#[must_use]
pub fn decide(config: &SelfConfig, port: u16, seen: Seen) -> Decision {
    match (admit(config, port, seen), closed(config)) {
        (Decision::Opaque, Some(failure)) => Decision::Close(failure),
        (decision, _) => decision,
    }
}

fn admit(config: &SelfConfig, port: u16, seen: Seen) -> Decision {
    let declared = config.protocol_of(port);
    let mode = config.mtls_of(port);
    match (mode, seen) {
        (MtlsMode::MtlsStrict, Seen::MeshTls | Seen::ForeignTls)
        | (MtlsMode::MtlsPermissive, Seen::MeshTls) => Decision::Mtls,
        (MtlsMode::MtlsStrict, _) => Decision::Close(refusal(config)),
        (_, Seen::MeshTls | Seen::ForeignTls) if declared.is_http() => {
            Decision::Close(Failure::ForeignTls { protocol: declared_name(declared) })
        }
        (_, Seen::MeshTls | Seen::ForeignTls) => Decision::Opaque,
        (_, _) if matches!(declared, Protocol::Tcp | Protocol::Tls) => Decision::Opaque,
        (_, Seen::Http1) => Decision::Http(http::Protocol::Http1),
        (_, Seen::Http2) => Decision::Http(http::Protocol::Http2),
        // The codec refuses in words what is no HTTP on a port that declares it.
        (_, Seen::Other | Seen::Silent) if declared.is_http() => Decision::Http(http::Protocol::Http1),
        (_, Seen::Other | Seen::Silent) => Decision::Opaque,
    }
}

/// Whether a live connection that came `through` would still be let in.
#[must_use]
pub fn still_allowed(config: &SelfConfig, port: u16, through: Through) -> bool {
    closed(config).is_none()
        && match (config.mtls_of(port), through) {
            (MtlsMode::MtlsStrict, Through::Plain) | (MtlsMode::MtlsDisable, Through::Mtls) => false,
            (MtlsMode::MtlsStrict | MtlsMode::MtlsPermissive, Through::Mtls)
            | (MtlsMode::MtlsPermissive | MtlsMode::MtlsDisable, Through::Plain)
            | (_, Through::Gateway) => true,
        }
}

/// Why not even what a live connection that came `through` carries may go on. (mTLS where a policy asks for none harms nobody:
/// it ends with the present request.)
#[must_use]
pub fn ended(config: &SelfConfig, port: u16, through: Through) -> Option<Failure> {
    let plain = through == Through::Plain && config.mtls_of(port) == MtlsMode::MtlsStrict;
    closed(config).or_else(|| plain.then(|| refusal(config)))
}

/// Why nothing at all is let in.
#[must_use]
pub fn closed(config: &SelfConfig) -> Option<Failure> {
    let origin = config.deny_all.as_deref()?;
    let policy = format!("{} {}/{}", origin.kind, origin.namespace, origin.name);
    Some(Failure::FailClosed { policy })
}

fn refusal(config: &SelfConfig) -> Failure {
    let policy = config.mtls_origin.as_deref();
    let policy = policy.map_or_else(|| "STRICT".to_owned(), |o| format!("{}/{}", o.namespace, o.name));
    Failure::PlaintextRefused { policy }
}

fn declared_name(declared: Protocol) -> &'static str {
    match declared {
        Protocol::Http => "HTTP",
        Protocol::Http2 => "HTTP2",
        Protocol::Grpc => "GRPC",
        Protocol::Auto | Protocol::Tls | Protocol::Tcp => "TCP",
    }
}

#[cfg(test)]
mod tests;
