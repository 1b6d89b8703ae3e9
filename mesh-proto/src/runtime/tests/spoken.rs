//! How TLS is spoken: versions, suites and groups that are really agreed on, and what mTLS never does.

use std::sync::Arc;

use rustls::pki_types::UnixTime;
use rustls::{ClientConfig, HandshakeKind, NamedGroup, ProtocolVersion, ServerConfig};

use super::{handshake, id};
use crate::model::tls::{CipherSuite, Group};
use crate::model::{SpiffeId, TlsParameters};
use crate::runtime::identity::{Identity, MeshTls};
use crate::runtime::testing::TestCa;
use crate::runtime::tls::{
    ClientAuth, ClientIdentity, Expect, Role, client_config, explain, server_config, verify_chain,
};

fn settings(a: &Identity, b: &Identity) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let expect = Expect::Exactly(b.id().clone());
    let client = client_config(ClientIdentity::Mesh(a), a.roots_handle().clone(), expect, &[b"istio"]);
    (server_config(b, ClientAuth::Required, &[b"istio"]), client)
}

fn speak(identity: &Identity, parameters: TlsParameters) {
    identity.roots_handle().set_tls(MeshTls { parameters, ..MeshTls::default() });
}

fn groups(groups: &[Group]) -> TlsParameters {
    TlsParameters { groups: groups.to_vec(), ..TlsParameters::default() }
}

/// The version, the suite and the group that both sides have.
async fn agreed(a: &Identity, b: &Identity) -> Option<(ProtocolVersion, String, NamedGroup)> {
    let (server, client) = settings(a, b);
    let (at_b, at_a) = handshake(&server, &client).await;
    let (at_b, at_a) = (at_b.ok()?, at_a.ok()?);
    let of = |tls: &rustls::CommonState| {
        let suite = tls.negotiated_cipher_suite().unwrap().suite();
        let group = tls.negotiated_key_exchange_group().unwrap().name();
        (tls.protocol_version().unwrap(), format!("{suite:?}"), group)
    };
    let (one, other) = (of(at_a.get_ref().1), of(at_b.get_ref().1));
    assert_eq!(one, other);
    Some(one)
}

/// Post-quantum where both have it; what one of them lacks is not spoken.
#[tokio::test]
async fn groups_that_are_agreed_on() {
    let ca = TestCa::new();
    let (a, b) = (ca.identity("default", "a"), ca.identity("default", "b"));
    let group = async || agreed(&a, &b).await.map(|(_, _, group)| group);
    assert_eq!(group().await, Some(NamedGroup::X25519MLKEM768));
    speak(&b, groups(&[Group::X25519, Group::P256]));
    assert_eq!(group().await, Some(NamedGroup::X25519));
    speak(&b, groups(&[Group::P384]));
    assert_eq!(group().await, Some(NamedGroup::secp384r1));
    speak(&a, groups(&[Group::X25519Mlkem768, Group::P256]));
    assert_eq!(group().await, None, "nothing in common");
    speak(&b, groups(&[Group::P256, Group::X25519Mlkem768]));
    assert_eq!(group().await, Some(NamedGroup::X25519MLKEM768), "the client's order");
}

