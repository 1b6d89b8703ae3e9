//! Who is refused by name, which names are the same one, and how long a leaf counts.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use rustls::pki_types::UnixTime;

use super::{handshake, id};
use crate::model::{SpiffeId, TrustDomain};
use crate::runtime::identity::{Identity, MeshTls, Roots, RootsHandle, pem, read_certificates};
use crate::runtime::testing::TestCa;
use crate::runtime::tls::{
    ClientAuth, ClientIdentity, Expect, InvalidSvid, Role, client_config, server_config, verify_chain,
};

const DAY: Duration = Duration::from_secs(86400);

fn ours(names: &[&str]) -> MeshTls {
    MeshTls { trust_domains: names.iter().map(|name| name.parse().unwrap()).collect(), ..MeshTls::default() }
}

fn refusing(roots: Roots, tainted: &[&SpiffeId]) -> Roots {
    let all: BTreeSet<SpiffeId> = tainted.iter().map(|id| (*id).clone()).collect();
    roots.with_tainted(&"cluster.local".parse().unwrap(), all)
}

/// A good certificate of a tainted identity counts for nothing, on neither side, under none of its names, until that is
/// taken back; roots that are replaced in between change nothing of it.
#[tokio::test]
async fn who_is_tainted_is_nobody() {
    let ca = TestCa::new();
    let (a, b) = (ca.identity("default", "a"), ca.identity("default", "b"));
    let server = server_config(&b, ClientAuth::Required, &[b"h2"]);
    let client =
        client_config(ClientIdentity::Mesh(&a), a.roots_handle().clone(), Expect::Exactly(id("b")), &[b"h2"]);
    assert!(handshake(&server, &client).await.0.is_ok());
    b.swap_roots(refusing(ca.roots(), &[&id("a"), &id("c")]));
    assert!(b.roots().is_tainted(&id("a")) && !b.roots().is_tainted(&id("b")));
    let why = handshake(&server, &client).await.0.unwrap_err().to_string();
    assert!(why.contains("sa/a is tainted"), "{why}");
    // Somebody else's name does no harm, nor does a name of a domain that has no roots.
    b.swap_roots(refusing(ca.roots(), &[&id("c")]));
    assert!(handshake(&server, &client).await.0.is_ok());
    let stranger: SpiffeId = "spiffe://other.example/ns/default/sa/a".parse().unwrap();
    assert!(!b.roots().is_tainted(&stranger));
    // The other side.
    a.swap_roots(refusing(ca.roots(), &[&id("b")]));
    assert!(handshake(&server, &client).await.1.is_err());
    let replaced =
        a.roots().as_ref().clone().with_domain(&"cluster.local".parse().unwrap(), vec![ca.root_der()]);
    a.swap_roots(replaced.unwrap());
    assert!(handshake(&server, &client).await.1.is_err(), "whom they refuse they go on to refuse");
    a.swap_roots(refusing(a.roots().as_ref().clone(), &[]));
    assert!(handshake(&server, &client).await.1.is_ok());
}

#[test]
fn who_is_tainted_has_no_other_name() {
    let ca = TestCa::new();
    let alias: SpiffeId = "spiffe://old.example/ns/default/sa/a".parse().unwrap();
    let verdict = |who: &SpiffeId, roots: &RootsHandle| {
        let chain = ca.leaf_for(who, DAY).certified_key.cert.clone();
        verify_chain(&chain, roots, Role::Client, UnixTime::now())
            .map(|svid| svid.id.to_string())
            .map_err(|e| e.to_string())
    };
    for tainted in [&alias, &id("a")] {
        let roots = RootsHandle::new(refusing(ca.roots(), &[tainted]));
        roots.set_tls(ours(&["cluster.local", "old.example"]));
        for who in [&alias, &id("a")] {
            assert!(verdict(who, &roots).is_err_and(|why| why.contains("is tainted")), "{who} as {tainted}");
        }
        assert_eq!(verdict(&id("b"), &roots), Ok(id("b").to_string()));
    }
}

