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

#[test]
fn where_everything_is_captured_no_port_is_named() {
    let capture = r#""capture":{"outbound":"0.0.0.0:15001","inbound":"0.0.0.0:15006"}"#;
    let outbound = &SIDECAR[SIDECAR.find("\"outbound\"").unwrap()..SIDECAR.find(",\n \"status\"").unwrap()];
    let config = parse(&SIDECAR.replace(outbound, capture)).unwrap();
    assert!(!config.capture.unwrap().tproxy);
    assert_eq!(config.http_proxy(), Some(crate::config::LOCAL_HTTP_PROXY));
    for at in ["127.9.4.1:15001", "127.9.4.1:15006", "127.0.0.1:15001", "[::1]:15006", "127.0.0.1:15002"] {
        assert!(config.is_own_socket(at.parse().unwrap()), "{at}");
    }
    assert!(!config.is_own_socket("10.0.0.1:15001".parse().unwrap()));
    let neither = parse(&SIDECAR.replace(outbound, "\"capture\":null")).unwrap_err().to_string();
    assert!(neither.contains("outbound or capture"), "{neither}");
}

#[test]
fn own_sockets_in_every_spelling() {
    let config = parse(SIDECAR).unwrap();
    let own = |at: &str| config.is_own_socket(at.parse().unwrap());
    for at in
        ["127.9.4.1:15001", "127.9.4.1:15000", "127.9.4.1:9080", "[::ffff:127.9.4.1]:15001", "0.0.0.0:15001"]
    {
        assert!(own(at), "{at}");
    }
    for at in ["127.9.4.1:80", "127.9.5.1:15001", "127.9.4.2:9080", "10.0.0.1:15001"] {
        assert!(!own(at), "{at}");
    }
    let anywhere = SIDECAR.replace("\"http_proxy\":\"127.9.4.1:15001\"", "\"http_proxy\":\"0.0.0.0:15001\"");
    let config = parse(&anywhere).unwrap();
    for at in ["127.0.0.1:15001", "127.9.4.1:15001", "[::]:15001"] {
        assert!(config.is_own_socket(at.parse().unwrap()), "{at}");
    }
    assert!(!config.is_own_socket("10.0.0.1:15001".parse().unwrap()));
}
