//! The resource types in, CustomResourceDefinitions out (Kubernetes' `apiextensions.k8s.io/v1`): the schemas are those of the
//! types that the parser reads, so that the API server takes what the mesh takes, and keeps every field of it.
//!
//! What the schema refuses is a matter of types, and of the values that are needed everywhere; the rest is the webhook's,
//! which can say more.

use serde_json::{Map, Value, json};

use super::meta::Kind;
use super::unsupported::unsupported;
use kinds::{Column, Facts, facts, spec};
use structural::{Recursive, structural};

mod kinds;
mod patches;
mod structural;
mod values;
mod yaml;

/// One CustomResourceDefinition.
#[derive(Debug, Clone)]
pub struct Definition {
    /// `plural.group`.
    pub name: String,
    /// Whose it is.
    pub kind: Kind,
    /// The whole object.
    pub object: Value,
}

impl Definition {
    /// As a file.
    #[must_use]
    pub fn yaml(&self) -> String {
        let note = "# Made by `cargo run -p mesh-proto --features schema --bin crds`; changes belong into the types.\n";
        format!("{note}{}", yaml::document(&self.object))
    }
}

/// The definitions of all kinds of Istio's groups, in the order of [`Kind::ALL`].
///
/// # Errors
/// A type that contains itself.
pub fn definitions() -> Result<Vec<Definition>, Recursive> {
    let ours = Kind::ALL.iter().copied().filter(|kind| kind.group().ends_with(".istio.io"));
    ours.map(definition).collect()
}

fn definition(kind: Kind) -> Result<Definition, Recursive> {
    let facts = facts(kind);
    let name = format!("{}.{}", facts.plural, kind.group());
    let schema = schema(kind)?;
    let versions: Vec<Value> = kind
        .versions()
        .iter()
        .enumerate()
        .map(|(index, version)| {
            json!({
                "name": version,
                "served": true,
                "storage": index == 0,
                "subresources": {"status": {}},
                "additionalPrinterColumns": columns(&facts),
                "schema": {"openAPIV3Schema": schema},
            })
        })
        .collect();
    let family = kind.group().replace('.', "-").replace("-istio-io", "");
    let object = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": name,
            // Whoever uninstalls the chart keeps the configuration: a definition that goes takes all its objects along.
            "annotations": {"helm.sh/resource-policy": "keep"},
            "labels": {"app.kubernetes.io/part-of": "mesh"},
        },
        "spec": {
            "group": kind.group(),
            "names": {
                "kind": kind.as_str(),
                "listKind": format!("{kind}List"),
                "plural": facts.plural,
                "singular": kind.as_str().to_lowercase(),
                "shortNames": facts.short,
                "categories": ["istio-io", format!("{family}-istio-io")],
            },
            "scope": if kind.is_namespaced() { "Namespaced" } else { "Cluster" },
            "versions": versions,
        },
    });
    Ok(Definition { name, kind, object })
}

/// The schema of a kind's objects, of every version: they have the same fields.
fn schema(kind: Kind) -> Result<Value, Recursive> {
    let mut generator = schemars::generate::SchemaSettings::draft2020_12().into_generator();
    let (description, spec) = match spec(kind, &mut generator) {
        Some(schema) => {
            let mut types = generator.definitions().clone();
            patches::apply(&mut types);
            let root = types.get(kind.as_str()).and_then(|root| root["description"].as_str());
            (root.unwrap_or_default().to_owned(), structural(schema.as_value(), &types)?)
        }
        None => untyped(kind),
    };
    let mut properties = Map::new();
    properties.insert("spec".to_owned(), spec);
    properties.insert("status".to_owned(), status());
    Ok(json!({"description": description, "type": "object", "properties": properties}))
}

/// Kinds that are refused, each with its reason: kept as they are, so that they are whole when they come in force.
fn untyped(kind: Kind) -> (String, Value) {
    let reason = unsupported(kind).map_or("is not in force yet", |why| why.reason);
    let spec = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    (format!("{kind} {reason}."), spec)
}

/// Written by the control plane. Fields of others are kept.
fn status() -> Value {
    json!({
        "description": "Written by the control plane: whether it is in force, where, and if not, why.",
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": true,
        "properties": {
            "observedGeneration": {"description": "The generation that this is about.", "type": "integer", "format": "int64"},
            "conditions": {
                "type": "array",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
                "items": {
                    "type": "object",
                    "x-kubernetes-preserve-unknown-fields": true,
                    "required": ["type", "status"],
                    "properties": {
                        "type": {"description": "Accepted, Programmed, or another controller's.", "type": "string"},
                        "status": {"description": "True, False or Unknown.", "type": "string"},
                        "reason": {"description": "Why, in one word.", "type": "string"},
                        "message": {"description": "Why, for people.", "type": "string"},
                        "observedGeneration": {"description": "The generation that this is about.", "type": "integer", "format": "int64"},
                        "lastTransitionTime": {"description": "When the status changed.", "type": "string", "format": "date-time"},
                    },
                },
            },
        },
    })
}

fn columns(facts: &Facts) -> Value {
    let programmed = Column {
        name: "Programmed",
        path: r#".status.conditions[?(@.type=="Programmed")].status"#,
        about: "Whether every proxy that it is for has it",
    };
    let mut columns: Vec<Value> = facts
        .columns
        .iter()
        .chain([&programmed])
        .map(|column| json!({"name": column.name, "type": "string", "jsonPath": column.path, "description": column.about}))
        .collect();
    columns.push(json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}));
    Value::Array(columns)
}

#[cfg(test)]
mod tests;
