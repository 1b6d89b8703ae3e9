//! A table as people want to see it: for `/config_dump`.

use mesh_proto::wire::mesh::v1 as wire;
use serde_json::{Value, json};

use super::{Action, Backend, RouteTable, Rule};

impl RouteTable {
    /// Its rules in order, with what they were written in.
    #[must_use]
    pub fn dump(&self) -> Value {
        json!({
            "origin": self.origin.as_ref().map(dump_origin),
            "rules": self.rules.iter().map(rule).collect::<Vec<_>>(),
        })
    }
}

fn rule(rule: &Rule) -> Value {
    let mut told = json!({
        "name": &*rule.name,
        "origin": rule.origin.as_deref().map(dump_origin),
        "match": rule.matcher.as_ref().map_or_else(|| "every request".to_owned(), ToString::to_string),
    });
    match &*rule.action {
        Action::Route(route) => {
            told["backends"] = route.backends.as_slice().iter().map(backend).collect();
            told["timeout_ms"] = json!(route.timeout.map(|t| t.as_millis()));
            told["retry"] = format!("{:?}", route.retry).into();
        }
        Action::Respond(direct) => told["direct_response"] = direct.status.as_u16().into(),
    }
    told
}

/// A backend of a rule.
pub(crate) fn backend(backend: &Backend) -> Value {
    json!({
        "cluster": backend.cluster.name().to_string(),
        "subset": backend.subset,
        "weight": backend.weight(),
        "present": backend.cluster.load().is_some(),
    })
}

/// `VirtualService shop/reviews, rule 1, file:12`
pub(crate) fn dump_origin(origin: &wire::Origin) -> String {
    let mut text = format!("{} {}/{}", origin.kind, origin.namespace, origin.name);
    if let Some(rule) = origin.rule {
        text.push_str(&format!(", rule {rule}"));
    }
    if !origin.location.is_empty() {
        text.push_str(&format!(", {}", origin.location));
    }
    text
}
