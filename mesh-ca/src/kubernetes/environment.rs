//! The settings on Kubernetes: environment variables in, typed settings out.
//!
//! | variable | default | |
//! |---|---|---|
//! | `POD_NAMESPACE` | `istio-system` | where Secret, ConfigMap and the pilot are |
//! | `TRUST_DOMAIN` | `cluster.local` | of every identity that is signed |
//! | `CLUSTER_DOMAIN` | `cluster.local` | of the pilot's DNS names |
//! | `REVISION` | `default` | the pilot's revisions, by commas: each but `default` gets DNS names of its own |
//! | `DEFAULT_WORKLOAD_CERT_TTL`, `MAX_WORKLOAD_CERT_TTL` | `24h`, `2160h` | lives of leaves (Istio's names) |
//! | `MIN_WORKLOAD_CERT_TTL` | `1m` | the shortest life of a leaf that a caller may ask for |
//! | `CITADEL_SELF_SIGNED_CA_CERT_TTL` | `87600h` | the life of a self-signed root (Istio's name) |
//! | `CITADEL_SELF_SIGNED_ROOT_CERT_GRACE_PERIOD_PERCENTILE` | `20` | the share of it that is left when another root takes its place; 0: never |
//! | `CA_RATE_LIMIT`, `CA_RATE_BURST` | `20`, `2000` | certificates for one identity: a second, and at once |
//! | `CA_LISTEN`, `CA_HEALTH`, `CA_METRICS` | `[::]:15012`, `[::]:8080`, `[::]:15014` | addresses |
//! | `CA_BUNDLE` | | where other trust domains read our bundle (`https_spiffe`); without it nowhere |
//! | `CA_FEDERATION` | `[]` | other trust domains: JSON, as in the configuration of a local mesh |
//! | `CA_ADMIN` | `127.0.0.1:15000` | where an operator's commands come in: loopback, `meshctl ca` forwards a port to it |

use std::net::SocketAddr;
use std::time::Duration;

use mesh_proto::model::identity::is_kubernetes_name;
use mesh_proto::model::{InvalidIdentity, SpiffeId, TrustDomain};

use crate::authority::{Limits, Policy};
use crate::federation::{self, Federated};
use crate::keeper;
use crate::limit::Rate;

/// The service account of the authority.
const AUTHORITY: &str = "mesh-ca";
/// The service account of the pilot, and the name of its Service.
const PILOT: &str = "mesh-pilot";
/// Istio's name.
const GRACE: &str = "CITADEL_SELF_SIGNED_ROOT_CERT_GRACE_PERIOD_PERCENTILE";
/// The longest life that can be set: twenty years.
const LONGEST: u64 = 20 * 365 * 86400;

/// Why the environment cannot be used. The fault is with whoever set it.
#[derive(Debug, thiserror::Error)]
#[error("environment variable {name}={value:?}: {why}")]
pub struct InvalidEnvironment {
    name: &'static str,
    value: String,
    why: String,
}

/// The settings of the authority on Kubernetes.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Where Secret and ConfigMap are.
    pub namespace: String,
    /// The authority's own identity.
    pub own: SpiffeId,
    /// The pilot's identity.
    pub pilot: SpiffeId,
    /// The pilot's DNS names.
    pub pilot_names: Vec<String>,
    /// How long leaves live.
    pub limits: Limits,
    /// The life of a self-signed root.
    pub root_life: Duration,
    /// The share of it, in percent, that is left when another one takes its place.
    pub grace_percent: u8,
    /// The certificates that one identity may have.
    pub rate: Rate,
    /// Where other trust domains read our bundle.
    pub bundle: Option<SocketAddr>,
    /// Other trust domains whose identities are believed.
    pub federation: Vec<Federated>,
    /// Where an operator's commands come in.
    pub admin: SocketAddr,
    /// Where the certificate service listens.
    pub listen: SocketAddr,
    /// Where the kubelet asks for `/ready`.
    pub health: SocketAddr,
    /// Where `/metrics` is served.
    pub metrics: SocketAddr,
}

impl Settings {
    /// From the environment of this process.
    ///
    /// # Errors
    /// When a variable has a value that cannot be meant.
    pub fn from_env() -> Result<Self, InvalidEnvironment> {
        Self::from_lookup(|name| std::env::var(name).ok())
    }

