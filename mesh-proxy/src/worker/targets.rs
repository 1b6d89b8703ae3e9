//! How each endpoint is reached, made once and kept: address, TLS settings, limits.
//!
//! In: a cluster's view, a chosen endpoint, the protocol. Out: [`Target`]s for the pool. mTLS exactly where the endpoint has
//! it (or the policy demands it), with the endpoint's identity as the only one that is taken, ALPN and SNI as Istio's.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use mesh_proto::model::{HostPort, SpiffeId};
use mesh_proto::runtime::identity::{Identity, MeshTls};
use mesh_proto::runtime::tls::{ClientIdentity, Expect, client_config};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use xxhash_rust::xxh3::xxh3_64;

use crate::cluster::{ClusterView, Endpoint, Limits, Policy, UpstreamTls};
use crate::destination::normalise;
use crate::http::Protocol;
use crate::pool::{PoolKey, SendErrorKind, Source, Target};
use crate::respond::Failure;
use crate::tls::originate::Ready;
use crate::tls::{MeshAlpn, mesh_sni};

#[cfg(test)]
mod tests;

/// When so many entries have been added since the last look, those whose endpoint is gone are dropped.
const SWEEP: usize = 256;

/// The targets of one worker.
pub struct Targets {
    identity: Identity,
    known: RefCell<Known>,
}

#[derive(Default)]
struct Known {
    targets: HashMap<Key, Entry>,
    configs: HashMap<(Box<[SpiffeId]>, MeshAlpn), Arc<ClientConfig>>,
    /// How the mesh spoke TLS when they were made.
    spoken: Arc<MeshTls>,
    next_sweep: usize,
}

/// Endpoints are compared by address: the entry keeps the endpoint, so that no other one can have it.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    endpoint: usize,
    carries: MeshAlpn,
    /// Hash of the subset's name: a look-up by name would allocate.
    subset: u64,
}

struct Entry {
    endpoint: Arc<Endpoint>,
    policy: Arc<Policy>,
    identity: u64,
    /// What TLS to the outside was made with.
    outside: Option<Arc<Ready>>,
    target: Rc<Target>,
}

/// Everything that a target is made of.
pub struct Recipe<'a> {
    /// The cluster's name.
    pub cluster: &'a HostPort,
    /// The subset, for SNI.
    pub subset: Option<&'a str>,
    /// The endpoint's uid.
    pub uid: &'a Arc<str>,
    /// Where it listens.
    pub address: std::net::SocketAddr,
    /// One of whom must answer; `None`: plaintext, or TLS to the outside.
    pub expect: Option<&'a [SpiffeId]>,
    /// TLS to a server that is not of the mesh, and the name to ask for.
    pub outside: Option<&'a (Arc<Ready>, ServerName<'static>)>,
    /// What the connection will carry.
    pub carries: MeshAlpn,
    /// Timeouts and settings of connections.
    pub policy: &'a Policy,
    /// What is counted and limited.
    pub limits: Option<&'a Arc<Limits>>,
    /// Who we are, for the peer's metrics.
    pub greeting: Option<&'a (HeaderName, HeaderValue)>,
    /// The address to connect from; `None`: the kernel's choice. Part of what `uid` tells apart.
    pub source: Option<Source>,
}

/// How an endpoint is to be reached for one request or connection.
#[derive(Debug, Clone, Copy)]
pub struct Way<'a> {
    /// What the connection will carry.
    pub carries: MeshAlpn,
    /// Who we are, for the peer's metrics.
    pub greeting: Option<&'a (HeaderName, HeaderValue)>,
    /// Host or SNI as the application says it: TLS to the outside asks for it where the cluster's own name is a wildcard.
    pub host: Option<&'a str>,
}