#[tokio::test]
async fn versions_and_suites_that_are_agreed_on() {
    let ca = TestCa::new();
    let (a, b) = (ca.identity("default", "a"), ca.identity("default", "b"));
    let spoken = async || agreed(&a, &b).await.map(|(version, suite, _)| (version, suite));
    let old = TlsParameters { tls13: false, ..TlsParameters::default() };
    assert_eq!(spoken().await.unwrap().0, ProtocolVersion::TLSv1_3);
    speak(&a, old.clone());
    assert_eq!(spoken().await.unwrap().0, ProtocolVersion::TLSv1_2);
    speak(&b, TlsParameters { tls12: false, ..TlsParameters::default() });
    assert_eq!(spoken().await, None, "TLS 1.3 is the lowest of one and the highest of the other");
    let suites = vec![CipherSuite::EcdheEcdsaChacha20, CipherSuite::EcdheEcdsaAes128Gcm];
    speak(&b, TlsParameters { cipher_suites: suites, ..TlsParameters::default() });
    speak(&a, TlsParameters { cipher_suites: vec![CipherSuite::EcdheEcdsaAes128Gcm], ..old.clone() });
    assert_eq!(spoken().await.unwrap().1, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256");
    speak(&a, TlsParameters { cipher_suites: vec![CipherSuite::EcdheEcdsaAes256Gcm], ..old });
    assert_eq!(spoken().await, None, "no suite in common");
}

/// T3, T4: tickets, sessions and early data are never there for mTLS, whatever a client would like.
#[tokio::test]
async fn no_tickets_no_sessions_no_early_data() {
    let ca = TestCa::new();
    let (a, b) = (ca.identity("default", "a"), ca.identity("default", "b"));
    for tls12 in [false, true] {
        speak(&a, TlsParameters { tls12, tls13: !tls12, ..TlsParameters::default() });
        let (server, client) = settings(&a, &b);
        assert_eq!((server.send_tls13_tickets, server.max_early_data_size), (0, 0));
        assert!(!server.ticketer.enabled() && !server.session_storage.can_cache());
        // A client that would if it were let.
        let mut eager = ClientConfig::clone(&client);
        eager.resumption = rustls::client::Resumption::in_memory_sessions(8);
        eager.enable_early_data = true;
        let eager = Arc::new(eager);
        for _ in 0..3 {
            let (at_b, at_a) = handshake(&server, &eager).await;
            let (at_b, at_a) = (at_b.unwrap(), at_a.unwrap());
            assert_eq!(at_a.get_ref().1.tls13_tickets_received(), 0);
            assert!(!at_a.get_ref().1.is_early_data_accepted());
            assert_ne!(at_b.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
        }
    }
}

/// Another value is in force from the next handshake that is made with it, and whoever keeps connections learns of it.
#[test]
fn a_change_is_told_once() {
    let identity = TestCa::new().identity("default", "a");
    let handle = identity.roots_handle();
    let (before, tls) = (identity.generation(), handle.tls());
    speak(&identity, TlsParameters::default());
    assert_eq!(identity.generation(), before, "nothing has changed");
    assert!(Arc::ptr_eq(&handle.tls(), &tls));
    speak(&identity, groups(&[Group::P256]));
    assert_eq!(identity.generation(), before + 1);
    assert!(!Arc::ptr_eq(&handle.tls(), &tls));
}

/// An alias of our trust domain is signed by our roots and is the same name; any other domain is not.
#[tokio::test]
async fn aliases_of_the_trust_domain() {
    let ca = TestCa::new();
    let (a, b) = (ca.identity("default", "a"), ca.identity("default", "b"));
    let old: SpiffeId = "spiffe://old.example/ns/default/sa/b".parse().unwrap();
    let day = std::time::Duration::from_secs(86400);
    let was_b = Identity::new(ca.leaf_for(&old, day), ca.roots_handle());
    let chain = was_b.leaf().certified_key.cert.clone();
    let verdict = |identity: &Identity| {
        verify_chain(&chain, identity.roots_handle(), Role::Server, UnixTime::now()).map(|svid| svid.id)
    };
    assert!(verdict(&a).unwrap_err().to_string().contains("old.example"), "nobody said that it is ours");

    let domains = |names: &[&str]| MeshTls {
        trust_domains: names.iter().map(|name| name.parse().unwrap()).collect(),
        ..MeshTls::default()
    };
    a.roots_handle().set_tls(domains(&["cluster.local", "old.example"]));
    was_b.roots_handle().set_tls(domains(&["old.example", "cluster.local"]));
    assert_eq!(verdict(&a).unwrap(), old);
    // Secure naming: b under its other name, and nobody else's.
    let expecting = |who: &SpiffeId| {
        let expect = Expect::Exactly(who.clone());
        client_config(ClientIdentity::Mesh(&a), a.roots_handle().clone(), expect, &[b"istio"])
    };
    let server = server_config(&was_b, ClientAuth::Required, &[b"istio"]);
    assert!(handshake(&server, &expecting(b.id())).await.1.is_ok());
    let wrong = handshake(&server, &expecting(&id("c"))).await.1.unwrap_err();
    assert_eq!(explain(&wrong), format!("peer is {old}, expected {}", id("c")));

    // A name that is not one of ours any more is nobody's.
    a.roots_handle().set_tls(domains(&["cluster.local"]));
    assert!(verdict(&a).is_err());
    // Roots of its own come before ours: there our root signs for nobody.
    let theirs = TestCa::of("old.example");
    let domain = "old.example".parse().unwrap();
    a.swap_roots(ca.roots().with_domain(&domain, vec![theirs.root_der()]).unwrap());
    a.roots_handle().set_tls(domains(&["cluster.local", "old.example"]));
    assert!(verdict(&a).unwrap_err().to_string().contains("not signed by a root"));
}