    /// From what `lookup` says of each variable. One that is empty is one that is not set.
    ///
    /// # Errors
    /// When a variable has a value that cannot be meant.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, InvalidEnvironment> {
        let get = |name: &str, default: &str| {
            lookup(name).filter(|value| !value.trim().is_empty()).unwrap_or_else(|| default.to_owned())
        };
        let namespace = get("POD_NAMESPACE", "istio-system");
        let trust_domain: TrustDomain = parse("TRUST_DOMAIN", get("TRUST_DOMAIN", "cluster.local"))?;
        let cluster_domain = get("CLUSTER_DOMAIN", "cluster.local");
        check_name("CLUSTER_DOMAIN", &cluster_domain)?;
        let account = |name| {
            SpiffeId::new(&trust_domain, &namespace, name)
                .map_err(|e: InvalidIdentity| invalid("POD_NAMESPACE", &namespace, e))
        };
        let (own, pilot) = (account(AUTHORITY)?, account(PILOT)?);
        let pilot_names = pilot_names(&get("REVISION", "default"), &namespace, &cluster_domain)?;
        let life = |name, default| life(name, &get(name, default));
        let number = |name: &'static str, default| parse::<f64>(name, get(name, default));
        let rate = Rate::new(number("CA_RATE_LIMIT", "20")?, number("CA_RATE_BURST", "2000")?)
            .map_err(|why| invalid("CA_RATE_LIMIT", &get("CA_RATE_LIMIT", "20"), why))?;
        let text = get("CA_FEDERATION", "[]");
        let federation: Vec<Federated> =
            serde_json::from_str(&text).map_err(|e| invalid("CA_FEDERATION", &text, e))?;
        federation::domains(&federation, &trust_domain).map_err(|e| invalid("CA_FEDERATION", &text, e))?;
        let grace_percent = parse(GRACE, get(GRACE, "20"))?;
        if grace_percent > 90 {
            return Err(invalid(GRACE, &get(GRACE, "20"), "more than 90: a root would always be replaced"));
        }
        Ok(Self {
            own,
            pilot,
            pilot_names,
            limits: Limits {
                default: life("DEFAULT_WORKLOAD_CERT_TTL", "24h")?,
                min: life("MIN_WORKLOAD_CERT_TTL", "1m")?,
                max: life("MAX_WORKLOAD_CERT_TTL", "2160h")?,
            },
            root_life: life("CITADEL_SELF_SIGNED_CA_CERT_TTL", "87600h")?,
            grace_percent,
            rate,
            bundle: lookup("CA_BUNDLE")
                .filter(|text| !text.trim().is_empty())
                .map(|text| parse("CA_BUNDLE", text))
                .transpose()?,
            federation,
            admin: parse("CA_ADMIN", get("CA_ADMIN", "127.0.0.1:15000"))?,
            listen: parse("CA_LISTEN", get("CA_LISTEN", "[::]:15012"))?,
            health: parse("CA_HEALTH", get("CA_HEALTH", "[::]:8080"))?,
            metrics: parse("CA_METRICS", get("CA_METRICS", "[::]:15014"))?,
            namespace,
        })
    }

    /// How everything is kept.
    #[must_use]
    pub fn keeper(&self) -> keeper::Settings {
        keeper::Settings {
            policy: self.policy(),
            pilot: self.pilot.clone(),
            federated: self.federation.iter().map(|one| one.trust_domain.clone()).collect(),
            root_life: self.root_life,
            grace_percent: self.grace_percent,
            clock: keeper::Clock::default(),
        }
    }

    /// What is signed for whom.
    #[must_use]
    pub fn policy(&self) -> Policy {
        Policy {
            own: self.own.clone(),
            limits: self.limits,
            dns: Some((self.pilot.clone(), self.pilot_names.clone())),
        }
    }
}

/// The names of the pilots of all revisions.
fn pilot_names(
    revisions: &str,
    namespace: &str,
    cluster_domain: &str,
) -> Result<Vec<String>, InvalidEnvironment> {
    let mut pilot_names = Vec::new();
    for revision in revisions.split(',').map(str::trim) {
        if !is_kubernetes_name(revision) {
            return Err(invalid("REVISION", revisions, "not names, separated by commas"));
        }
        let service = if revision == "default" { PILOT.to_owned() } else { format!("{PILOT}-{revision}") };
        pilot_names.extend(names_of(&service, namespace, cluster_domain));
    }
    // A revision's pilot is reached by the plain name too, once it is the default.
    for name in names_of(PILOT, namespace, cluster_domain) {
        if !pilot_names.contains(&name) {
            pilot_names.push(name);
        }
    }
    Ok(pilot_names)
}

/// The names under which a Service is called.
fn names_of(service: &str, namespace: &str, cluster_domain: &str) -> [String; 3] {
    let short = format!("{service}.{namespace}");
    [format!("{short}.svc"), format!("{short}.svc.{cluster_domain}"), short]
}

