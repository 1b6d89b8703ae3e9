//! `apiVersion`, `kind`, `metadata.name` and `metadata.namespace`: which object a document is about, even a broken one.

use serde_json::Value;

use super::super::decode::nearest;
use super::super::meta::{Kind, ObjectRef};
use super::super::problem::{Finding, Findings, Severity};
use crate::model::identity::is_kubernetes_name;

/// What every object begins with.
pub(super) struct Header<'a> {
    pub(super) kind: Kind,
    version: &'a str,
    namespace: &'a str,
    name: Option<&'a str>,
}

impl<'a> Header<'a> {
    /// An error, or (as a warning) that the kind is of no use here.
    pub(super) fn of(value: &'a Value) -> Result<Self, Finding> {
        let wrong = |path: &str, message: String, expected: String| Finding {
            path: path.to_owned(),
            message,
            expected,
            severity: Severity::Error,
        };
        if !value.is_object() {
            return Err(wrong(
                "",
                "not a resource".into(),
                "a map with apiVersion, kind and metadata".into(),
            ));
        }
        let text = |field: &str| match value.get(field).map(Value::as_str) {
            Some(Some(text)) if !text.is_empty() => Ok(text),
            Some(_) => Err(wrong(field, format!("{field} is not a text"), String::new())),
            None => Err(wrong("", format!("{field} is missing"), String::new())),
        };
        let (api, kind_name) = (text("apiVersion")?, text("kind")?);
        let (group, version) = api.rsplit_once('/').unwrap_or(("", api));
        let Some(kind) = Kind::of(group, kind_name) else { return Err(unknown_kind(group, kind_name)) };
        let meta = |field: &str| match value.get("metadata").and_then(|meta| meta.get(field)) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(other) => {
                let message = format!("{other} is not a text");
                Err(wrong(&format!("metadata.{field}"), message, "a text (in quotes)".to_owned()))
            }
        };
        let namespace = meta("namespace")?.unwrap_or_default();
        Ok(Self { kind, version, namespace, name: meta("name")?.filter(|name| !name.is_empty()) })
    }

    pub(super) fn reference(&self) -> Option<ObjectRef> {
        Some(ObjectRef::new(self.kind, self.namespace, self.name?))
    }

    pub(super) fn check(&self, findings: &mut Findings) {
        if !self.kind.versions().contains(&self.version) {
            let group = self.kind.group();
            let full = |version: &&str| {
                if group.is_empty() { (*version).to_owned() } else { format!("{group}/{version}") }
            };
            let known: Vec<String> = self.kind.versions().iter().map(full).collect();
            findings.error(
                "apiVersion",
                format!("unknown version {} of {}", self.version, self.kind),
                known.join(", "),
            );
        }
        match self.name {
            None => findings.error("metadata", "metadata.name is missing", ""),
            Some(name) if !is_kubernetes_name(name) => findings.error(
                "metadata.name",
                format!("{name:?} is not a name"),
                "at most 253 lower-case letters, digits, '-' and '.'",
            ),
            Some(_) => {}
        }
        if !self.namespace.is_empty() && (!is_kubernetes_name(self.namespace) || self.namespace.contains('.'))
        {
            let message = format!("{:?} is not a namespace", self.namespace);
            findings.error("metadata.namespace", message, "at most 63 lower-case letters, digits and '-'");
        }
    }
}

/// A mistake where the group is ours or the kind is known in another group, of no use here otherwise.
fn unknown_kind(group: &str, name: &str) -> Finding {
    let other = Kind::ALL.iter().find(|kind| kind.as_str() == name);
    if let Some(kind) = other {
        let version = kind.versions()[0];
        let expected =
            if kind.group().is_empty() { version.to_owned() } else { format!("{}/{version}", kind.group()) };
        let message = format!("{name} is not of the group {group:?}");
        return Finding { path: "apiVersion".into(), message, expected, severity: Severity::Error };
    }
    let ours = group.ends_with("istio.io") || group == "gateway.networking.k8s.io";
    let known: Vec<&str> = Kind::ALL.iter().filter(|k| k.group() == group).map(|k| k.as_str()).collect();
    let near = nearest(name, &known);
    if !ours && near.is_none() {
        let message = format!("{name} ({group}) has no meaning for the mesh; left out");
        return Finding {
            path: "kind".into(),
            message,
            expected: String::new(),
            severity: Severity::Warning,
        };
    }
    let hint = near.map(|near| format!(", did you mean {near}?")).unwrap_or_default();
    let message = format!("unknown kind {name}{hint}");
    Finding {
        path: "kind".into(),
        message,
        expected: if known.is_empty() { String::new() } else { format!("one of {}", known.join(", ")) },
        severity: Severity::Error,
    }
}

/// The object that broken YAML is probably about, from lines of the usual form, so that its last good version is found.
pub(super) fn guess_reference(text: &str) -> Option<ObjectRef> {
    let scalar = |line: &str, key: &str| {
        let rest = line.strip_prefix(key)?.strip_prefix(':')?.trim();
        let rest = rest.split(" #").next().unwrap_or(rest).trim().trim_matches(['"', '\'']);
        (!rest.is_empty()).then(|| rest.to_owned())
    };
    let (mut api, mut kind, mut name, mut namespace) = (None, None, None, None);
    let mut in_metadata = false;
    let mut indent = None;
    for line in text.lines() {
        let inner = line.trim_start_matches(' ');
        let depth = line.len() - inner.len();
        if depth == 0 && !inner.is_empty() && !inner.starts_with('#') {
            in_metadata = inner.starts_with("metadata:");
            api = api.or_else(|| scalar(inner, "apiVersion"));
            kind = kind.or_else(|| scalar(inner, "kind"));
            // `metadata: {name: a, namespace: b}`
            let flow = inner.strip_prefix("metadata:").map(str::trim).and_then(|rest| rest.strip_prefix('{'));
            for field in flow.into_iter().flat_map(|flow| flow.split(['{', '}', ','])).map(str::trim) {
                name = name.or_else(|| scalar(field, "name"));
                namespace = namespace.or_else(|| scalar(field, "namespace"));
            }
        } else if in_metadata && depth > 0 && *indent.get_or_insert(depth) == depth {
            name = name.or_else(|| scalar(inner, "name"));
            namespace = namespace.or_else(|| scalar(inner, "namespace"));
        }
    }
    let (api, kind, name) = (api?, kind?, name?);
    let (group, _) = api.rsplit_once('/').unwrap_or(("", &api));
    Some(ObjectRef::new(Kind::of(group, &kind)?, namespace.as_deref().unwrap_or(""), &name))
}
