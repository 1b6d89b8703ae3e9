//! What the pilot says: whole responses, and contents under the names of each kind.

use mesh_proto::discovery::TYPE_URL;
use mesh_proto::model::{Kind, ResourceName};
use mesh_proto::runtime::identity::{Roots, RootsHandle};
use mesh_proto::wire::envoy::service::discovery::v3::{DeltaDiscoveryResponse, Resource};
use prost::Message as _;
use prost_types::Any;

use crate::store::writer::Writer;
use crate::store::{Place, Store};
use crate::xds::apply;

/// A name of each kind, and one that a route could imply.
const NAMES: [(Kind, &str); 10] = [
    (Kind::SelfConfig, "self"),
    (Kind::Catalogue, "default"),
    (Kind::Destination, "web.default.svc.cluster.local:80"),
    (Kind::Cluster, "web.default.svc.cluster.local:80"),
    (Kind::Endpoints, "web.default.svc.cluster.local:80"),
    (Kind::Workload, "10.0.0.1"),
    (Kind::Listener, "80"),
    (Kind::Secret, "default/web"),
    (Kind::TrustBundle, "cluster.local"),
    (Kind::Cluster, "db.default.svc.cluster.local:5432"),
];

/// A proxy that has just begun, and wants all of them.
fn writer(gateway: bool) -> Writer {
    let place = Place {
        namespace: "default".into(),
        pod_ip: [10, 0, 0, 9].into(),
        cluster_domain: "cluster.local".into(),
        workers: 1,
        gateway,
        mounts: Vec::new(),
    };
    let (store, _) = Store::new(place);
    let mut writer = Writer::new(store, RootsHandle::new(Roots::none()));
    for (kind, name) in NAMES {
        writer.subscribe(ResourceName::new(kind, name));
    }
    writer
}

/// A response, or (after a byte that says of which kind) contents. Each response has one answer; what is not refused is in
/// force with its version.
pub fn discovery(data: &[u8]) {
    if let Ok(response) = DeltaDiscoveryResponse::decode(data) {
        let nonce = response.nonce.clone();
        assert_eq!(apply(&mut writer(false), response).response_nonce, nonce);
    }
    let Some((which, value)) = data.split_first() else { return };
    let (kind, name) = NAMES[usize::from(which >> 1) % NAMES.len()];
    let name = ResourceName::new(kind, name);
    let resource = Resource {
        name: name.to_string(),
        version: "1".into(),
        resource: Some(Any { type_url: kind.type_url().to_owned(), value: value.to_vec() }),
    };
    let response = DeltaDiscoveryResponse {
        type_url: TYPE_URL.to_owned(),
        nonce: "1".into(),
        resources: vec![resource],
        ..Default::default()
    };
    let mut writer = writer(which & 1 > 0);
    let answer = apply(&mut writer, response.clone());
    assert_eq!(answer.response_nonce, "1");
    if answer.error_detail.is_some() {
        assert!(!writer.versions().contains_key(&name.to_string()), "{name} was refused, and is held");
    }
    // The same again changes nothing, and goes away.
    assert_eq!(apply(&mut writer, response).error_detail, answer.error_detail);
    let removal = DeltaDiscoveryResponse {
        type_url: TYPE_URL.to_owned(),
        removed_resources: vec![name.to_string()],
        ..Default::default()
    };
    assert_eq!(apply(&mut writer, removal).error_detail, None);
}
