//! Which object applies to a host or a pod, and why: pure, over JSON objects and the pilot's account.

use std::collections::BTreeMap;
use std::fmt;

use mesh_proto::crd::{Kind, Targets, unsupported};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::local::pilot::{PilotStatus, ResourceStatus};

/// How the pilot's message ends where an object is refused and an older version of it is in force.
const KEPT: &str = "the last good version stays in force";

/// An object that applies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Applies {
    /// `VirtualService`
    pub kind: String,
    /// `namespace/name`
    pub name: String,
    /// Why it applies: the host or the selector in it.
    pub why: String,
    /// The Gateways that it is bound to; `mesh` is every sidecar.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<String>,
    /// The pilot's word: `in force`, `accepted`, `refused`, `superseded`, or `unknown`.
    pub state: String,
    /// It is refused and has no good version: whom it may be for is closed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub closes: bool,
    /// What the pilot says about it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl Applies {
    /// With the pilot's word on `object`.
    pub fn new(object: &Value, kind: &str, why: String, pilot: &PilotStatus) -> Self {
        let known = known(object, kind, pilot);
        let mut notes = Vec::new();
        if let Some(known) = known {
            notes.extend((!known.message.is_empty()).then(|| known.message.clone()));
            notes.extend(known.warnings.iter().cloned());
        }
        Self {
            kind: kind.to_owned(),
            name: format!("{}/{}", meta(object, "namespace"), meta(object, "name")),
            why,
            gateways: strings(&object["spec"]["gateways"]).map(ToOwned::to_owned).collect(),
            state: known.map_or_else(|| "unknown".to_owned(), |known| known.state.replace('_', " ")),
            notes,
            closes: closes(object, kind, pilot).is_some(),
        }
    }

    /// What deserves a look.
    pub fn warnings(&self) -> Vec<String> {
        let then = match (self.state.as_str(), self.closes, self.kind.as_str()) {
            ("refused", true, "PeerAuthentication") => "its targets take mTLS only",
            ("refused", true, "DestinationRule") => "its host cannot be reached",
            ("refused", true, _) => "its targets let nothing in",
            ("refused" | "superseded", ..) => "it has no effect as written",
            _ => return Vec::new(),
        };
        vec![format!("{} {} is {}: {then}", self.kind, self.name, self.state)]
    }
}

fn known<'a>(object: &Value, kind: &str, pilot: &'a PilotStatus) -> Option<&'a ResourceStatus> {
    let (namespace, name) = (meta(object, "namespace"), meta(object, "name"));
    pilot.resources.iter().find(|r| r.kind == kind && r.namespace == namespace && r.name == name)
}

/// Whom an object closes, as the pilot has it: it is refused, and no good version of it stays in force.
pub fn closes(object: &Value, kind: &str, pilot: &PilotStatus) -> Option<Targets> {
    let known = known(object, kind, pilot).filter(|known| known.state == "refused")?;
    if known.message.ends_with(KEPT) {
        return None;
    }
    let kind = Kind::ALL.iter().find(|one| one.as_str() == kind)?;
    unsupported::targets(*kind, object)
}

/// Why a pod is among those whom a refused object closes; `None` if it is not.
pub fn closed(
    targets: &Targets,
    namespace: &str,
    own: &str,
    labels: &BTreeMap<String, String>,
) -> Option<String> {
    let Targets::Workloads(wanted) = targets else { return None };
    let told = wanted.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",");
    if !mesh_proto::crd::meta::holds_all(wanted, labels) {
        return None;
    }
    Some(match (told.as_str(), namespace == own) {
        ("", true) => "closes its namespace".to_owned(),
        ("", false) => "closes the whole mesh".to_owned(),
        _ => format!("closes {told}"),
    })
}

impl fmt::Display for Applies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {} ({})", self.kind, self.name, self.state, self.why)?;
        if !self.gateways.is_empty() {
            write!(f, "; at {}", self.gateways.join(", "))?;
        }
        for note in &self.notes {
            write!(f, "\n  {note}")?;
        }
        Ok(())
    }
}

/// The objects of `kind` that name `host` (an FQDN).
pub fn to_host(objects: &[Value], kind: &str, host: &str, pilot: &PilotStatus) -> Vec<Applies> {
    let mut found = Vec::new();
    for object in objects {
        let spec = &object["spec"];
        let hosts = strings(&spec["hosts"]).chain(spec["host"].as_str());
        let named = hosts.into_iter().find(|named| names(named, meta(object, "namespace"), host));
        if let Some(named) = named {
            found.push(Applies::new(object, kind, format!("host {named}"), pilot));
        }
    }
    found
}

const PEERS: &str = "PeerAuthentication";

/// The PeerAuthentications that apply to a pod with `labels`, the strongest first: by selector, of the namespace, of the mesh.
pub fn to_pod(
    objects: &[Value],
    namespace: &str,
    system: &str,
    labels: &BTreeMap<String, String>,
    pilot: &PilotStatus,
) -> Vec<Applies> {
    let mut found = Vec::new();
    for object in objects {
        let of = meta(object, "namespace");
        let wanted =
            object["spec"]["selector"]["matchLabels"].as_object().filter(|wanted| !wanted.is_empty());
        let mode = object["spec"]["mtls"]["mode"].as_str().unwrap_or("UNSET");
        if let Some(targets) = closes(object, PEERS, pilot).filter(|_| of == namespace || of == system) {
            if let Some(why) = closed(&targets, of, namespace, labels) {
                found.push((0, Applies::new(object, PEERS, why, pilot)));
            }
            continue;
        }
        let (rank, why) = match wanted {
            // One with a selector counts only in its own namespace, and not at all in the root namespace.
            Some(wanted) if of == namespace && of != system => match matched(wanted, labels) {
                Some(told) => (0, format!("selects {told}")),
                None => continue,
            },
            Some(_) => continue,
            None if of == namespace => (1, "for its namespace".to_owned()),
            None if of == system => (2, "for the whole mesh".to_owned()),
            None => continue,
        };
        found.push((rank, Applies::new(object, PEERS, format!("{why}, {mode}"), pilot)));
    }
    found.sort_by_key(|(rank, applies)| (*rank, applies.name.clone()));
    found.into_iter().map(|(_, applies)| applies).collect()
}

