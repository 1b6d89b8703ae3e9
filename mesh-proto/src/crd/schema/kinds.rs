//! What a definition says beside the schema: plural and short names and printer columns (Istio's), and which type a kind has.

use schemars::{JsonSchema, Schema, SchemaGenerator};

use crate::crd::meta::Kind;

/// A column of `kubectl get`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    pub name: &'static str,
    pub path: &'static str,
    pub about: &'static str,
}

/// What users type and see.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts {
    pub plural: &'static str,
    pub short: &'static [&'static str],
    pub columns: &'static [Column],
}

/// Name, path, what it says.
macro_rules! columns {
    ($($name:literal $path:literal $about:literal),* $(,)?) => {
        &[$(Column { name: $name, path: $path, about: $about },)*]
    };
}

/// Istio's names. A kind without any is a mistake that the test of this module finds.
pub(super) fn facts(kind: Kind) -> Facts {
    let (plural, short, columns): (_, &[_], &[_]) = match kind {
        Kind::VirtualService => (
            "virtualservices",
            &["vs"],
            columns![
                "Gateways" ".spec.gateways" "The gateways (and mesh) that have these routes",
                "Hosts" ".spec.hosts" "The hosts whose traffic is routed",
            ],
        ),
        Kind::DestinationRule => {
            ("destinationrules", &["dr"], columns!["Host" ".spec.host" "The service that it is about"])
        }
        Kind::Gateway => ("gateways", &["gw"], &[]),
        Kind::ServiceEntry => (
            "serviceentries",
            &["se"],
            columns!["Hosts" ".spec.hosts" "The hosts of the service",
                "Location" ".spec.location" "Whether the service is part of the mesh",
                "Resolution" ".spec.resolution" "How addresses are found",
            ],
        ),
        Kind::Sidecar => ("sidecars", &[], &[]),
        Kind::WorkloadEntry => {
            ("workloadentries", &["we"], columns!["Address" ".spec.address" "Where the workload is"])
        }
        Kind::WorkloadGroup => ("workloadgroups", &["wg"], &[]),
        Kind::EnvoyFilter => ("envoyfilters", &[], &[]),
        Kind::ProxyConfig => ("proxyconfigs", &[], &[]),
        Kind::AuthorizationPolicy => (
            "authorizationpolicies",
            &["ap"],
            columns!["Action" ".spec.action" "What happens to requests that match"],
        ),
        Kind::PeerAuthentication => {
            ("peerauthentications", &["pa"], columns!["Mode" ".spec.mtls.mode" "What peers must do"])
        }
        Kind::RequestAuthentication => ("requestauthentications", &["ra"], &[]),
        Kind::Telemetry => ("telemetries", &["telemetry"], &[]),
        Kind::WasmPlugin => ("wasmplugins", &[], &[]),
        Kind::TrafficExtension => ("trafficextensions", &[], &[]),
        _ => ("", &[], &[]),
    };
    Facts { plural, short, columns }
}

/// The schema of a kind's `spec`, if it has a type: a kind that comes in force gets a line here.
pub(super) fn spec(kind: Kind, generator: &mut SchemaGenerator) -> Option<Schema> {
    /// `O` is there for its description.
    fn of<O: JsonSchema, S: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
        let _ = generator.subschema_for::<O>();
        generator.subschema_for::<S>()
    }
    use crate::crd::{
        authorization_policy as ap, destination_rule as dr, gateway as gw, peer_authentication as pa,
        request_authentication as ra, service_entry as se, virtual_service as vs,
    };
    Some(match kind {
        Kind::VirtualService => of::<vs::VirtualService, vs::VirtualServiceSpec>(generator),
        Kind::DestinationRule => of::<dr::DestinationRule, dr::DestinationRuleSpec>(generator),
        Kind::Gateway => of::<gw::Gateway, gw::GatewaySpec>(generator),
        Kind::ServiceEntry => of::<se::ServiceEntry, se::ServiceEntrySpec>(generator),
        Kind::PeerAuthentication => of::<pa::PeerAuthentication, pa::PeerAuthenticationSpec>(generator),
        Kind::RequestAuthentication => {
            of::<ra::RequestAuthentication, ra::RequestAuthenticationSpec>(generator)
        }
        Kind::AuthorizationPolicy => of::<ap::AuthorizationPolicy, ap::AuthorizationPolicySpec>(generator),
        _ => return None,
    })
}
