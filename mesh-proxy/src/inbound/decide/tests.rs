//! The whole table: mode × declared protocol × first bytes.

use std::time::Duration;

use mesh_proto::wire::mesh::v1 as wire;

use super::*;

fn config(mode: MtlsMode, protocol: Protocol) -> SelfConfig {
    let wire = wire::SelfConfig {
        identity: "spiffe://td/ns/default/sa/a".into(),
        mtls: mode.into(),
        ports: vec![wire::InboundPort { port: 80, protocol: protocol.into(), ..Default::default() }],
        protocol_detection_timeout: Some(prost_types::Duration { seconds: 5, nanos: 0 }),
        ..Default::default()
    };
    SelfConfig::try_from(wire).unwrap()
}

const SEEN: [Seen; 6] =
    [Seen::MeshTls, Seen::ForeignTls, Seen::Http1, Seen::Http2, Seen::Other, Seen::Silent];
const DECLARED: [Protocol; 6] =
    [Protocol::Auto, Protocol::Http, Protocol::Http2, Protocol::Grpc, Protocol::Tls, Protocol::Tcp];

#[test]
fn strict_lets_nothing_but_mtls_in_whatever_is_declared() {
    for declared in DECLARED {
        for seen in SEEN {
            let decision = decide(&config(MtlsMode::MtlsStrict, declared), 80, seen);
            let tls = matches!(seen, Seen::MeshTls | Seen::ForeignTls);
            assert_eq!(decision == Decision::Mtls, tls, "{declared:?} {seen:?}");
            assert!(tls || matches!(decision, Decision::Close(Failure::PlaintextRefused { .. })));
        }
    }
}

#[test]
fn permissive_takes_both() {
    let http1 = Decision::Http(http::Protocol::Http1);
    let http2 = Decision::Http(http::Protocol::Http2);
    let cases = [
        (Protocol::Auto, Seen::MeshTls, Some(Decision::Mtls)),
        (Protocol::Http, Seen::MeshTls, Some(Decision::Mtls)),
        (Protocol::Tcp, Seen::MeshTls, Some(Decision::Mtls)),
        (Protocol::Auto, Seen::ForeignTls, Some(Decision::Opaque)),
        (Protocol::Tcp, Seen::ForeignTls, Some(Decision::Opaque)),
        (Protocol::Http, Seen::ForeignTls, None),
        (Protocol::Grpc, Seen::ForeignTls, None),
        (Protocol::Http, Seen::Http1, Some(http1.clone())),
        (Protocol::Http, Seen::Http2, Some(http2)),
        (Protocol::Http, Seen::Other, Some(http1.clone())),
        (Protocol::Auto, Seen::Http1, Some(http1)),
        (Protocol::Auto, Seen::Silent, Some(Decision::Opaque)),
        (Protocol::Tcp, Seen::Http1, Some(Decision::Opaque)),
    ];
    for (declared, seen, expected) in cases {
        let decision = decide(&config(MtlsMode::MtlsPermissive, declared), 80, seen);
        match expected {
            Some(expected) => assert_eq!(decision, expected, "{declared:?} {seen:?}"),
            None => assert!(matches!(decision, Decision::Close(Failure::ForeignTls { .. }))),
        }
    }
}

#[test]
fn disable_never_terminates() {
    for declared in DECLARED {
        for seen in SEEN {
            let decision = decide(&config(MtlsMode::MtlsDisable, declared), 80, seen);
            assert_ne!(decision, Decision::Mtls, "{declared:?} {seen:?}");
        }
    }
}

#[test]
fn a_policy_that_cannot_be_enforced_closes_everything() {
    for mode in [MtlsMode::MtlsStrict, MtlsMode::MtlsPermissive, MtlsMode::MtlsDisable] {
        let mut opaque = config(mode, Protocol::Tcp);
        let mut config = config(mode, Protocol::Http);
        config.deny_all = Some(std::sync::Arc::new(wire::Origin {
            kind: "AuthorizationPolicy".into(),
            namespace: "default".into(),
            name: "x".into(),
            ..Default::default()
        }));
        for seen in SEEN {
            // Requests are taken, to be answered with 403; no byte is passed on.
            assert_ne!(decide(&config, 80, seen), Decision::Opaque, "{mode:?} {seen:?}");
        }
        opaque.deny_all.clone_from(&config.deny_all);
        for seen in SEEN {
            let decision = decide(&opaque, 80, seen);
            assert!(matches!(decision, Decision::Mtls | Decision::Close(_)), "{mode:?} {seen:?}");
        }
        assert!(!still_allowed(&config, 80, Through::Mtls));
        assert!(!still_allowed(&config, 80, Through::Plain));
    }
}

#[test]
fn only_what_could_matter_is_waited_for() {
    let wait = |mode, declared| look(&config(mode, declared), 80);
    assert_eq!(wait(MtlsMode::MtlsDisable, Protocol::Tcp), Look::No);
    let limit = Duration::from_secs(5);
    let both = |hold| Look::Both { limit, hold };
    assert_eq!(wait(MtlsMode::MtlsPermissive, Protocol::Tcp), both(first_word::HOLD));
    assert_eq!(wait(MtlsMode::MtlsPermissive, Protocol::Auto), both(first_word::HOLD));
    assert_eq!(
        wait(MtlsMode::MtlsDisable, Protocol::Auto),
        both(first_word::GRACE),
        "no handshake of ours to wait for"
    );
    assert_eq!(wait(MtlsMode::MtlsPermissive, Protocol::Tls), Look::For(limit));
    // Only the client may speak first.
    for http in [Protocol::Http, Protocol::Http2, Protocol::Grpc] {
        assert_eq!(wait(MtlsMode::MtlsPermissive, http), Look::For(PATIENCE));
        assert_eq!(wait(MtlsMode::MtlsDisable, http), Look::For(PATIENCE));
    }
    for declared in DECLARED {
        assert_eq!(
            wait(MtlsMode::MtlsStrict, declared),
            Look::For(PATIENCE),
            "{declared:?}: never the application's word"
        );
    }
}

#[test]
fn live_connections_are_judged_by_how_they_came() {
    let allowed = |mode, through| still_allowed(&config(mode, Protocol::Http), 80, through);
    assert!(allowed(MtlsMode::MtlsStrict, Through::Mtls));
    assert!(!allowed(MtlsMode::MtlsStrict, Through::Plain));
    assert!(allowed(MtlsMode::MtlsPermissive, Through::Plain));
    assert!(!allowed(MtlsMode::MtlsDisable, Through::Mtls));
}
