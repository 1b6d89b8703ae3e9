//! What happens, line by line, for whoever watches.

use mesh_proto::crd::Problem;
use mesh_proto::wire::mesh::v1::{Origin, Trouble};
use serde::Serialize;

use crate::index::Notice;
use crate::push::Node;

/// One line of `/debug/events`.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub struct LiveEvent {
    /// endpoint_up, endpoint_down, applied, refused, removed, proxy_connected, proxy_disconnected, unserved.
    pub kind: &'static str,
    /// For people.
    pub text: String,
    /// Of the object or pod.
    pub namespace: String,
    /// Of the object or pod; the path of a file.
    pub name: String,
    /// The object's kind; empty for pods and proxies.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub object: String,
    /// `file:line`, where there is one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub location: String,
}

impl LiveEvent {
    /// A proxy came or went.
    pub fn proxy(kind: &'static str, node: &Node) -> Self {
        let done = if kind == "proxy_connected" { "connected" } else { "disconnected" };
        Self {
            kind,
            text: format!("proxy of {}/{} {done}", node.namespace, node.pod),
            namespace: node.namespace.to_string(),
            name: node.pod.to_string(),
            object: String::new(),
            location: String::new(),
        }
    }
}

impl LiveEvent {
    /// A gateway cannot serve something as it should.
    pub fn trouble(node: &Node, trouble: &Trouble) -> Self {
        let origin = trouble.origin.clone().unwrap_or_default();
        let server = origin.rule.map(|index| format!(" servers[{index}]")).unwrap_or_default();
        let Origin { kind, namespace, name, location, .. } = origin;
        Self {
            kind: "unserved",
            text: format!("{kind} {namespace}/{name}{server} at {}: {}", node.pod, trouble.message),
            namespace,
            name,
            object: kind,
            location,
        }
    }
}

impl From<Notice> for LiveEvent {
    fn from(notice: Notice) -> Self {
        let event = |kind, text, namespace: &str, name: &str| Self {
            kind,
            text,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            object: String::new(),
            location: String::new(),
        };
        match notice {
            Notice::EndpointUp(pod) => {
                let text = format!("endpoint {}/{} ({}) is up", pod.namespace, pod.name, pod.address);
                event("endpoint_up", text, &pod.namespace, &pod.name)
            }
            Notice::EndpointDown(pod) => {
                let text = format!("endpoint {}/{} ({}) is down", pod.namespace, pod.name, pod.address);
                event("endpoint_down", text, &pod.namespace, &pod.name)
            }
            Notice::Applied(object, location) => {
                let text = format!("{object} applied");
                let event = event("applied", text, &object.namespace, &object.name);
                Self { object: object.kind.to_string(), location, ..event }
            }
            Notice::Refused(object, problems) => {
                let text = texts(&problems);
                let event = event("refused", text, &object.namespace, &object.name);
                Self { object: object.kind.to_string(), location: place(&problems), ..event }
            }
            Notice::Removed(object) => {
                let event = event("removed", format!("{object} removed"), &object.namespace, &object.name);
                Self { object: object.kind.to_string(), ..event }
            }
            Notice::File(path, problems) => {
                let event = event("refused", texts(&problems), "", &path.display().to_string());
                Self { object: "File".to_owned(), location: place(&problems), ..event }
            }
        }
    }
}

fn texts(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn place(problems: &[Problem]) -> String {
    let first = problems.iter().find(|p| p.is_error()).or(problems.first());
    first.map(|p| format!("{}:{}:{}", p.file, p.position.line, p.position.column)).unwrap_or_default()
}
