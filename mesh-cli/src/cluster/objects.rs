//! The mesh's configuration objects, as JSON, from whichever version the API server has.

use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::core::GroupVersionKind;
use kube::{Api, ResourceExt as _};
use mesh_proto::crd::{self, Document, Kind, Origin};
use serde_json::Value;

use super::client::Cluster;

/// The kinds that say something about traffic, and how the API server calls each.
pub const KINDS: [(Kind, &str); 15] = [
    (Kind::VirtualService, "virtualservices"),
    (Kind::DestinationRule, "destinationrules"),
    (Kind::Gateway, "gateways"),
    (Kind::PeerAuthentication, "peerauthentications"),
    (Kind::ServiceEntry, "serviceentries"),
    (Kind::Sidecar, "sidecars"),
    (Kind::WorkloadEntry, "workloadentries"),
    (Kind::WorkloadGroup, "workloadgroups"),
    (Kind::EnvoyFilter, "envoyfilters"),
    (Kind::ProxyConfig, "proxyconfigs"),
    (Kind::AuthorizationPolicy, "authorizationpolicies"),
    (Kind::RequestAuthentication, "requestauthentications"),
    (Kind::Telemetry, "telemetries"),
    (Kind::WasmPlugin, "wasmplugins"),
    (Kind::Service, "services"),
];

/// All objects of a kind, in one namespace or in all. None where the API server does not know the kind.
///
/// # Errors
/// When the API server does not answer, or refuses.
pub async fn list(
    cluster: &Cluster,
    (kind, plural): (Kind, &str),
    namespace: Option<&str>,
) -> anyhow::Result<Vec<Value>> {
    for version in kind.versions() {
        let gvk = GroupVersionKind::gvk(kind.group(), version, kind.as_str());
        let resource = ApiResource::from_gvk_with_plural(&gvk, plural);
        let api: Api<DynamicObject> = match namespace {
            Some(namespace) => Api::namespaced_with(cluster.client.clone(), namespace, &resource),
            None => Api::all_with(cluster.client.clone(), &resource),
        };
        match api.list(&ListParams::default()).await {
            Ok(objects) => {
                let objects = objects.items.into_iter().map(|mut object| {
                    object.managed_fields_mut().clear();
                    let mut value = serde_json::to_value(&object).unwrap_or_default();
                    value["apiVersion"] = resource.api_version.clone().into();
                    value["kind"] = kind.as_str().into();
                    value
                });
                return Ok(objects.collect());
            }
            // Not in this version.
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => anyhow::bail!("{plural}.{}: {}", kind.group(), cluster.explain(&error)),
        }
    }
    Ok(Vec::new())
}

/// Everything that `validate` reads, as documents of the parser that everybody uses.
///
/// # Errors
/// When the API server does not answer, or refuses.
pub async fn documents(cluster: &Cluster, namespace: Option<&str>) -> anyhow::Result<Vec<Document>> {
    let mut documents = Vec::new();
    for kind in KINDS {
        for value in list(cluster, kind, namespace).await? {
            documents.push(document(kind.0, value));
        }
    }
    // Who may be asked (CUSTOM) stands in MeshConfig. Whoever may not read that is told nothing about it.
    let maps =
        list(cluster, (Kind::ConfigMap, "configmaps"), Some(&cluster.system)).await.unwrap_or_default();
    let mesh_config = maps.into_iter().filter(|map| map["metadata"]["name"] == "istio");
    documents.extend(mesh_config.map(|map| document(Kind::ConfigMap, map)));
    Ok(documents)
}

/// An object of the API server as a document whose place is the object itself.
#[must_use]
pub fn document(kind: Kind, value: Value) -> Document {
    let of = |field: &str| value["metadata"][field].as_str().unwrap_or_default();
    let file = format!("cluster:{kind}/{}/{}", of("namespace"), of("name"));
    crd::from_value(value, Origin { file: file.into(), ..Origin::default() })
}
