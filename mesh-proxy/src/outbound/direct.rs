//! Requests and bytes for one known address: a pod that was dialled itself, our own application, the world outside.
//!
//! In: an address and, for a workload of the mesh, who it is. Out: a [`Target`]. Nothing is balanced or retried elsewhere.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use mesh_proto::model::HostPort;

use crate::capture::Application;
use crate::cluster::{
    ClusterView, ConnectionSettings, Endpoint, LoadBalancer, NoEndpoint, Policy, UpstreamTls,
};
use crate::pool::{Source, Target};
use crate::respond::Failure;
use crate::store::Workload;
use crate::tls::MeshAlpn;
use crate::worker::targets::{Recipe, outside as to_outside};
use crate::worker::{Targets, Worker};

/// Envoy's and Istio's defaults, where no DestinationRule speaks.
const CONNECT: Duration = Duration::from_secs(10);
/// Shorter than what application servers keep idle connections for.
const IDLE: Duration = Duration::from_secs(60);
/// Envoy's default for connections that carry bytes.
const IDLE_BYTES: Duration = Duration::from_secs(3600);

fn policy() -> Policy {
    Policy {
        load_balancer: LoadBalancer::Passthrough,
        connect_timeout: CONNECT,
        tls: UpstreamTls::Auto,
        mesh_sni: None,
        mesh_names: Box::default(),
        idle_timeout: IDLE,
        max_requests_per_connection: None,
        limits: None,
        outlier: None,
        locality: None,
        tcp_idle_timeout: IDLE_BYTES,
        connections: ConnectionSettings::default(),
    }
}

/// To one workload, with mTLS where its sidecar takes that.
///
/// # Errors
/// When it has mTLS and no identity.
pub fn workload(
    targets: &Targets,
    address: SocketAddr,
    workload: &Workload,
    service: Option<&HostPort>,
    carries: MeshAlpn,
    greeting: Option<&(HeaderName, HeaderValue)>,
) -> Result<Target, Failure> {
    let mtls = workload.ports.get(&address.port()).is_some_and(|p| p.mtls);
    let expect = match (&workload.identity, mtls) {
        (_, false) => None,
        (Some(identity), true) => Some(std::slice::from_ref(identity)),
        (None, true) => return Err(Failure::NoIdentity(address.to_string())),
    };
    let own = HostPort::new(&address.ip().to_string(), address.port());
    let cluster = service.unwrap_or(&own);
    let recipe = Recipe {
        cluster,
        subset: None,
        uid: &workload.uid,
        address,
        expect,
        outside: None,
        carries,
        policy: &policy(),
        limits: None,
        greeting,
        source: None,
    };
    Ok(targets.make(&recipe))
}

/// To an address outside of the mesh, as it is.
#[must_use]
pub fn outside(targets: &Targets, address: SocketAddr, carries: MeshAlpn) -> Target {
    plain(targets, "passthrough", address, None, carries)
}

/// What the application dialled.
#[derive(Debug, Clone, Copy)]
pub struct Dialled<'a> {
    /// Where that is known.
    pub address: Option<SocketAddr>,
    /// Host, authority or SNI.
    pub host: Option<&'a str>,
}

/// To the address that the application dialled, for a cluster that is there (a ServiceEntry with `resolution: NONE`).
///
/// # Errors
/// When none was dialled, or one of this proxy's own.
pub fn dialled(
    worker: &Worker,
    view: &ClusterView,
    subset: Option<&str>,
    to: Dialled<'_>,
    carries: MeshAlpn,
) -> Result<Target, Failure> {
    let address = to.address.ok_or_else(|| NoEndpoint::NotDialled(view.name().clone()))?;
    if worker.is_own_socket(address) {
        return Err(Failure::ProxyPort(address));
    }
    let policy = view.policy(subset)?;
    if policy.tls == UpstreamTls::IstioMutual {
        return Err(Failure::NoIdentity(address.to_string()));
    }
    Ok(worker.targets.make(&Recipe {
        cluster: view.name(),
        subset,
        uid: &Arc::from(address.to_string()),
        address,
        expect: None,
        outside: to_outside(policy, view, to.host)?.as_ref(),
        carries,
        policy,
        limits: view.limits(subset),
        greeting: None,
        source: None,
    }))
}

/// To an endpoint, for mTLS that is between it and somebody else: nothing is added, whatever the policy says of TLS.
///
/// # Errors
/// When there is no such subset.
pub fn passed_on(
    targets: &Targets,
    view: &ClusterView,
    subset: Option<&str>,
    endpoint: &Endpoint,
) -> Result<Target, Failure> {
    Ok(targets.make(&Recipe {
        cluster: view.name(),
        subset,
        uid: &endpoint.uid,
        address: endpoint.address,
        expect: None,
        outside: None,
        carries: MeshAlpn::Tcp,
        policy: view.policy(subset)?,
        limits: view.limits(subset),
        greeting: None,
        source: None,
    }))
}

/// To the application beside us.
#[must_use]
pub fn application(targets: &Targets, port: Application, carries: MeshAlpn) -> Target {
    plain(targets, "inbound", port.target, port.source, carries)
}

fn plain(
    targets: &Targets,
    name: &str,
    address: SocketAddr,
    source: Option<Source>,
    carries: MeshAlpn,
) -> Target {
    // One client's connections never carry another's requests: the application tells clients by their addresses.
    let uid = match source {
        Some(Source::Transparent(client)) => format!("{address} for {client}"),
        Some(Source::Own(_)) | None => address.to_string(),
    };
    targets.make(&Recipe {
        cluster: &HostPort::new(name, address.port()),
        subset: None,
        uid: &Arc::from(uid),
        address,
        expect: None,
        outside: None,
        carries,
        policy: &policy(),
        limits: None,
        greeting: None,
        source,
    })
}