/// The labels that are wanted, if all of them are there: `app=web,version=v1`.
pub fn matched(wanted: &Map<String, Value>, labels: &BTreeMap<String, String>) -> Option<String> {
    let has_all = wanted.iter().all(|(key, value)| labels.get(key).map(String::as_str) == value.as_str());
    let told = wanted.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
    has_all.then(|| told.collect::<Vec<_>>().join(","))
}

/// Whether a host that stands in an object of `namespace` means `host`. Istio's short names: `reviews`, `reviews.shop`.
fn names(named: &str, namespace: &str, host: &str) -> bool {
    if named == "*" {
        return true;
    }
    if let Some(suffix) = named.strip_prefix('*') {
        return host.ends_with(suffix);
    }
    if named == host {
        return true;
    }
    // `name.namespace.svc.cluster.local`: what a name may leave out.
    let mut labels = host.splitn(4, '.');
    let (Some(name), Some(of), Some("svc")) = (labels.next(), labels.next(), labels.next()) else {
        return false;
    };
    (named == name && of == namespace)
        || named == format!("{name}.{of}")
        || named == format!("{name}.{of}.svc")
}

/// A text of its metadata.
pub fn meta<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

/// The texts of a list.
pub fn strings(value: &Value) -> impl Iterator<Item = &str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const HOST: &str = "reviews.shop.svc.cluster.local";

    #[test]
    fn a_name_means_what_it_means_in_istio() {
        for good in [HOST, "*", "*.shop.svc.cluster.local", "*.local", "reviews.shop", "reviews.shop.svc"] {
            assert!(names(good, "other", HOST), "{good}");
        }
        assert!(names("reviews", "shop", HOST));
        for bad in ["reviews", "ratings.shop", "reviews.other", "*.other.svc.cluster.local", "shop", ""] {
            assert!(!names(bad, "other", HOST), "{bad}");
        }
    }

    #[test]
    fn what_applies_comes_with_the_pilots_word() {
        let route = json!({
            "metadata": { "namespace": "shop", "name": "reviews" },
            "spec": { "hosts": ["reviews"], "gateways": ["web", "mesh"] },
        });
        let other = json!({ "metadata": { "namespace": "shop", "name": "x" }, "spec": { "hosts": ["x"] } });
        let pilot = PilotStatus {
            resources: vec![ResourceStatus {
                kind: "VirtualService".to_owned(),
                namespace: "shop".to_owned(),
                name: "reviews".to_owned(),
                state: "superseded".to_owned(),
                message: "an older one has this host".to_owned(),
                ..ResourceStatus::default()
            }],
            ..PilotStatus::default()
        };
        let found = to_host(&[route, other], "VirtualService", HOST, &pilot);
        assert_eq!(found.len(), 1);
        let text = found[0].to_string();
        assert!(
            text.contains("superseded (host reviews); at web, mesh") && text.contains("older one"),
            "{text}"
        );
        assert_eq!(found[0].warnings().len(), 1);
        let rule = json!({ "metadata": { "namespace": "shop", "name": "r" }, "spec": { "host": "*.shop.svc.cluster.local" } });
        assert_eq!(to_host(&[rule], "DestinationRule", HOST, &pilot)[0].state, "unknown");
    }

    #[test]
    fn authentication_by_selector_comes_before_namespace_and_mesh() {
        let of = |namespace: &str, name: &str, spec: Value| json!({ "metadata": { "namespace": namespace, "name": name }, "spec": spec });
        let all = [
            of("istio-system", "mesh", json!({ "mtls": { "mode": "STRICT" } })),
            of("shop", "default", json!({})),
            of("shop", "app", json!({ "selector": { "matchLabels": { "app": "reviews" } } })),
            of("shop", "other", json!({ "selector": { "matchLabels": { "app": "ratings" } } })),
            of("elsewhere", "default", json!({})),
        ];
        let labels = BTreeMap::from([("app".to_owned(), "reviews".to_owned())]);
        let found = to_pod(&all, "shop", "istio-system", &labels, &PilotStatus::default());
        let names: Vec<&str> = found.iter().map(|applies| applies.name.as_str()).collect();
        assert_eq!(names, ["shop/app", "shop/default", "istio-system/mesh"]);
        assert!(found[2].why.contains("STRICT"));
        // Refused, it closes whom it selects, in the root namespace too.
        let wrong = of(
            "istio-system",
            "wrong",
            json!({ "selector": { "matchLabels": { "app": "reviews" } }, "mtls": 1 }),
        );
        let pilot = PilotStatus {
            resources: vec![ResourceStatus {
                kind: PEERS.to_owned(),
                namespace: "istio-system".to_owned(),
                name: "wrong".to_owned(),
                state: "refused".to_owned(),
                ..ResourceStatus::default()
            }],
            ..PilotStatus::default()
        };
        let found = to_pod(&[wrong], "shop", "istio-system", &labels, &pilot);
        assert_eq!(found[0].why, "closes app=reviews");
        assert!(found[0].warnings()[0].ends_with("its targets take mTLS only"), "{:?}", found[0].warnings());
    }
}