/// Roots of its own make no other name of an alias.
#[test]
fn who_is_tainted_has_no_name_with_other_roots() {
    let (ca, old) = (TestCa::new(), TestCa::of("old.example"));
    let (own, other): (TrustDomain, TrustDomain) =
        ("cluster.local".parse().unwrap(), "old.example".parse().unwrap());
    let alias: SpiffeId = "spiffe://old.example/ns/default/sa/a".parse().unwrap();
    let unlike: SpiffeId = "spiffe://old.example/ns/default/sa/b".parse().unwrap();
    for (domain, tainted) in [(&own, id("a")), (&other, alias.clone())] {
        let roots = ca.roots().with_domain(&other, vec![old.root_der()]).unwrap();
        let roots = RootsHandle::new(roots.with_tainted(domain, [tainted.clone()].into()));
        let refused = |ca: &TestCa, who: &SpiffeId| {
            let chain = ca.leaf_for(who, DAY).certified_key.cert.clone();
            matches!(
                verify_chain(&chain, &roots, Role::Client, UnixTime::now()),
                Err(InvalidSvid::Tainted(_))
            )
        };
        roots.set_tls(ours(&["cluster.local", "old.example"]));
        assert!(refused(&ca, &id("a")) && refused(&old, &alias), "both names, as {tainted}");
        assert!(!refused(&ca, &id("b")) && !refused(&old, &unlike), "others, as {tainted}");
        // Of a trust domain that is not ours it is another one.
        roots.set_tls(ours(&["cluster.local"]));
        assert_eq!((refused(&ca, &id("a")), refused(&old, &alias)), (domain == &own, domain == &other));
    }
}

#[test]
fn only_aliases_of_ours_are_the_same_name() {
    let tls = ours(&["a.example", "b.example"]);
    let same = |one: &str, other: &str| {
        let name = |domain: &str| format!("spiffe://{domain}").parse::<SpiffeId>().unwrap();
        let (one, other) = (name(one), name(other));
        assert_eq!(tls.is_same(&one, &other), tls.is_same(&other, &one));
        tls.is_same(&one, &other)
    };
    assert!(same("a.example/ns/n/sa/s", "a.example/ns/n/sa/s"));
    assert!(same("a.example/ns/n/sa/s", "b.example/ns/n/sa/s"));
    assert!(same("x.example/ns/n/sa/s", "x.example/ns/n/sa/s"), "somebody else's is its own");
    assert!(!same("x.example/ns/n/sa/s", "y.example/ns/n/sa/s"), "neither is ours");
    assert!(!same("a.example/ns/n/sa/s", "x.example/ns/n/sa/s"), "one of them is ours");
    assert!(!same("a.example/ns/n/sa/s", "b.example/ns/n/sa/t"));
    assert!(!same("a.example/ns/n/sa/s", "b.example/ns/m/sa/s"));
}

/// A leaf that is kept on disk is used again only within its life.
#[test]
fn a_leaf_counts_from_its_first_second_to_before_its_last() {
    let leaf = TestCa::new().leaf_for(&id("a"), DAY);
    let second = Duration::from_secs(1);
    let (from, until) = (leaf.not_before, leaf.not_after);
    for (at, counts) in [
        (SystemTime::UNIX_EPOCH, false),
        (from - second, false),
        (from, true),
        (until - second, true),
        (until, false),
        (until + DAY, false),
    ] {
        assert_eq!(leaf.is_valid_at(at), counts, "{at:?} of {from:?} to {until:?}");
    }
}

#[test]
fn what_is_written_as_pem_is_read_again() {
    let ca = TestCa::new();
    let identity = Identity::new(ca.leaf("default", "a"), ca.roots_handle());
    let all = [ca.root_der(), identity.leaf().certified_key.cert[0].clone()];
    let text: String = all.iter().map(pem).collect();
    assert_eq!(read_certificates("it", text.as_bytes()).unwrap(), all);
    assert!(text.lines().all(|line| line.len() <= 64));
}