impl Targets {
    /// Nothing known yet.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        Self { identity, known: RefCell::default() }
    }

    /// The target of `endpoint` for requests or bytes.
    ///
    /// # Errors
    /// When mTLS is demanded and the endpoint has no identity, or the subset is unknown.
    pub fn of(
        &self,
        view: &ClusterView,
        subset: Option<&str>,
        endpoint: &Arc<Endpoint>,
        way: &Way<'_>,
    ) -> Result<Rc<Target>, Failure> {
        let policy = view.policy(subset)?;
        let key = Key {
            endpoint: Arc::as_ptr(endpoint) as usize,
            carries: way.carries,
            subset: subset.map_or(0, |s| xxh3_64(s.as_bytes())),
        };
        let generation = self.identity.generation();
        if let Some(entry) = self.known.borrow().targets.get(&key)
            && entry.identity == generation
            && (Arc::ptr_eq(&entry.policy, policy) || entry.policy == *policy)
            && is_current(policy, entry.outside.as_ref())
        {
            return Ok(entry.target.clone());
        }
        let outside = outside(policy, view, way.host)?;
        let recipe = Recipe {
            cluster: view.name(),
            subset,
            uid: &endpoint.uid,
            address: endpoint.address,
            expect: expected(policy, endpoint)?,
            outside: outside.as_ref(),
            carries: way.carries,
            policy,
            limits: view.limits(subset),
            greeting: way.greeting,
            source: None,
        };
        let target = Rc::new(self.make(&recipe));
        // The name is another one for each request.
        if outside.is_some() && asks_for_any(policy, view) {
            return Ok(target);
        }
        let entry = Entry {
            endpoint: endpoint.clone(),
            policy: policy.clone(),
            identity: generation,
            outside: outside.map(|(ready, _)| ready),
            target: target.clone(),
        };
        self.keep(key, entry);
        Ok(target)
    }

    /// A target that is not kept.
    #[must_use]
    pub fn make(&self, recipe: &Recipe<'_>) -> Target {
        let tls = recipe.expect.map(|expect| {
            let own = recipe.policy.mesh_sni.as_deref().map(str::to_owned);
            let of_cluster = || mesh_sni(recipe.cluster.host(), recipe.cluster.port(), recipe.subset);
            let sni = own.unwrap_or_else(of_cluster);
            // Identity is what is verified, the name only tells the peer what was meant: an address does too.
            let name = ServerName::try_from(sni)
                .unwrap_or_else(|_| ServerName::IpAddress(recipe.address.ip().into()));
            (self.config(expect, recipe.carries), name)
        });
        let mesh = tls.is_some();
        let outside =
            recipe.outside.map(|(ready, name)| (ready.config(recipe.carries).clone(), name.clone()));
        let generation = match (mesh, recipe.outside) {
            (true, _) => self.identity.generation(),
            (false, Some((ready, name))) => generation_of(ready, name),
            (false, None) => 0,
        };
        let tls = tls.or(outside);
        let protocol = match recipe.carries {
            MeshAlpn::Http2 => Protocol::Http2,
            MeshAlpn::Http1 | MeshAlpn::Tcp => Protocol::Http1,
        };
        let key = PoolKey::new(
            recipe.cluster.clone(),
            recipe.uid.clone(),
            protocol,
            generation,
            recipe.expect.unwrap_or_default(),
        );
        let key = match recipe.limits {
            Some(_) => key.limited(recipe.subset.unwrap_or_default()),
            None => key,
        };
        Target {
            key,
            address: recipe.address,
            greeting: if mesh { recipe.greeting.cloned() } else { None },
            mesh,
            tls,
            source: recipe.source,
            connect_timeout: recipe.policy.connect_timeout,
            idle_timeout: recipe.policy.idle_timeout,
            max_requests: recipe.policy.max_requests_per_connection.map(Into::into),
            connections: recipe.policy.connections,
            limits: recipe.limits.cloned(),
        }
    }

    /// One TLS configuration per expected identities and protocol: it reads leaf and roots anew at each handshake.
    fn config(&self, expect: &[SpiffeId], carries: MeshAlpn) -> Arc<ClientConfig> {
        let mut known = self.known.borrow_mut();
        let spoken = self.identity.roots_handle().tls();
        if !Arc::ptr_eq(&known.spoken, &spoken) {
            known.configs.clear();
            known.spoken = spoken;
        }
        let made = known.configs.entry((expect.into(), carries)).or_insert_with(|| {
            client_config(
                ClientIdentity::Mesh(&self.identity),
                self.identity.roots_handle().clone(),
                Expect::OneOf(expect.to_vec()),
                &[carries.name()],
            )
        });
        made.clone()
    }

    fn keep(&self, key: Key, entry: Entry) {
        let mut known = self.known.borrow_mut();
        if known.targets.len() >= known.next_sweep {
            known.targets.retain(|_, entry| Arc::strong_count(&entry.endpoint) > 1);
            let Known { targets, configs, .. } = &mut *known;
            let used: HashSet<&[SpiffeId]> =
                targets.values().filter_map(|e| expected(&e.policy, &e.endpoint).ok().flatten()).collect();
            configs.retain(|(identities, _), _| used.contains(&**identities));
            known.next_sweep = known.targets.len() + SWEEP;
        }
        known.targets.insert(key, entry);
    }
}

