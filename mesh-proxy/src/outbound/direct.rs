//! Requests and bytes for one known address: a pod that was dialled itself, our own application, the world outside.
//!
//! In: an address and, for a workload of the mesh, who it is. Out: a [`Target`]. Nothing is balanced or retried elsewhere.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use mesh_proto::model::HostPort;

use crate::capture::Application;
use crate::cluster::{ConnectionSettings, LoadBalancer, Policy, UpstreamTls};
use crate::pool::{Source, Target};
use crate::respond::Failure;
use crate::store::Workload;
use crate::tls::MeshAlpn;
use crate::worker::Targets;
use crate::worker::targets::Recipe;

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
        (Some(identity), true) => Some(identity),
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
        carries,
        policy: &policy(),
        limits: None,
        greeting: None,
        source,
    })
}
