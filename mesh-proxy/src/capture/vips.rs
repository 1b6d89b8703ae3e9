//! Which listeners an instance needs for the services that it may see, and what changes when the catalogue does.
//!
//! In: the cluster IPs and ports of the catalogue, and the bootstrap's mapping. Out: addresses to open and to close.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::config::Vips;

/// A service's address as the catalogue has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vip {
    /// The cluster IP.
    pub ip: IpAddr,
    /// The port.
    pub port: u16,
}

/// The listeners for `wanted`: where each is bound, and for which cluster IP. Cluster IPs outside of the mapped range
/// have none.
#[must_use]
pub fn listeners(mapping: Vips, wanted: impl IntoIterator<Item = Vip>) -> BTreeMap<SocketAddr, Vip> {
    wanted
        .into_iter()
        .filter_map(|vip| Some((SocketAddr::new(mapping.listener(vip.ip)?, vip.port), vip)))
        .collect()
}

/// What to open and what to close. A listener whose address now stands for another service is both.
#[must_use]
pub fn changes(
    open: &BTreeMap<SocketAddr, Vip>,
    wanted: &BTreeMap<SocketAddr, Vip>,
) -> (Vec<SocketAddr>, Vec<SocketAddr>) {
    let missing = |from: &BTreeMap<SocketAddr, Vip>, of: &BTreeMap<SocketAddr, Vip>| {
        of.iter().filter(|(at, vip)| from.get(at) != Some(vip)).map(|(at, _)| *at).collect()
    };
    (missing(open, wanted), missing(wanted, open))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vip(text: &str) -> Vip {
        let at: SocketAddr = text.parse().unwrap();
        Vip { ip: at.ip(), port: at.port() }
    }

    #[test]
    fn opens_what_appears_and_closes_what_goes() {
        let mapping = Vips { from: "127.9.255.0/24".parse().unwrap(), to: "127.9.4.0/24".parse().unwrap() };
        let before = listeners(mapping, [vip("127.9.255.2:80"), vip("10.0.0.1:80")]);
        assert_eq!(before.keys().map(ToString::to_string).collect::<Vec<_>>(), ["127.9.4.2:80"]);
        let after = listeners(mapping, [vip("127.9.255.3:80"), vip("127.9.255.3:90")]);
        let (open, close) = changes(&before, &after);
        assert_eq!(open.len(), 2);
        assert_eq!(close, ["127.9.4.2:80".parse().unwrap()]);
        assert_eq!(changes(&after, &after), (vec![], vec![]));
    }
}
