//! Handshakes in memory.

use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{handshake, id};
use crate::runtime::identity::{Identity, Roots};
use crate::runtime::testing::TestCa;
use crate::runtime::tls::{
    ClientAuth, ClientIdentity, Expect, client_config, explain, peer_id, server_config, server_name,
};

const H2: &[&[u8]] = &[b"h2"];

fn client(from: &Identity, to: &str) -> std::sync::Arc<rustls::ClientConfig> {
    client_config(ClientIdentity::Mesh(from), from.roots_handle().clone(), Expect::Exactly(id(to)), H2)
}

#[tokio::test]
async fn both_sides_know_each_other() {
    let ca = TestCa::new();
    let (a, b) = (ca.identity("default", "a"), ca.identity("default", "b"));
    let server = server_config(&b, ClientAuth::Required, &[b"h2", b"istio"]);
    let (at_b, at_a) = handshake(&server, &client(&a, "b")).await;
    let (at_b, at_a) = (at_b.unwrap(), at_a.unwrap());
    assert_eq!(peer_id(at_b.get_ref().1.peer_certificates().unwrap()).unwrap(), id("a"));
    assert_eq!(peer_id(at_a.get_ref().1.peer_certificates().unwrap()).unwrap(), id("b"));
    assert_eq!(at_b.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
}

#[tokio::test]
async fn a_wrong_server_is_refused_with_both_names() {
    let ca = TestCa::new();
    let (a, c) = (ca.identity("default", "a"), ca.identity("default", "c"));
    let server = server_config(&c, ClientAuth::Required, H2);
    let (_, at_a) = handshake(&server, &client(&a, "b")).await;
    let error = at_a.unwrap_err();
    let expected = format!("peer is {}, expected {}", id("c"), id("b"));
    assert_eq!(explain(&error), expected);
    assert!(error.to_string().contains(&expected), "{error}");
    let one_of = |ids: Vec<_>| {
        client_config(ClientIdentity::Mesh(&a), a.roots_handle().clone(), Expect::OneOf(ids), H2)
    };
    assert!(handshake(&server, &one_of(vec![id("b"), id("c")])).await.1.is_ok());
    let nobody = handshake(&server, &one_of(vec![])).await.1.unwrap_err();
    assert_eq!(explain(&nobody), format!("peer is {}, expected nobody", id("c")));
}

#[tokio::test]
async fn a_client_without_certificate_only_where_it_is_optional() {
    let ca = TestCa::new();
    let b = ca.identity("default", "b");
    let anonymous = client_config(ClientIdentity::None, ca.roots_handle(), Expect::Exactly(id("b")), H2);
    let (at_b, _) = handshake(&server_config(&b, ClientAuth::Required, H2), &anonymous).await;
    assert!(at_b.unwrap_err().to_string().contains("no certificates"));
    let (at_b, at_a) = handshake(&server_config(&b, ClientAuth::Optional, H2), &anonymous).await;
    assert!(at_a.is_ok() && at_b.unwrap().get_ref().1.peer_certificates().is_none());
    // Optional does not mean unchecked.
    let stranger = TestCa::new().identity("default", "a");
    let stranger =
        client_config(ClientIdentity::Mesh(&stranger), ca.roots_handle(), Expect::Exactly(id("b")), H2);
    let (at_b, _) = handshake(&server_config(&b, ClientAuth::Optional, H2), &stranger).await;
    assert_eq!(explain(&at_b.unwrap_err()), format!("{}: not signed by a root of its trust domain", id("a")));
}

#[tokio::test]
async fn an_expired_client_is_told_so() {
    let ca = TestCa::new();
    let (chain, key) = {
        let mut params = ca.leaf_params(id("a").as_str(), Duration::ZERO);
        params.not_after = time::OffsetDateTime::now_utc() - Duration::from_secs(5);
        ca.sign(params)
    };
    let leaf = crate::runtime::identity::Leaf::from_der(chain, key).unwrap();
    let a = Identity::new(leaf, ca.roots_handle());
    let server = server_config(&ca.identity("default", "b"), ClientAuth::Required, H2);
    let (at_b, _) = handshake(&server, &client(&a, "b")).await;
    let why = explain(&at_b.unwrap_err());
    assert!(why.starts_with(&format!("{}: certificate expired", id("a"))), "{why}");
}

#[tokio::test]
async fn rotation_keeps_connections_and_shows_the_new_leaf_to_new_ones() {
    let ca = TestCa::new();
    let (a, b) = (ca.identity("default", "a"), ca.identity("default", "b"));
    let (server, client) = (server_config(&b, ClientAuth::Required, H2), client(&a, "b"));
    let (at_b, at_a) = handshake(&server, &client).await;
    let (mut at_b, mut at_a) = (at_b.unwrap(), at_a.unwrap());
    let (before, mut changed) = (b.generation(), b.changed());
    changed.mark_unchanged();

    b.swap_leaf(ca.leaf("default", "b")).unwrap();
    assert!(b.generation() > before && changed.has_changed().unwrap());
    at_a.write_all(b"still there?").await.unwrap();
    at_a.flush().await.unwrap();
    let mut text = [0; 12];
    at_b.read_exact(&mut text).await.unwrap();
    assert_eq!(&text, b"still there?");

    let (_, again) = handshake(&server, &client).await;
    let again = again.unwrap();
    let shown = again.get_ref().1.peer_certificates().unwrap()[0].clone();
    assert_eq!(shown, b.leaf().certified_key.cert[0]);
    assert_ne!(shown, at_a.get_ref().1.peer_certificates().unwrap()[0]);
    // Another account's leaf is never taken.
    assert!(b.swap_leaf(ca.leaf("default", "c")).is_err());
}

#[tokio::test]
async fn roots_added_and_removed_count_from_the_next_handshake() {
    let (old, new) = (TestCa::new(), TestCa::new());
    let domain = "cluster.local".parse().unwrap();
    let a = new.identity("default", "a");
    let b = old.identity("default", "b");
    let server = server_config(&b, ClientAuth::Required, H2);
    let trusting = client_config(ClientIdentity::Mesh(&a), old.roots_handle(), Expect::Exactly(id("b")), H2);
    assert!(handshake(&server, &trusting).await.0.is_err(), "b does not know the new root yet");
    b.swap_roots(Roots::none().with_domain(&domain, vec![old.root_der(), new.root_der()]).unwrap());
    assert!(handshake(&server, &trusting).await.0.is_ok());
    b.swap_roots(old.roots());
    assert!(handshake(&server, &trusting).await.0.is_err(), "nothing is resumed past a change of trust");
}

#[tokio::test]
async fn nothing_is_resumed() {
    let ca = TestCa::new();
    let (a, b) = (ca.identity("default", "a"), ca.identity("default", "b"));
    let (server, client) = (server_config(&b, ClientAuth::Required, H2), client(&a, "b"));
    // A client that would resume if it were let.
    let mut eager = rustls::ClientConfig::clone(&client);
    eager.resumption = rustls::client::Resumption::in_memory_sessions(8);
    let eager = std::sync::Arc::new(eager);
    for client in [&client, &client, &eager, &eager, &eager] {
        let (at_b, at_a) = handshake(&server, client).await;
        let kind = at_a.unwrap().get_ref().1.handshake_kind();
        assert_eq!(kind, at_b.unwrap().get_ref().1.handshake_kind());
        assert!(!matches!(kind, Some(rustls::HandshakeKind::Resumed)));
    }
}

/// What comes before the handshake is over could be sent again by anybody.
#[test]
fn t4_there_is_no_early_data() {
    let ca = TestCa::new();
    let (a, b) = (ca.identity("default", "a"), ca.identity("default", "b"));
    for clients in [ClientAuth::Required, ClientAuth::Optional] {
        let server = server_config(&b, clients, H2);
        assert_eq!((server.max_early_data_size, server.send_half_rtt_data), (0, false));
    }
    assert!(!client(&a, "b").enable_early_data);
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let ca = TestCa::new();
    let params = || ca.leaf_params(id("a").as_str(), Duration::from_secs(60));
    let ((chain, _), (_, key)) = (ca.sign(params()), ca.sign(params()));
    let error = crate::runtime::identity::Leaf::from_der(chain, key).unwrap_err();
    assert!(error.to_string().starts_with("private key"), "{error}");
}

#[test]
fn names_for_any_address() {
    assert!(matches!(server_name("127.0.0.1:15012"), ServerName::IpAddress(_)));
    assert!(matches!(server_name("[::1]:15012"), ServerName::IpAddress(_)));
    assert_eq!(server_name("mesh-ca.istio-system.svc:15012").to_str(), "mesh-ca.istio-system.svc");
    assert_eq!(server_name("a b:1").to_str(), "mesh.invalid");
}
