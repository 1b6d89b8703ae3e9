//! The facts that become metric labels: who asked, who answered, for which service. Made once, at configuration or
//! connection time, and shared; empty means unknown.

use std::fmt::Write;
use std::sync::Arc;

use mesh_proto::model::identity::SpiffeId;
use mesh_proto::wire::mesh::v1 as wire;

use super::{Flags, Reporter, RequestProtocol, Route};

/// One side of a request. Equal content from different places is the same series; the same `Arc` is faster.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Party {
    /// Deployment or the like.
    pub workload: Box<str>,
    /// Its namespace.
    pub namespace: Box<str>,
    /// `spiffe://...`, told only where the connection is mTLS.
    pub principal: Box<str>,
    /// Label `app`.
    pub app: Box<str>,
    /// Label `version`.
    pub version: Box<str>,
    /// Cluster's name.
    pub cluster: Box<str>,
    /// Canonical service.
    pub canonical_service: Box<str>,
    /// Canonical revision, `latest` where empty.
    pub canonical_revision: Box<str>,
    /// The pod's name, for logs only.
    pub instance: Box<str>,
}

impl Party {
    /// From facts on the wire and a verified (or, at the client, expected) identity.
    #[must_use]
    pub fn new(facts: Option<&wire::WorkloadFacts>, identity: Option<&SpiffeId>) -> Self {
        let text = |pick: fn(&wire::WorkloadFacts) -> &String| -> Box<str> {
            facts.map(|f| pick(f).as_str()).unwrap_or_default().into()
        };
        Self {
            workload: text(|f| &f.workload),
            namespace: text(|f| &f.namespace),
            principal: identity.map(SpiffeId::as_str).unwrap_or_default().into(),
            app: text(|f| &f.app),
            version: text(|f| &f.version),
            cluster: text(|f| &f.cluster_id),
            canonical_service: text(|f| &f.canonical_service),
            canonical_revision: text(|f| &f.canonical_revision),
            instance: text(|f| &f.instance),
        }
    }

    /// Nothing known.
    #[must_use]
    pub fn unknown() -> Arc<Self> {
        Arc::default()
    }
}

/// The service that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Service {
    /// `destination_service`: the FQDN.
    pub host: Box<str>,
    /// `destination_service_name`.
    pub name: Box<str>,
    /// `destination_service_namespace`.
    pub namespace: Box<str>,
}

impl Service {
    /// From the wire.
    #[must_use]
    pub fn new(service: &wire::ServiceRef) -> Self {
        Self {
            host: service.host.as_str().into(),
            name: service.name.as_str().into(),
            namespace: service.namespace.as_str().into(),
        }
    }

    /// What goes through unresolved: Istio's `PassthroughCluster`, `BlackHoleCluster`, `InboundPassthroughCluster`.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self { host: Box::default(), name: name.into(), namespace: Box::default() }
    }
}

/// Status codes of gRPC above this are none; peers may send any number, and each would be a series.
const MAX_GRPC_STATUS: u32 = 16;
const GRPC_UNKNOWN: u32 = 2;

/// What distinguishes the series of one route: the class of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Class {
    pub(super) protocol: Option<RequestProtocol>,
    pub(super) status: u16,
    grpc_status: Option<u32>,
    pub(super) flags: Flags,
}

impl Class {
    /// An HTTP answer.
    pub(super) fn request(
        protocol: RequestProtocol,
        status: u16,
        grpc_status: Option<u32>,
        flags: Flags,
    ) -> Self {
        let known = |code| if code <= MAX_GRPC_STATUS { code } else { GRPC_UNKNOWN };
        let grpc_status = grpc_status.filter(|_| protocol == RequestProtocol::Grpc).map(known);
        Self { protocol: Some(protocol), status, grpc_status, flags }
    }

    /// A connection that forwards bytes.
    pub(super) fn connection(flags: Flags) -> Self {
        Self { protocol: None, status: 0, grpc_status: None, flags }
    }

    /// All of it, and the rest of the route, in one number.
    pub(super) fn pack(&self, route: &Route<'_>) -> u64 {
        let protocol = match self.protocol {
            None => 0,
            Some(RequestProtocol::Http) => 1,
            Some(RequestProtocol::Grpc) => 2,
        };
        u64::from(self.flags.bits())
            | u64::from(self.status) << 32
            | u64::from(self.grpc_status.map_or(0, |code| code + 1)) << 48
            | protocol << 56
            | u64::from(route.reporter == Reporter::Destination) << 60
            | u64::from(route.mtls) << 61
    }
}

/// The labels of one series as Prometheus reads them, without braces.
pub(super) fn render(route: &Route<'_>, class: &Class) -> String {
    let mut out = String::with_capacity(1024);
    let mut label = |name: &str, value: &str| {
        if !out.is_empty() {
            out.push(',');
        }
        out.push_str(name);
        out.push_str("=\"");
        escape(value, &mut out);
        out.push('"');
    };
    let at_source = route.reporter == Reporter::Source;
    label("reporter", if at_source { "source" } else { "destination" });
    party("source", route.source, route.mtls, &mut label);
    party("destination", route.destination, route.mtls, &mut label);
    label("destination_service", or(&route.service.host, "unknown"));
    label("destination_service_name", or(&route.service.name, "unknown"));
    label("destination_service_namespace", or(&route.service.namespace, "unknown"));
    label(
        "request_protocol",
        match class.protocol {
            Some(RequestProtocol::Http) => "http",
            Some(RequestProtocol::Grpc) => "grpc",
            None => "tcp",
        },
    );
    if class.protocol.is_some() {
        label("response_code", &class.status.to_string());
    }
    if let Some(code) = class.grpc_status {
        label("grpc_response_status", &code.to_string());
    }
    label("response_flags", &class.flags.to_string());
    // Only the server's side knows for sure (Istio).
    label(
        "connection_security_policy",
        match (at_source, route.mtls) {
            (true, _) => "unknown",
            (false, true) => "mutual_tls",
            (false, false) => "none",
        },
    );
    out
}

fn party(side: &str, party: &Party, mtls: bool, label: &mut impl FnMut(&str, &str)) {
    let mut label =
        |name: &str, value: &str, absent: &str| label(&format!("{side}_{name}"), or(value, absent));
    label("workload", &party.workload, "unknown");
    label("workload_namespace", &party.namespace, "unknown");
    label("principal", if mtls { &party.principal } else { "" }, "unknown");
    label("app", &party.app, "unknown");
    label("version", &party.version, "unknown");
    label("cluster", &party.cluster, "unknown");
    label("canonical_service", &party.canonical_service, "unknown");
    label("canonical_revision", &party.canonical_revision, "latest");
}

fn or<'a>(value: &'a str, absent: &'a str) -> &'a str {
    if value.is_empty() { absent } else { value }
}

/// What series beyond the limit are counted as.
pub(super) fn request_overflow() -> String {
    let mut out = connection_overflow();
    // Writing to a String does not fail.
    let _ = write!(out, ",response_code=\"overflow\"");
    out
}

/// The same for bytes.
pub(super) fn connection_overflow() -> String {
    ["reporter", "source_workload", "destination_workload", "destination_service", "request_protocol"]
        .map(|name| format!("{name}=\"overflow\""))
        .join(",")
}

/// Prometheus' text format: backslash, quote and line feed are escaped.
pub(super) fn escape(value: &str, out: &mut String) {
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
}
