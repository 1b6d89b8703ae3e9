//! What the data path knows about TLS: who is asking ([`client_hello`]), and which handshakes are the mesh's own.
//!
//! The configurations themselves, with their verifiers, are `mesh_proto::runtime::tls`.

pub mod client_hello;
pub mod client_rules;
pub mod files;
pub mod names;
pub mod originate;
pub mod pem;

pub use client_hello::{ClientHello, peek};

/// ALPN of HTTP/1.1 between sidecars.
pub const ALPN_HTTP1: &[u8] = b"istio-http/1.1";
/// ALPN of HTTP/1.0 between sidecars; only accepted.
pub const ALPN_HTTP10: &[u8] = b"istio-http/1.0";
/// ALPN of HTTP/2 between sidecars.
pub const ALPN_HTTP2: &[u8] = b"istio-h2";
/// ALPN of bytes between sidecars.
pub const ALPN_TCP: &[u8] = b"istio";

/// What a mesh connection carries, by the ALPN that was agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MeshAlpn {
    /// HTTP/1.
    Http1,
    /// HTTP/2.
    Http2,
    /// Bytes.
    Tcp,
}

impl MeshAlpn {
    /// What an agreed protocol name means; `None` when it is not one of the mesh's.
    #[must_use]
    pub fn of(name: &[u8]) -> Option<Self> {
        match name {
            ALPN_HTTP1 | ALPN_HTTP10 => Some(Self::Http1),
            ALPN_HTTP2 => Some(Self::Http2),
            ALPN_TCP => Some(Self::Tcp),
            _ => None,
        }
    }

    /// The name.
    #[must_use]
    pub fn name(self) -> &'static [u8] {
        match self {
            Self::Http1 => ALPN_HTTP1,
            Self::Http2 => ALPN_HTTP2,
            Self::Tcp => ALPN_TCP,
        }
    }
}

/// Istio's SNI between sidecars: `outbound_.<port>_.<subset>_.<host>`.
#[must_use]
pub fn mesh_sni(host: &str, port: u16, subset: Option<&str>) -> String {
    format!("outbound_.{port}_.{}_.{host}", subset.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for alpn in [MeshAlpn::Http1, MeshAlpn::Http2, MeshAlpn::Tcp] {
            assert_eq!(MeshAlpn::of(alpn.name()), Some(alpn));
        }
        assert_eq!(MeshAlpn::of(b"h2"), None);
        assert_eq!(MeshAlpn::of(b"istio-peer-exchange"), None);
        assert_eq!(
            mesh_sni("reviews.default.svc.cluster.local", 9080, Some("v1")),
            "outbound_.9080_.v1_.reviews.default.svc.cluster.local"
        );
    }
}
