//! Who a proxy says it is: the `node.id` of its first request, parsed. What it may have is decided by its certificate
//! and by the index, never by this.

use std::net::IpAddr;
use std::sync::Arc;

/// Sidecar or gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeKind {
    /// Beside an application.
    Sidecar,
    /// A gateway.
    Router,
}

/// `<kind>~<ip>~<pod>.<namespace>~<namespace>.svc.<cluster domain>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The whole id, for people.
    pub id: Arc<str>,
    /// Sidecar or gateway.
    pub kind: NodeKind,
    /// The pod's address, as the proxy sees it.
    pub address: IpAddr,
    /// The pod's name.
    pub pod: Arc<str>,
    /// The pod's namespace.
    pub namespace: Arc<str>,
}

/// Why a text is no node id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no node id (<sidecar|router>~<ip>~<pod>.<namespace>~<namespace>.svc.<cluster domain>)")]
pub struct InvalidNode(String);

impl std::str::FromStr for Node {
    type Err = InvalidNode;

    fn from_str(id: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidNode(id.chars().take(200).collect());
        let mut parts = id.split('~');
        let (Some(kind), Some(ip), Some(name), Some(domain), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(invalid());
        };
        let kind = match kind {
            "sidecar" => NodeKind::Sidecar,
            "router" => NodeKind::Router,
            _ => return Err(invalid()),
        };
        let (namespace, _) = domain.split_once(".svc.").ok_or_else(invalid)?;
        // A pod's name may have dots; its namespace has none.
        let (pod, pod_namespace) = name.rsplit_once('.').ok_or_else(invalid)?;
        if pod.is_empty() || namespace.is_empty() || namespace != pod_namespace {
            return Err(invalid());
        }
        Ok(Self {
            id: Arc::from(id),
            kind,
            address: ip.parse().map_err(|_| invalid())?,
            pod: Arc::from(pod),
            namespace: Arc::from(namespace),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_ids_apart() {
        let node: Node = "sidecar~127.5.1.1~reviews.v2-0.default~default.svc.cluster.local".parse().unwrap();
        assert_eq!((node.kind, &*node.pod, &*node.namespace), (NodeKind::Sidecar, "reviews.v2-0", "default"));
        for bad in [
            "",
            "sidecar~127.0.0.1~a.b",
            "proxy~127.0.0.1~a.b~b.svc.x",
            "router~x~a.b~b.svc.x",
            "router~127.0.0.1~a.b~c.svc.x",
            "router~127.0.0.1~.b~b.svc.x",
            "router~127.0.0.1~a.b~b.svc.x~y",
        ] {
            assert!(bad.parse::<Node>().is_err(), "{bad:?}");
        }
    }
}
