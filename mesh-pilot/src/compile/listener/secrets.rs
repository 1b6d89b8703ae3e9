//! `secret/<namespace>/<name>`: certificates by `credentialName`.
//!
//! Istio's semantics: a Secret is looked for in the namespace of the gateway **workload**; type `kubernetes.io/tls`
//! (`tls.crt`, `tls.key`, `ca.crt`, `ca.crl`) or generic (`cert`, `key`, `cacert`, `crl`); the CA and what it revoked may be in
//! a companion `<name>-cacert`.
//! A gateway gets those that a server of its own or a DestinationRule that it sees names, of its own namespace, and no other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_proto::crd::destination_rule::ClientTlsMode;
use mesh_proto::crd::{self, Secret};
use mesh_proto::wire::mesh::v1 as wire;

use super::{class_of, served, tls};
use crate::compile::holds;
use crate::compile::host::visible;
use crate::compile::traffic::credentials;
use crate::snapshot::{Compiled, Config, Held, HeldSecret, Viewer};

/// What Istio adds to a Secret's name for the CA.
const COMPANION: &str = "-cacert";

/// The names of Secrets that Gateways and DestinationRules name, in whatever namespace.
pub fn named_secrets(
    gateways: &[Arc<Held<Arc<crd::Gateway>>>],
    rules: &[Arc<Held<Arc<crd::DestinationRule>>>],
) -> BTreeSet<String> {
    let servers = gateways.iter().flat_map(|gateway| &gateway.spec.spec.servers);
    let mut names = BTreeSet::new();
    for settings in servers.filter_map(|server| server.tls.as_ref()) {
        let named = settings.credential_names.iter();
        for name in named.chain([&settings.credential_name, &settings.ca_cert_credential_name]) {
            if !name.is_empty() {
                names.insert(name.clone());
                names.insert(format!("{name}{COMPANION}"));
            }
        }
    }
    for tls in rules.iter().flat_map(|rule| credentials(&rule.spec)) {
        names.insert(tls.credential_name.clone());
        names.insert(format!("{}{COMPANION}", tls.credential_name));
    }
    names
}

/// What a gateway needs of a Secret.
#[derive(Debug, Clone, Copy, Default)]
struct Need {
    key_pair: bool,
    ca: bool,
}

/// What the servers of a gateway workload need, by `namespace/name`.
fn needs(config: &Config, viewer: &Viewer) -> BTreeMap<String, Need> {
    let mut needs: BTreeMap<String, Need> = BTreeMap::new();
    for served in served(config, viewer).filter(|served| class_of(served.serving) == super::Class::Tls) {
        let Some(settings) = tls::settings(&served, viewer, &config.options) else { continue };
        for pair in settings.key_pairs {
            if let Some(wire::key_pair::Source::Secret(name)) = pair.source {
                needs.entry(name).or_default().key_pair = true;
            }
        }
        if let Some(wire::ca_certificates::Source::Secret(name)) = settings.ca.and_then(|ca| ca.source) {
            needs.entry(name).or_default().ca = true;
        }
    }
    // TLS to the outside: of the rules that it may see.
    let rules = config.destination_rules.iter().filter(|_| viewer.router);
    let seen = rules.filter(|rule| {
        let export_to = rule.spec.spec.export_to.iter().map(String::as_str);
        let default = &config.options.default_export.destination_rules;
        visible(export_to, default, &rule.reference.namespace, &viewer.namespace).is_some()
    });
    for tls in seen.flat_map(|rule| credentials(&rule.spec)) {
        let need = needs.entry(format!("{}/{}", viewer.namespace, tls.credential_name)).or_default();
        need.key_pair |= tls.mode == ClientTlsMode::Mutual;
        need.ca |= tls.insecure_skip_verify != Some(true);
    }
    needs
}

/// The Secrets that a gateway workload gets if they exist, as `namespace/name`.
#[must_use]
pub fn secret_names(config: &Config, viewer: &Viewer) -> Vec<String> {
    needs(config, viewer).into_keys().collect()
}

/// One of them.
#[must_use]
pub fn secret(config: &Config, viewer: &Viewer, name: &str) -> Option<Compiled<wire::Secret>> {
    let need = *needs(config, viewer).get(name)?;
    let (namespace, plain) = name.split_once('/')?;
    let find = |name: &str| config.secrets.get(&(Arc::from(namespace), Arc::from(name)));
    let (own, companion) = (find(plain), find(&format!("{plain}{COMPANION}")));
    let mut message = wire::Secret::default();
    let mut revisions = Vec::new();
    if let Some(own) = own.filter(|_| need.key_pair) {
        let pair = [("cert", "key"), ("tls.crt", "tls.key")];
        let pair = pair.iter().find(|(cert, _)| value(&own.spec, cert).is_some()).unwrap_or(&pair[1]);
        message.certificate_chain = value(&own.spec, pair.0).unwrap_or_default().into();
        message.private_key = value(&own.spec, pair.1).unwrap_or_default().into();
        revisions.push(own.revision);
    }
    if need.ca {
        let ca = |held: &&HeldSecret| value(&held.spec, "cacert").or_else(|| value(&held.spec, "ca.crt"));
        let found = companion.iter().chain(&own).find_map(|held| Some((held.revision, ca(held)?)));
        if let Some((revision, ca)) = found {
            message.ca_certificates = ca.into();
            revisions.push(revision);
            // From whichever has one: what is revoked must not be missed.
            let revoked =
                |held: &&HeldSecret| value(&held.spec, "crl").or_else(|| value(&held.spec, "ca.crl"));
            if let Some((revision, crl)) =
                companion.iter().chain(&own).find_map(|held| Some((held.revision, revoked(held)?)))
            {
                message.crl = crl.into();
                revisions.push(revision);
            }
        } else {
            revisions.extend(own.map(|own| own.revision));
        }
    }
    // A key pair without its Secret is nothing, whatever its companion says.
    let there = if need.key_pair { own.is_some() } else { own.is_some() || companion.is_some() };
    there.then(|| Compiled { message, holds: holds(revisions) })
}

fn value(secret: &Secret, key: &str) -> Option<Vec<u8>> {
    secret.value(key).filter(|value| !value.is_empty())
}
