//! Gateway, with the forms that only this mesh knows.

pub mod own;
pub mod tls;

use std::collections::HashMap;

use super::super::gateway::{GatewaySpec, Server, ServerTlsMode};
use super::super::problem::Findings;
use super::host::is_wildcard_host;

const PROTOCOLS: &[&str] = &["HTTP", "HTTPS", "GRPC", "GRPC-WEB", "HTTP2", "MONGO", "TCP", "TLS"];

/// How a server takes what comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serving {
    /// Requests in plaintext.
    Http,
    /// Bytes in plaintext.
    Tcp,
    /// TLS ends here, requests are inside.
    Https,
    /// TLS ends here, bytes are inside.
    TlsTcp,
    /// TLS is passed on by SNI.
    Passthrough,
    /// TLS of the mesh is passed on to the service that its SNI names.
    AutoPassthrough,
}

/// How a server is to be served. The forms that only this mesh knows make a plaintext server one of HTTPS.
#[must_use]
pub fn serving(spec: &GatewaySpec, server: &Server) -> Serving {
    let mode = server.tls.as_ref().and_then(|tls| tls.mode).unwrap_or(ServerTlsMode::Passthrough);
    let ends = !matches!(mode, ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough);
    match server.port.protocol.to_ascii_uppercase().as_str() {
        "HTTPS" if ends => Serving::Https,
        "TLS" if ends => Serving::TlsTcp,
        "HTTPS" | "TLS" if mode == ServerTlsMode::AutoPassthrough => Serving::AutoPassthrough,
        "HTTPS" | "TLS" => Serving::Passthrough,
        "TCP" | "MONGO" => Serving::Tcp,
        _ if own::is_meant(spec, server) => Serving::Https,
        _ => Serving::Http,
    }
}

/// Why a server is left unserved, if it is: it needs something that is not in force yet. Serving it without would let in
/// what it was to keep out.
#[must_use]
pub fn unserved(spec: &GatewaySpec, server: &Server) -> Option<String> {
    if !server.bind.is_empty() {
        return Some("bind is not in force yet".to_owned());
    }
    server.tls.as_ref().and_then(tls::not_in_force).or_else(|| own::contradiction(spec, server))
}

pub(super) fn check(spec: &GatewaySpec, findings: &mut Findings) {
    if spec.servers.is_empty() {
        findings.error("spec.servers", "a Gateway needs a server", "");
    }
    if spec.selector.is_empty() {
        findings.warning(
            "spec.selector",
            "no selector: every gateway workload is selected",
            "labels such as istio: ingressgateway",
        );
    }
    let mut seen = HashMap::new();
    for (index, server) in spec.servers.iter().enumerate() {
        let path = format!("spec.servers[{index}]");
        check_server(server, &path, findings);
        for host in &server.hosts {
            if let Some(first) = seen.insert((server.port.number, host.as_str()), index) {
                let message = format!("{host} on port {} is in servers[{first}] already", server.port.number);
                findings.warning(format!("{path}.hosts"), message, "");
            }
        }
        if let Some(why) = unserved(spec, server) {
            findings.warning(path, format!("the server is left unserved: {why}"), "");
        }
    }
    own::check(spec, findings);
}

fn check_server(server: &Server, path: &str, findings: &mut Findings) {
    if server.port.number == 0 {
        findings.error(format!("{path}.port"), "port.number is missing or 0", "1 to 65535");
    }
    if server.port.name.is_empty() {
        findings.warning(
            format!("{path}.port.name"),
            "port.name is missing, and Istio demands one",
            "e.g. http",
        );
    }
    let protocol = server.port.protocol.to_ascii_uppercase();
    if !PROTOCOLS.contains(&protocol.as_str()) {
        let message = if protocol.is_empty() {
            "port.protocol is missing".to_owned()
        } else {
            format!("unknown protocol {:?}", server.port.protocol)
        };
        findings.error(format!("{path}.port.protocol"), message, format!("one of {}", PROTOCOLS.join(", ")));
    }
    if server.hosts.is_empty() {
        findings.error(format!("{path}.hosts"), "a server needs a host", "\"*\" or names");
    }
    for (index, host) in server.hosts.iter().enumerate() {
        let dns = match host.split_once('/') {
            Some(("*" | ".", dns)) => dns,
            Some((namespace, dns)) if crate::model::identity::is_kubernetes_name(namespace) => dns,
            Some(_) => "",
            None => host,
        };
        if !is_wildcard_host(dns) {
            let expected = "a DNS name, *.suffix or *, with namespace/ in front or without";
            findings.error(format!("{path}.hosts[{index}]"), format!("{host:?} is not a host"), expected);
        }
    }
    tls::check(server, &protocol, path, findings);
    if !server.default_endpoint.is_empty() {
        findings.warning(
            format!("{path}.defaultEndpoint"),
            "defaultEndpoint is not in force, in Istio neither",
            "",
        );
    }
}