/// Whether an entry was made with the TLS settings of now.
fn is_current(policy: &Policy, made_with: Option<&Arc<Ready>>) -> bool {
    match (&policy.tls, made_with) {
        (UpstreamTls::Originate(settings), Some(ready)) => settings.is(ready),
        (UpstreamTls::Originate(_), None) => false,
        _ => true,
    }
}

/// Whether TLS to the outside asks for the name that each request has.
fn asks_for_any(policy: &Policy, view: &ClusterView) -> bool {
    let named = matches!(&policy.tls, UpstreamTls::Originate(settings) if settings.sni().is_some());
    !named && view.name().host().starts_with('*')
}

/// TLS to the outside, where the policy asks for that: what handshakes take now, and the name to ask for.
///
/// # Errors
/// When it is not there (a file or Secret), or there is no name.
pub fn outside(
    policy: &Policy,
    view: &ClusterView,
    host: Option<&str>,
) -> Result<Option<(Arc<Ready>, ServerName<'static>)>, Failure> {
    let UpstreamTls::Originate(settings) = &policy.tls else { return Ok(None) };
    let closed = |why: String| Failure::Send { kind: SendErrorKind::Tls(why), retried: false };
    let ready = settings.ready().map_err(closed)?;
    let asked = || match view.name().host() {
        wildcard if wildcard.starts_with('*') => host.and_then(normalise).map(Cow::into_owned),
        own => Some(own.to_owned()),
    };
    let name = settings.sni().map(str::to_owned).or_else(asked);
    let name = name.and_then(|name| ServerName::try_from(name).ok());
    let name = name.ok_or_else(|| closed(format!("no server name to ask {} for", view.name())))?;
    Ok(Some((ready, name)))
}

/// Tells connections apart whose TLS is not the same. Never that of a generation of our own certificate.
fn generation_of(ready: &Ready, name: &ServerName<'_>) -> u64 {
    xxh3_64(format!("{} {}", ready.serial, name.to_str()).as_bytes()) | 1 << 63
}

/// Of whom the endpoint must be one; `None`: plaintext.
fn expected<'a>(policy: &'a Policy, endpoint: &'a Endpoint) -> Result<Option<&'a [SpiffeId]>, Failure> {
    let mtls = match &policy.tls {
        UpstreamTls::Auto => endpoint.mtls,
        UpstreamTls::Disable | UpstreamTls::Originate(_) => false,
        UpstreamTls::IstioMutual => true,
    };
    if !mtls {
        return Ok(None);
    }
    if !policy.mesh_names.is_empty() {
        return Ok(Some(&policy.mesh_names));
    }
    let identity = endpoint.identity.as_ref().map(std::slice::from_ref);
    identity.map(Some).ok_or_else(|| Failure::NoIdentity(endpoint.address.to_string()))
}
