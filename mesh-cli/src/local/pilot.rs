//! What the pilot tells: `GET /debug/status`, as far as meshctl uses it.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::http::{self, Server};

/// How long the pilot may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The pilot's view of the mesh.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PilotStatus {
    /// Every source has been read once.
    pub loaded: bool,
    pub resources: Vec<ResourceStatus>,
    pub proxies: Vec<ProxyStatus>,
    pub services: Vec<ServiceStatus>,
}

/// One configuration resource.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourceStatus {
    pub kind: String,
    pub namespace: String,
    pub name: String,
    /// `file:line`.
    pub location: String,
    /// `in_force`, `accepted`, `refused`, `superseded`.
    pub state: String,
    pub message: String,
    pub warnings: Vec<String>,
    pub observers: Observers,
}

/// How many proxies want a resource, and how many have it.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Observers {
    pub acked: u64,
    pub subscribed: u64,
}

/// One proxy.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ProxyStatus {
    pub node: String,
    pub namespace: String,
    pub name: String,
    pub identity: String,
    pub connected: bool,
    pub synced: bool,
    pub pending: u64,
    pub rejected: Vec<Rejected>,
}

/// What a proxy refused.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Rejected {
    pub resource: String,
    pub reason: String,
}

/// One service.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceStatus {
    /// `reviews.default.svc.cluster.local`.
    pub host: String,
    pub vip: Option<String>,
    /// All of them: one a family.
    pub vips: Vec<String>,
    pub ports: Vec<ServicePort>,
    pub endpoints: Vec<EndpointStatus>,
}

/// One port of a service.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ServicePort {
    pub number: u16,
    pub protocol: String,
    pub name: Option<String>,
}

/// One endpoint of a service.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointStatus {
    pub uid: String,
    pub address: String,
    pub ready: bool,
}

impl PilotStatus {
    /// Asks.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn fetch(pilot: &Server) -> anyhow::Result<Self> {
        let answer = http::get(pilot, "/debug/status", PATIENCE).await?;
        anyhow::ensure!(
            answer.status.is_success(),
            "the pilot answered {}: {}",
            answer.status,
            answer.text()
        );
        Ok(serde_json::from_slice(&answer.body)?)
    }

    /// Whether nobody sends to the pod any more: it is behind no service, and every connected proxy knows.
    #[must_use]
    pub fn is_withdrawn(&self, pod_ip: &str) -> bool {
        let is_it = |e: &EndpointStatus| {
            e.ready && e.address.rsplit_once(':').map_or(e.address.as_str(), |(ip, _)| ip) == pod_ip
        };
        let gone = !self.services.iter().flat_map(|s| &s.endpoints).any(is_it);
        gone && self.is_synced()
    }

    /// Whether every connected proxy has acknowledged the newest configuration.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.proxies.iter().filter(|p| p.connected).all(|p| p.synced)
    }
}

impl ResourceStatus {
    /// Says why something good is not in force, where the pilot had nothing more to say.
    pub fn explain(&mut self) {
        let Observers { acked, subscribed } = self.observers;
        if self.state != "accepted" || !self.message.is_empty() {
            return;
        }
        self.message = match self.kind.as_str() {
            "Deployment" | "Pod" | "ConfigMap" | "Secret" | "Namespace" | "ServiceAccount" => {
                "proxies need nothing of it: it says what runs here".to_owned()
            }
            "PeerAuthentication" | "AuthorizationPolicy" | "RequestAuthentication" if subscribed == 0 => {
                "it selects no workload whose proxy is connected".to_owned()
            }
            _ if subscribed == 0 => {
                "no proxy uses it yet: each fetches a host's configuration at its first request".to_owned()
            }
            _ => format!(
                "{} of {subscribed} proxies have not acknowledged it yet",
                subscribed - acked.min(subscribed)
            ),
        };
    }
}

impl ServiceStatus {
    /// Its cluster addresses.
    pub fn vips(&self) -> impl Iterator<Item = IpAddr> {
        self.vips.iter().filter_map(|vip| vip.parse().ok())
    }

    /// Name and namespace.
    #[must_use]
    pub fn name(&self) -> Option<(&str, &str)> {
        let mut labels = self.host.split('.');
        Some((labels.next()?, labels.next()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_accepted_but_not_in_force_says_why() {
        let why = |kind: &str, state: &str, acked, subscribed| {
            let observers = Observers { acked, subscribed };
            let mut resource = ResourceStatus {
                kind: kind.to_owned(),
                state: state.to_owned(),
                observers,
                ..ResourceStatus::default()
            };
            resource.explain();
            resource.message
        };
        assert!(why("VirtualService", "accepted", 0, 0).contains("no proxy uses it yet"));
        assert!(why("PeerAuthentication", "accepted", 0, 0).contains("selects no workload"));
        assert!(why("VirtualService", "accepted", 1, 3).contains("2 of 3 proxies"));
        assert!(why("Deployment", "accepted", 0, 0).contains("what runs here"));
        assert_eq!(why("VirtualService", "in_force", 1, 1), "");
    }

    #[test]
    fn a_pod_is_withdrawn_when_no_service_has_it_and_all_proxies_know() {
        let status = |ready: bool, synced: bool| -> PilotStatus {
            serde_json::from_value(serde_json::json!({
                "loaded": true,
                "services": [{"host": "a.default.svc.cluster.local", "vip": "127.9.255.2",
                    "endpoints": [{"uid": "u", "address": "127.9.4.1:8080", "ready": ready}]}],
                "proxies": [{"name": "b", "connected": true, "synced": synced},
                            {"name": "gone", "connected": false, "synced": false}],
            }))
            .unwrap()
        };
        assert!(!status(true, true).is_withdrawn("127.9.4.1"));
        assert!(!status(false, false).is_withdrawn("127.9.4.1"));
        assert!(status(false, true).is_withdrawn("127.9.4.1"));
        assert!(status(true, true).is_withdrawn("127.9.4.11"));
        assert_eq!(status(true, true).services[0].name(), Some(("a", "default")));
    }
}