fn check_name(variable: &'static str, value: &str) -> Result<(), InvalidEnvironment> {
    if is_kubernetes_name(value) { Ok(()) } else { Err(invalid(variable, value, "not a DNS name")) }
}

/// A duration as Go writes it: `24h`, `1h30m`, `90s`.
fn life(name: &'static str, value: &str) -> Result<Duration, InvalidEnvironment> {
    let wrong = || invalid(name, value, "not a duration like 24h, 90m or 3600s between 1s and twenty years");
    let (mut seconds, mut number) = (0_u64, None::<u64>);
    for letter in value.trim().chars() {
        if let Some(digit) = letter.to_digit(10) {
            let so_far = number.unwrap_or(0).checked_mul(10).ok_or_else(wrong)?;
            number = Some(so_far.checked_add(u64::from(digit)).ok_or_else(wrong)?);
            continue;
        }
        let unit = match letter {
            'h' => 3600,
            'm' => 60,
            's' => 1,
            _ => return Err(wrong()),
        };
        let part = number.take().and_then(|n| n.checked_mul(unit)).ok_or_else(wrong)?;
        seconds = seconds.checked_add(part).ok_or_else(wrong)?;
    }
    if number.is_some() || !(1..=LONGEST).contains(&seconds) {
        return Err(wrong());
    }
    Ok(Duration::from_secs(seconds))
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(
    name: &'static str,
    value: String,
) -> Result<T, InvalidEnvironment> {
    value.trim().parse().map_err(|e: T::Err| invalid(name, &value, e))
}

fn invalid(name: &'static str, value: &str, why: impl std::fmt::Display) -> InvalidEnvironment {
    InvalidEnvironment { name, value: value.to_owned(), why: why.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(set: &[(&str, &str)]) -> Result<Settings, InvalidEnvironment> {
        let set: Vec<_> = set.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Settings::from_lookup(|name| set.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone()))
    }

    #[test]
    fn without_anything_it_is_istio_system() {
        let settings = settings(&[("TRUST_DOMAIN", " ")]).unwrap();
        assert_eq!(settings.own.as_str(), "spiffe://cluster.local/ns/istio-system/sa/mesh-ca");
        assert_eq!(settings.pilot.as_str(), "spiffe://cluster.local/ns/istio-system/sa/mesh-pilot");
        assert_eq!(
            settings.pilot_names,
            [
                "mesh-pilot.istio-system.svc",
                "mesh-pilot.istio-system.svc.cluster.local",
                "mesh-pilot.istio-system"
            ]
        );
        assert_eq!(settings.limits.default, Duration::from_secs(86400));
        assert_eq!(settings.limits.max, Duration::from_secs(90 * 86400));
        assert_eq!(settings.listen.port(), 15012);
    }

    #[test]
    fn a_revision_has_names_of_its_own_beside_the_plain_ones() {
        let settings = settings(&[
            ("REVISION", "canary"),
            ("POD_NAMESPACE", "mesh"),
            ("CLUSTER_DOMAIN", "example.org"),
            ("TRUST_DOMAIN", "td"),
        ])
        .unwrap();
        assert_eq!(settings.pilot.as_str(), "spiffe://td/ns/mesh/sa/mesh-pilot");
        assert!(settings.pilot_names.contains(&"mesh-pilot-canary.mesh.svc".to_owned()));
        assert!(settings.pilot_names.contains(&"mesh-pilot.mesh.svc.example.org".to_owned()));
        assert_eq!(settings.pilot_names.len(), 6);
    }

    #[test]
    fn refuses_what_cannot_be_meant_by_name() {
        for (name, value) in [
            ("TRUST_DOMAIN", "Cluster.Local"),
            ("POD_NAMESPACE", "a/b"),
            ("CLUSTER_DOMAIN", "*"),
            ("REVISION", "a,,b"),
            ("REVISION", "*.x"),
            ("DEFAULT_WORKLOAD_CERT_TTL", "24"),
            ("DEFAULT_WORKLOAD_CERT_TTL", "h"),
            ("MAX_WORKLOAD_CERT_TTL", "0s"),
            ("MAX_WORKLOAD_CERT_TTL", "99999999999999999999h"),
            ("MAX_WORKLOAD_CERT_TTL", "-1h"),
            ("CA_LISTEN", "nowhere"),
            ("CA_FEDERATION", "{}"),
            ("CA_BUNDLE", "nowhere"),
        ] {
            let error = settings(&[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(value), "{error}");
        }
        assert_eq!(life("X", "1h30m5s").unwrap(), Duration::from_secs(5405));
    }
}
