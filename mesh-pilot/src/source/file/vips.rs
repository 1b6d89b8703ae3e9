//! Cluster IPs for services that bring none: stable over changes and restarts, and no two services ever share one.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ipnet::{Ipv4Net, Ipv6Net};

use super::last_good::write_by_rename;

/// The addresses given out. A service that goes away keeps its own until there is no other left.
#[derive(Debug)]
pub struct Vips {
    cidr: Ipv4Net,
    v6: Option<Ipv6Net>,
    path: PathBuf,
    given: BTreeMap<String, Ipv4Addr>,
    live: BTreeSet<String>,
}

impl Vips {
    /// What an earlier run has given out. An unreadable file is told and started afresh.
    pub fn open(cidr: Ipv4Net, v6: Option<Ipv6Net>, path: PathBuf) -> Self {
        let given: BTreeMap<String, Ipv4Addr> = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).unwrap_or_else(|error| {
                tracing::warn!(path = %path.display(), %error, "unreadable cluster IPs; services get new ones");
                BTreeMap::new()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "unreadable cluster IPs; services get new ones");
                BTreeMap::new()
            }
        };
        let given = given.into_iter().filter(|(_, ip)| cidr.contains(ip)).collect();
        Self { cidr, v6, path, given, live: BTreeSet::new() }
    }

    /// The address of a service (`namespace/name`); one that it asks for is given if it is free. `None`: none is left.
    pub fn allocate(&mut self, service: &str, wanted: Option<IpAddr>) -> Option<IpAddr> {
        self.live.insert(service.to_owned());
        let taken: BTreeSet<_> =
            self.given.iter().filter(|(s, _)| *s != service).map(|(_, ip)| *ip).collect();
        let wanted = match wanted {
            Some(IpAddr::V4(ip)) if self.usable(ip) && !taken.contains(&ip) => Some(ip),
            _ => None,
        };
        let address = wanted.or_else(|| self.given.get(service).copied()).or_else(|| self.free(&taken))?;
        if self.given.get(service) != Some(&address) {
            self.given.retain(|_, ip| *ip != address);
            self.given.insert(service.to_owned(), address);
            self.save();
        }
        Some(IpAddr::V4(address))
    }

    /// The IPv6 address that goes with one that was given: the same host bits in the other range.
    pub fn v6_of(&self, given: IpAddr) -> Option<IpAddr> {
        let (Some(v6), IpAddr::V4(given)) = (self.v6, given) else { return None };
        let host = given.to_bits() & self.cidr.hostmask().to_bits();
        let address = Ipv6Addr::from_bits(v6.network().to_bits() | u128::from(host));
        v6.contains(&address).then_some(IpAddr::V6(address))
    }

    /// The service is gone. Its address stays its own for when it comes back.
    pub fn release(&mut self, service: &str) {
        self.live.remove(service);
    }

    /// A free address, else that of a service that is gone.
    fn free(&self, taken: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
        let usable = || self.cidr.hosts().filter(|ip| self.usable(*ip));
        let gone = || {
            let gone = self.given.iter().filter(|(service, _)| !self.live.contains(*service));
            gone.map(|(_, ip)| *ip).next()
        };
        usable().find(|ip| !taken.contains(ip)).or_else(gone)
    }

    /// Not the first host: a proxy maps a service's address by its host bits into its own network, where that is the pod.
    fn usable(&self, ip: Ipv4Addr) -> bool {
        let host = u32::from(ip).wrapping_sub(u32::from(self.cidr.network()));
        self.cidr.contains(&ip) && host >= 2 && ip != self.cidr.broadcast()
    }

    fn save(&self) {
        let written = serde_json::to_vec_pretty(&self.given)
            .map_err(io::Error::other)
            .and_then(|text| write_by_rename(&self.path, &text));
        if let Err(error) = written {
            tracing::warn!(path = %self.path.display(), %error, "cannot keep the cluster IPs");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([127, 5, 255, last]))
    }

    #[test]
    fn both_families_have_the_same_host() {
        let dir = tempfile::tempdir().unwrap();
        let v6 = "fd00::ff:0/112".parse().unwrap();
        let vips = Vips::open("10.5.255.0/24".parse().unwrap(), Some(v6), dir.path().join("vips.json"));
        assert_eq!(vips.v6_of("10.5.255.7".parse().unwrap()), "fd00::ff:7".parse().ok());
        let vips = Vips::open("10.5.255.0/24".parse().unwrap(), None, dir.path().join("vips.json"));
        assert_eq!(vips.v6_of("10.5.255.7".parse().unwrap()), None);
    }

    #[test]
    fn stable_over_restarts_and_never_shared() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vips.json");
        let open = || Vips::open("127.5.255.0/29".parse().unwrap(), None, path.clone());
        let mut vips = open();
        assert_eq!(vips.allocate("default/a", None), ip(2));
        assert_eq!(vips.allocate("default/b", ip(6)), ip(6), "asked for and free");
        assert_eq!(vips.allocate("default/c", ip(2)), ip(3), "asked for and taken");
        assert_eq!(vips.allocate("default/d", Some("10.0.0.1".parse().unwrap())), ip(4), "not of this mesh");
        let mut vips = open();
        for (service, last) in [("default/d", 4), ("default/c", 3), ("default/b", 6), ("default/a", 2)] {
            assert_eq!(vips.allocate(service, None), ip(last));
        }
        assert_eq!(vips.allocate("default/e", None), ip(5));
        assert_eq!(vips.allocate("default/f", None), None, ".1, .7 and .0 are not given out");
        vips.release("default/c");
        assert_eq!(vips.allocate("default/f", None), ip(3), "of one that is gone");
        std::fs::write(&path, "{").unwrap();
        assert_eq!(open().allocate("default/z", None), ip(2));
    }
}
