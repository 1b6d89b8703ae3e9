//! The TLS servers of a gateway's port: which SNI is ended with which certificate, or passed on to whom.
//!
//! Istio's semantics: the most specific SNI chooses; a host that two servers of a port have is the older one's; the routes
//! of one TLS server are its own. Servers with the forms that only this mesh knows are split by certificate.

mod named;

use std::collections::BTreeSet;

use mesh_proto::crd::check::{Serving, own_gateway, server_tls};
use mesh_proto::crd::gateway::{OwnCertificate, Server, ServerTls, ServerTlsMode};
use mesh_proto::model::TlsParameters;
use mesh_proto::wire::mesh::v1 as wire;
use wire::ca_certificates::Source as CaSource;
use wire::key_pair::Source as KeySource;

use super::super::host::{full, intersection};
use super::super::routes::{Rules, Scope, tcp_rules, tls_rules};
use super::{Served, bound, http_hosts, meeting_hosts, virtual_hosts};
use crate::compile::{origin, spoken};
use crate::snapshot::{MeshOptions, Viewer};

/// What one port's TLS servers are made from.
pub(super) struct Port<'a> {
    pub(super) viewer: &'a Viewer,
    pub(super) scope: &'a Scope<'a>,
    /// Those that the viewer may see, oldest first.
    pub(super) rules: &'a [&'a Rules],
}

/// The TLS servers of a port, each SNI once, and the revisions of the VirtualServices in them.
pub(super) fn servers(port: &Port<'_>, served: &[Served<'_>]) -> (Vec<wire::TlsServer>, Vec<u64>) {
    let (mut all, mut revisions) = (Vec::new(), Vec::new());
    let mut taken: BTreeSet<String> = BTreeSet::new();
    for served in served {
        let made = match served.serving {
            Serving::Passthrough => forwarding(port, served, &mut revisions),
            Serving::AutoPassthrough => named::forwarding(port, served, &mut revisions),
            _ => terminating(port, served, &mut revisions),
        };
        for mut server in made {
            server.hosts.retain(|host| taken.insert(host.clone()));
            if !server.hosts.is_empty() {
                all.push(server);
            }
        }
    }
    (all, revisions)
}

/// How a server ends TLS. `None`: it does not, or there is no certificate in its own forms.
pub(super) fn settings(
    served: &Served<'_>,
    viewer: &Viewer,
    mesh: &MeshOptions,
) -> Option<wire::TlsSettings> {
    let passed = matches!(served.serving, Serving::Passthrough | Serving::AutoPassthrough);
    let tls = served.server.tls.as_ref().filter(|_| !passed)?;
    Some(standard(tls, viewer, mesh))
}

fn standard(tls: &ServerTls, viewer: &Viewer, options: &MeshOptions) -> wire::TlsSettings {
    let secret = |name: &String| format!("{}/{name}", viewer.namespace);
    let mesh = tls.mode == Some(ServerTlsMode::IstioMutual);
    let defaults = if mesh { &options.mesh_tls } else { &options.tls_defaults };
    let clients = match tls.mode {
        Some(ServerTlsMode::Mutual | ServerTlsMode::IstioMutual) => wire::ClientCertificates::Required,
        Some(ServerTlsMode::OptionalMutual) => wire::ClientCertificates::Optional,
        _ => wire::ClientCertificates::None,
    };
    let mut pairs = Vec::new();
    if mesh {
        pairs.push(KeySource::Mesh(wire::Empty {}));
    }
    let named = [&tls.credential_name].into_iter().filter(|name| !name.is_empty());
    pairs.extend(named.chain(&tls.credential_names).map(|name| KeySource::Secret(secret(name))));
    let files = tls.tls_certificates.iter().map(|pair| files(&pair.server_certificate, &pair.private_key));
    pairs.extend(files);
    if !tls.server_certificate.is_empty() {
        pairs.push(self::files(&tls.server_certificate, &tls.private_key));
    }
    let with_key = tls.credential_names.first().unwrap_or(&tls.credential_name);
    let ca = if mesh {
        Some(CaSource::Mesh(wire::Empty {}))
    } else if clients == wire::ClientCertificates::None {
        None
    } else if !tls.ca_cert_credential_name.is_empty() {
        Some(CaSource::Secret(secret(&tls.ca_cert_credential_name)))
    } else if !tls.ca_certificates.is_empty() {
        Some(CaSource::File(tls.ca_certificates.clone()))
    } else {
        Some(CaSource::Secret(secret(with_key)))
    };
    wire::TlsSettings {
        key_pairs: pairs.into_iter().map(|source| wire::KeyPair { source: Some(source) }).collect(),
        clients: clients.into(),
        ca: ca.map(|source| wire::CaCertificates { source: Some(source) }),
        parameters: spoken(&server_tls::parameters(tls, defaults)),
        crl: (!tls.ca_crl.is_empty())
            .then(|| wire::CaCertificates { source: Some(CaSource::File(tls.ca_crl.clone())) }),
        rules: rules(tls),
    }
}

/// Which clients are let in, of those that the CA vouches for. Pins that are none were refused with the Gateway.
fn rules(tls: &ServerTls) -> Option<wire::CertificateRules> {
    let keys = tls.verify_certificate_spki.iter().filter_map(|pin| server_tls::key_pin(pin));
    let hashes = tls.verify_certificate_hash.iter().filter_map(|pin| server_tls::certificate_pin(pin));
    let rules = wire::CertificateRules {
        subject_alt_names: tls.subject_alt_names.clone(),
        spki_sha256: keys.map(|pin| pin.to_vec().into()).collect(),
        certificate_sha256: hashes.map(|pin| pin.to_vec().into()).collect(),
    };
    (rules != wire::CertificateRules::default()).then_some(rules)
}

