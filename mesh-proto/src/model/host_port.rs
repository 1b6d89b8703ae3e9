//! `host:port`, the name of a destination, a cluster and an endpoint set.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::wire::mesh::v1 as wire;

/// A lower-case host (FQDN, `*.suffix`, `*` or an IP address) and a port. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    host: Arc<str>,
    port: u16,
}

/// Why a text is no `host:port`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHostPort {
    /// There is no colon, or nothing on one side of it.
    #[error("{0:?} is not host:port")]
    Form(String),
    /// The port is no number from 1 to 65535.
    #[error("{0:?} is no port from 1 to 65535")]
    Port(String),
}

impl HostPort {
    /// Lower-cases `host` and drops one trailing dot.
    #[must_use]
    pub fn new(host: &str, port: u16) -> Self {
        let host = host.strip_suffix('.').unwrap_or(host);
        let host = if host.bytes().any(|b| b.is_ascii_uppercase()) {
            Arc::from(host.to_ascii_lowercase())
        } else {
            Arc::from(host)
        };
        Self { host, port }
    }

    /// The host, lower case, without a trailing dot.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for HostPort {
    type Err = InvalidHostPort;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, port) = text.rsplit_once(':').ok_or_else(|| InvalidHostPort::Form(text.to_owned()))?;
        if is_nothing(host) {
            return Err(InvalidHostPort::Form(text.to_owned()));
        }
        let number = port.parse::<u16>().ok().filter(|p| *p != 0);
        let port = number.ok_or_else(|| InvalidHostPort::Port(port.to_owned()))?;
        Ok(Self::new(host, port))
    }
}

/// Whether nothing is left of a host without the dot at its end, which does not count.
fn is_nothing(host: &str) -> bool {
    host.trim_end_matches('.').is_empty()
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl fmt::Debug for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<&HostPort> for wire::HostPort {
    fn from(name: &HostPort) -> Self {
        Self { host: name.host.to_string(), port: u32::from(name.port) }
    }
}

impl TryFrom<&wire::HostPort> for HostPort {
    type Error = InvalidHostPort;

    fn try_from(name: &wire::HostPort) -> Result<Self, Self::Error> {
        if is_nothing(&name.host) {
            return Err(InvalidHostPort::Form(format!("{}:{}", name.host, name.port)));
        }
        let port = u16::try_from(name.port).ok().filter(|p| *p != 0);
        Ok(Self::new(&name.host, port.ok_or_else(|| InvalidHostPort::Port(name.port.to_string()))?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_normalises() {
        let name: HostPort = "Reviews.Default.svc.cluster.local.:9080".parse().unwrap();
        assert_eq!(name.to_string(), "reviews.default.svc.cluster.local:9080");
        assert_eq!("[::1]:80".parse::<HostPort>().unwrap().host(), "[::1]");
    }

    #[test]
    fn refuses_what_is_no_host_port() {
        for text in ["", "a", ":80", ".:80", "..:80", "a:", "a:0", "a:65536", "a:x"] {
            assert!(text.parse::<HostPort>().is_err(), "{text:?}");
        }
        for (host, port) in [("", 80), (".", 80), ("a", 0), ("a", 65536)] {
            let name = wire::HostPort { host: host.to_owned(), port };
            assert!(HostPort::try_from(&name).is_err(), "{name:?}");
        }
    }
}
