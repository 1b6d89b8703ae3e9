//! A port of the application beside us, and how it is dialled.
//!
//! In: a port of the bootstrap, or the address that a captured connection was made to. Out: [`Application`]. Istio's way for
//! captured ones (since 1.10): the pod's address as the client dialled it, from 127.0.0.6 or ::6, which the rules let pass.
//! An application that listens only on 127.0.0.1 is therefore not reached from outside, as without a sidecar.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::config::InboundPort;
use crate::pool::Source;

/// Where a sidecar's connections to its own application come from.
pub const FROM_V4: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);
/// The same for IPv6; `mesh-proxy capture` gives it to the loopback interface.
pub const FROM_V6: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);

/// A port of the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Application {
    /// The container port, by which policy knows it.
    pub port: u16,
    /// Where the application listens.
    pub target: SocketAddr,
    /// The address to connect from.
    pub source: Option<Source>,
}

impl Application {
    /// The application at the address that was dialled. `client`: whose address it is to see (TPROXY).
    #[must_use]
    pub fn captured(dialled: SocketAddr, client: Option<IpAddr>) -> Self {
        let same_family = client.filter(|c| c.is_ipv4() == dialled.is_ipv4());
        let source = match (same_family, dialled) {
            (Some(client), _) => Source::Transparent(client),
            (None, SocketAddr::V4(_)) => Source::Own(FROM_V4.into()),
            (None, SocketAddr::V6(_)) => Source::Own(FROM_V6.into()),
        };
        Self { port: dialled.port(), target: dialled, source: Some(source) }
    }

    /// What the client dialled, where that is not where its connection arrived.
    #[must_use]
    pub fn dialled(&self) -> Option<SocketAddr> {
        self.source.map(|_| self.target)
    }
}

impl From<InboundPort> for Application {
    fn from(InboundPort { port, target, .. }: InboundPort) -> Self {
        Self { port, target, source: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_application_is_dialled_as_the_client_did_and_from_where_the_rules_let_pass() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let client = |text: &str| Some(text.parse().unwrap());
        let cases = [
            ("10.1.2.3:80", None, Source::Own("127.0.0.6".parse().unwrap())),
            ("[fd00::3]:80", None, Source::Own("::6".parse().unwrap())),
            ("10.1.2.3:80", client("10.9.9.9"), Source::Transparent("10.9.9.9".parse().unwrap())),
        ];
        for (dialled, client, source) in cases {
            let application = Application::captured(at(dialled), client);
            assert_eq!(application, Application { port: 80, target: at(dialled), source: Some(source) });
        }
    }
}
