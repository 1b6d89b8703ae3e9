//! Names of hosts: short ones made full, wildcards, and who may see what.

use mesh_proto::crd::{Labels, Origin};

use crate::snapshot::{Config, Held, Service};

/// `host` as an object in `namespace` means it: lower case; a name without a dot is a service of that namespace. Beyond
/// what Istio does, `svc.ns` and `svc.ns.svc` mean the service too, if there is one.
pub(super) fn full(config: &Config, host: &str, namespace: &str) -> String {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let domain = &config.mesh.cluster_domain;
    if host == "*" || host.starts_with("*.") || host.parse::<std::net::IpAddr>().is_ok() {
        return host;
    }
    if !host.contains('.') {
        return format!("{host}.{namespace}.svc.{domain}");
    }
    let forms = [format!("{host}.svc.{domain}"), format!("{host}.{domain}")];
    let known = |form: &String| {
        config.services.contains_key(form.as_str()) || config.aliases.contains_key(form.as_str())
    };
    forms.into_iter().find(known).unwrap_or(host)
}

/// How specific a host is: exact before wildcards, longer before shorter, `*` last. Larger is more specific.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Specificity(usize);

/// Whether `pattern` (exact, `*.suffix`, `*`) names `host`, and how specifically. `*.a.b` does not name `a.b`. `host` may
/// itself be a wildcard: it is named by itself and by wider ones.
pub(super) fn names(pattern: &str, host: &str) -> Option<Specificity> {
    if pattern == host {
        let specificity = if pattern.starts_with('*') { pattern.len() - 1 } else { usize::MAX };
        return Some(Specificity(specificity));
    }
    let suffix = pattern.strip_prefix('*')?;
    let rest = host.strip_suffix(suffix)?;
    // `*.b` against `*.a.b`: the rest is `*.a`.
    (!rest.is_empty()).then_some(Specificity(suffix.len()))
}

/// The narrower one of two hosts, where one of them names the other.
pub(super) fn intersection<'a>(a: &'a str, b: &'a str) -> Option<&'a str> {
    if names(a, b).is_some() {
        Some(b)
    } else if names(b, a).is_some() {
        Some(a)
    } else {
        None
    }
}

/// Who may see an object, as its `exportTo` says. Smaller comes first when routes are chosen: what is private to a
/// namespace, then what is exported to it by name, then what is public.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Visibility {
    Private,
    Exported,
    Public,
}

/// How an object of `owner` is visible in `namespace`: as it says itself, or else as `default` does, which is MeshConfig's.
pub(super) fn visible<'a>(
    export_to: impl IntoIterator<Item = &'a str>,
    default: &[String],
    owner: &str,
    namespace: &str,
) -> Option<Visibility> {
    let said = of_list(export_to, owner, namespace);
    let default = || of_list(default.iter().map(String::as_str), owner, namespace);
    said.or_else(default).unwrap_or(Some(Visibility::Public))
}

/// How it is visible by a list, if there is one.
fn of_list<'a>(
    export_to: impl IntoIterator<Item = &'a str>,
    owner: &str,
    namespace: &str,
) -> Option<Option<Visibility>> {
    let mut empty = true;
    let mut best = None;
    for entry in export_to {
        empty = false;
        let seen = match entry {
            "*" => Some(Visibility::Public),
            "." => (owner == namespace).then_some(Visibility::Private),
            "~" => None,
            named if named == namespace && owner == namespace => Some(Visibility::Private),
            named => (named == namespace).then_some(Visibility::Exported),
        };
        best = best.min(seen).or(best).or(seen);
    }
    (!empty).then_some(best)
}

/// Whether a service is visible in a namespace (annotation `networking.istio.io/exportTo`).
pub(super) fn sees(config: &Config, namespace: &str, service: &Service) -> bool {
    exported(config, &service.annotations, &service.namespace, namespace).is_some()
}

/// How a Service of `owner` with these annotations is visible in a namespace.
pub(super) fn exported(
    config: &Config,
    annotations: &Labels,
    owner: &str,
    namespace: &str,
) -> Option<Visibility> {
    let list = annotations.get("networking.istio.io/exportTo").map_or("", String::as_str);
    let list = list.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    visible(list, &config.options.default_export.services, owner, namespace)
}

/// The service with this host, if it is visible in the namespace.
pub(super) fn visible_service<'a>(
    config: &'a Config,
    namespace: &str,
    host: &str,
) -> Option<&'a Held<Service>> {
    config.services.get(host).map(AsRef::as_ref).filter(|held| sees(config, namespace, &held.spec))
}

/// `file:line` in words for a message, or nothing.
pub(super) fn at(origin: &Origin) -> String {
    let location = origin.location("");
    if location.is_empty() { String::new() } else { format!(" ({location})") }
}
