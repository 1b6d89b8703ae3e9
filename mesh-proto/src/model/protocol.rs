//! The protocol of a port, as Istio's protocol selection says: `appProtocol`, then the port name's prefix, then the
//! well-known server-first ports, else detection.

pub use crate::wire::mesh::v1::Protocol;

impl Protocol {
    /// The protocol that a Service port declares. `Auto` when nothing declares one.
    ///
    /// Source: Istio's protocol selection; ports 25, 53, 3306 and 27017 are server-first and never sniffed.
    #[must_use]
    pub fn of_port(app_protocol: Option<&str>, name: Option<&str>, number: u16) -> Self {
        if let Some(declared) = app_protocol.and_then(Self::of_word) {
            return declared;
        }
        let prefix = name
            .map(|n| if n.starts_with("grpc-web") { "grpc-web" } else { n.split('-').next().unwrap_or(n) });
        if let Some(declared) = prefix.and_then(Self::of_word) {
            return declared;
        }
        if matches!(number, 25 | 53 | 3306 | 27017) { Self::Tcp } else { Self::Auto }
    }

    /// One protocol word, any case; `None` when it is not one of Istio's.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        Some(match word.to_ascii_lowercase().as_str() {
            "http" | "grpc-web" | "kubernetes.io/ws" => Self::Http,
            "http2" | "kubernetes.io/h2c" => Self::Http2,
            "grpc" => Self::Grpc,
            "https" | "tls" | "kubernetes.io/wss" => Self::Tls,
            "tcp" | "mongo" | "mysql" | "redis" => Self::Tcp,
            _ => return None,
        })
    }

    /// Whether requests are routed (as opposed to bytes). `Auto` may turn out to be either.
    #[must_use]
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc)
    }

    /// Whether bytes are forwarded as they come, without looking at them first (server-first protocols are safe).
    #[must_use]
    pub fn is_opaque(self) -> bool {
        matches!(self, Self::Tcp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selection() {
        let cases = [
            (None, Some("http"), 80, Protocol::Http),
            (None, Some("http-web"), 80, Protocol::Http),
            (None, Some("httpfoo"), 80, Protocol::Auto),
            (Some("grpc"), Some("http"), 80, Protocol::Grpc),
            (Some("kubernetes.io/h2c"), None, 80, Protocol::Http2),
            (Some("example.com/own"), Some("tcp-x"), 80, Protocol::Tcp),
            (None, Some("grpc-web-x"), 80, Protocol::Http),
            (None, None, 3306, Protocol::Tcp),
            (None, Some("http"), 3306, Protocol::Http),
            (None, None, 8080, Protocol::Auto),
            (None, Some("https"), 443, Protocol::Tls),
        ];
        for (app, name, number, expected) in cases {
            assert_eq!(Protocol::of_port(app, name, number), expected, "{app:?} {name:?} {number}");
        }
    }
}
