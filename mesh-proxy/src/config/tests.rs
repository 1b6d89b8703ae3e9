//! The bootstrap as the supervisor writes it, and what is refused.

use std::net::IpAddr;

use super::{Config, InvalidConfig, NodeKind};

const SIDECAR: &str = r#"{
 "node":{"kind":"sidecar","name":"reviews-v2-0","namespace":"default","service_account":"reviews","uid":"u1"},
 "trust_domain":"cluster.local","cluster_domain":"cluster.local","pod_ip":"127.9.4.1",
 "ca":{"address":"127.9.0.2:15012","roots":"root.pem","token":"token"},"pilot":{"address":"127.9.0.3:15012"},
 "inbound":[{"listen":"127.9.4.1:9080","port":9080,"target":"127.0.0.1:34567"}],
 "outbound":{"http_proxy":"127.9.4.1:15001","vips":{"from":"127.9.255.0/24","to":"127.9.4.0/24"}},
 "status":"127.9.4.1:15021","metrics":"127.9.4.1:15090","admin":"127.9.4.1:15000","state_dir":"state",
 "workers":2,"access_log":true,"parent_pid":123}"#;

fn parse(text: &str) -> Result<Config, InvalidConfig> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    Config::read(file.path())
}

#[test]
fn a_sidecars_bootstrap() {
    let config = parse(SIDECAR).unwrap();
    assert_eq!(config.node.kind, NodeKind::Sidecar);
    assert_eq!(config.workers.get(), 2);
    assert_eq!(config.identity().unwrap().as_str(), "spiffe://cluster.local/ns/default/sa/reviews");
    assert_eq!(config.pilot_identity().unwrap().service_account(), "mesh-pilot");
    let vips = config.outbound.unwrap().vips.unwrap();
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    assert_eq!(vips.listener(ip("127.9.255.17")), Some(ip("127.9.4.17")));
    assert_eq!(vips.listener(ip("10.0.0.1")), None);
}

#[test]
fn what_is_refused() {
    let cases = [
        (SIDECAR.replace("\"uid\"", "\"uuid\""), "unknown field `uuid`"),
        (SIDECAR.replace("\"workers\":2", "\"workers\":0"), "nonzero"),
        (SIDECAR.replace("\"trust_domain\":\"cluster.local\"", "\"trust_domain\":\"A B\""), "trust domain"),
        (SIDECAR.replace("127.9.255.0/24", "127.9.0.0/16"), "same size"),
        (SIDECAR.replace("\"sidecar\"", "\"router\""), "needs gateway"),
        (SIDECAR.replace("\"namespace\":\"default\"", "\"namespace\":\"a/b\""), "Kubernetes name"),
    ];
    for (text, expected) in cases {
        let error = parse(&text).unwrap_err().to_string();
        assert!(error.contains(expected), "{error} should say {expected}");
    }
}