fn files(certificate: &str, key: &str) -> KeySource {
    KeySource::Files(wire::FileKeyPair {
        certificate_chain: certificate.to_owned(),
        private_key: key.to_owned(),
    })
}

/// The certificate of `spec.tls`, and the CA of `spec.auth` if it is for these hosts.
fn own(certificate: &OwnCertificate, ca: Option<&str>, defaults: &TlsParameters) -> wire::TlsSettings {
    let source = files(&certificate.server_certificate, &certificate.private_key);
    let clients = match ca {
        Some(_) => wire::ClientCertificates::Required,
        None => wire::ClientCertificates::None,
    };
    wire::TlsSettings {
        key_pairs: vec![wire::KeyPair { source: Some(source) }],
        clients: clients.into(),
        ca: ca.map(|file| wire::CaCertificates { source: Some(CaSource::File(file.to_owned())) }),
        parameters: spoken(defaults),
        ..wire::TlsSettings::default()
    }
}

fn terminating(port: &Port<'_>, served: &Served<'_>, revisions: &mut Vec<u64>) -> Vec<wire::TlsServer> {
    let options = &port.scope.config.options;
    if let Some(settings) = settings(served, port.viewer, options) {
        return vec![terminated(port, served, served.server, settings, revisions)];
    }
    let spec = &served.gateway.spec.spec;
    let pieces = own_gateway::certificates(spec, served.server).map(|certificate| {
        let hosts = narrowed(&served.server.hosts, &certificate.hosts);
        let ca = own_gateway::client_ca(spec, &hosts);
        let piece = Server { hosts, ..served.server.clone() };
        terminated(port, served, &piece, own(certificate, ca, &options.tls_defaults), revisions)
    });
    pieces.collect()
}

/// The hosts of a server that a certificate is for, each with the namespace that it had.
fn narrowed(hosts: &[String], certificate: &[String]) -> Vec<String> {
    let meet = |host: &String, other: &String| {
        let narrow = own_gateway::meet(host, other)?;
        Some(match host.split_once('/') {
            Some((namespace, _)) => format!("{namespace}/{narrow}"),
            None => narrow,
        })
    };
    hosts.iter().flat_map(|host| certificate.iter().filter_map(move |other| meet(host, other))).collect()
}

/// `server`: the one served, or the part of it that has one certificate.
fn terminated(
    port: &Port<'_>,
    served: &Served<'_>,
    server: &Server,
    settings: wire::TlsSettings,
    revisions: &mut Vec<u64>,
) -> wire::TlsServer {
    let part = Served { server, ..*served };
    let mut termination = wire::TlsTermination { settings: Some(settings), ..Default::default() };
    if served.serving == Serving::TlsTcp {
        termination.tcp = tcp(port, &part, revisions);
    } else {
        let hosts = http_hosts(port.scope.config, std::slice::from_ref(&part), port.rules);
        termination.virtual_hosts = virtual_hosts(port.scope, hosts, revisions);
    }
    wire::TlsServer {
        hosts: dns_names(server),
        origin: Some(origin_of(served)),
        action: Some(wire::tls_server::Action::Terminate(termination)),
    }
}

/// The rules for bytes of the VirtualServices that are bound to a server.
pub(super) fn tcp(port: &Port<'_>, served: &Served<'_>, revisions: &mut Vec<u64>) -> Vec<wire::TcpRule> {
    let config = port.scope.config;
    let mut all = Vec::new();
    for rules in port.rules.iter().filter(|rules| bound(rules, served.gateway)) {
        if !meeting_hosts(config, served.gateway, served.server, rules).is_empty() {
            let made = tcp_rules(port.scope, rules);
            if !made.is_empty() {
                revisions.push(rules.revision);
            }
            all.extend(made);
        }
    }
    all
}

fn forwarding(port: &Port<'_>, served: &Served<'_>, revisions: &mut Vec<u64>) -> Vec<wire::TlsServer> {
    let config = port.scope.config;
    let mut all = Vec::new();
    for rules in port.rules.iter().filter(|rules| bound(rules, served.gateway)) {
        let meeting = meeting_hosts(config, served.gateway, served.server, rules);
        for (sni_hosts, rule) in tls_rules(port.scope, rules) {
            let named = sni_hosts.iter().map(|host| full(config, host, &rules.reference.namespace));
            let hosts: BTreeSet<String> = named
                .flat_map(|sni| {
                    meeting
                        .iter()
                        .filter_map(|host| intersection(host, &sni).map(str::to_owned))
                        .collect::<Vec<_>>()
                })
                .collect();
            if !hosts.is_empty() {
                revisions.push(rules.revision);
                all.push(wire::TlsServer {
                    hosts: hosts.into_iter().collect(),
                    origin: rule.origin.clone(),
                    action: Some(wire::tls_server::Action::Forward(rule)),
                });
            }
        }
    }
    all
}

/// The hosts of a server as SNI has them, each once.
pub(in crate::compile) fn dns_names(server: &Server) -> Vec<String> {
    let dns = |host: &String| {
        let name = host.split_once('/').map_or(host.as_str(), |(_, dns)| dns);
        name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
    };
    server.hosts.iter().map(dns).collect::<BTreeSet<_>>().into_iter().collect()
}

pub(super) fn origin_of(served: &Served<'_>) -> wire::Origin {
    origin(served.gateway, &format!("spec.servers[{}]", served.index), Some(served.index))
}
