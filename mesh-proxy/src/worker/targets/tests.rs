//! What a target is made of, and when it is made anew.

use mesh_proto::runtime::testing::TestCa;
use mesh_proto::wire::mesh::v1 as wire;

use super::*;
use crate::cluster::Here;

fn view(mtls: bool, identity: &str, tls: wire::UpstreamTls) -> ClusterView {
    let cluster = wire::Cluster {
        name: Some(wire::HostPort { host: "a.default.svc.cluster.local".into(), port: 80 }),
        policy: Some(wire::Policy {
            load_balancer: Some(wire::LoadBalancer {
                kind: Some(wire::load_balancer::Kind::RoundRobin(wire::Empty {})),
            }),
            connect_timeout: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
            tls: tls.into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let endpoint = wire::Endpoint {
        uid: "u".into(),
        address: "127.0.0.1:80".into(),
        identity: identity.into(),
        mtls,
        ready: true,
        ..Default::default()
    };
    ClusterView::build(&cluster, &wire::Endpoints { endpoints: vec![endpoint] }, None, &Here::default(), 1)
        .unwrap()
}

#[test]
fn mtls_exactly_where_the_endpoint_has_it() {
    let ca = TestCa::new();
    let identity = ca.identity("default", "me");
    let targets = Targets::new(identity.clone());
    let of = |view: &ClusterView| {
        let way = Way { carries: MeshAlpn::Http1, greeting: None, host: None };
        targets.of(view, None, &view.endpoints()[0], &way)
    };
    let peer = "spiffe://cluster.local/ns/default/sa/a";
    let auto = wire::UpstreamTls::Auto;
    let mesh = view(true, peer, auto);
    let target = of(&mesh).unwrap();
    let (config, name) = target.tls.as_ref().unwrap();
    assert_eq!(config.alpn_protocols, [b"istio-http/1.1".to_vec()]);
    assert_eq!(name.to_str(), "outbound_.80_._.a.default.svc.cluster.local");
    assert!(Rc::ptr_eq(&target, &of(&mesh).unwrap()), "made once");
    identity.swap_leaf(ca.leaf("default", "me")).unwrap();
    let renewed = of(&mesh).unwrap();
    assert!(renewed.key != target.key, "connections of before are not used for new requests");
    assert!(of(&view(false, peer, auto)).unwrap().tls.is_none());
    assert!(of(&view(true, peer, wire::UpstreamTls::Disable)).unwrap().tls.is_none());
    let demanded = wire::UpstreamTls::IstioMutual;
    assert!(of(&view(false, peer, demanded)).unwrap().tls.is_some());
    assert!(matches!(of(&view(false, "", demanded)), Err(Failure::NoIdentity(_))));
}
