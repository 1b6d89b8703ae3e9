//! ExternalName Services: other names of what they point at. In: a host. Out: the service that it stands for.
//!
//! Istio's semantics (since 1.21): such a name is a plain alias. Requests for it go where requests for its target go, with the
//! target's routes, policies and mTLS. Where nobody in the mesh has the target, it is a name of the outside like any other: DNS
//! leads there, if outside is open.

use super::host::{exported, visible_service};
use crate::snapshot::{Config, Held, Service};

/// How often a name may stand for another name; rings end there.
const MAX_HOPS: usize = 8;

/// What a name stands for.
#[derive(Debug)]
pub(super) struct Target<'a> {
    /// The service.
    pub(super) service: &'a Held<Service>,
    /// The revisions of the objects that lead there, without its own.
    pub(super) revisions: Vec<u64>,
}

/// The service that `host` stands for, as far as the namespace may see the way there; `None`: it is no alias of one.
pub(super) fn target<'a>(config: &'a Config, namespace: &str, host: &str) -> Option<Target<'a>> {
    let (mut revisions, mut at) = (Vec::new(), host);
    while revisions.len() <= MAX_HOPS {
        // A name that somebody has is nobody's alias.
        if config.services.contains_key(at) {
            let service = visible_service(config, namespace, at)?;
            return (!revisions.is_empty()).then_some(Target { service, revisions });
        }
        let alias = config.aliases.get(at)?;
        exported(config, &alias.spec.annotations, &alias.spec.namespace, namespace)?;
        revisions.push(alias.revision);
        at = &alias.spec.target;
    }
    None
}

/// The names one after the other, if there are too many of them, which a ring has always.
pub(super) fn ring(config: &Config, host: &str) -> Option<String> {
    let mut way = vec![host];
    while way.len() <= MAX_HOPS + 1 {
        let at = *way.last()?;
        if config.services.contains_key(at) {
            return None;
        }
        way.push(&config.aliases.get(at)?.spec.target);
        if way[..way.len() - 1].contains(way.last()?) {
            return Some(way.join(" is "));
        }
    }
    Some(format!("{} is ..., more than {MAX_HOPS} names", way[..3].join(" is ")))
}
