//! reliability-security.md §2d: each certificate that must give no identity (T5-T10).

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, UnixTime};
use time::OffsetDateTime;

use crate::runtime::identity::{Roots, RootsHandle};
use crate::runtime::testing::TestCa;
use crate::runtime::tls::{InvalidSvid, Role, Svid, verify_chain};

const GOOD: &str = "spiffe://cluster.local/ns/default/sa/a";
const DAY: Duration = Duration::from_secs(86400);

fn check(ca: &TestCa, chain: &[CertificateDer<'_>], role: Role) -> Result<Svid, InvalidSvid> {
    verify_chain(chain, &ca.roots_handle(), role, UnixTime::now())
}

/// The verdict, for both sides, on a good certificate with one change.
fn changed(change: impl Fn(&mut CertificateParams)) -> String {
    let ca = TestCa::new();
    let mut params = ca.leaf_params(GOOD, DAY);
    change(&mut params);
    let (chain, _) = ca.sign(params);
    let verdicts = [Role::Server, Role::Client].map(|role| match check(&ca, &chain, role) {
        Ok(svid) => format!("accepted as {}", svid.id),
        Err(error) => error.to_string(),
    });
    assert_eq!(verdicts[0].replace("server", "client"), verdicts[1].replace("server", "client"));
    verdicts[0].clone()
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

#[test]
fn takes_a_good_one() {
    assert_eq!(changed(|_| ()), format!("accepted as {GOOD}"));
    // Other kinds of names beside the identity are allowed, and mean nothing.
    let dns = SanType::DnsName("a.default.svc".try_into().unwrap());
    assert_eq!(changed(|p| p.subject_alt_names.push(dns.clone())), format!("accepted as {GOOD}"));
}

#[test]
fn refuses_other_than_one_uri_name() {
    let two = changed(|p| p.subject_alt_names.push(uri("spiffe://cluster.local/ns/default/sa/b")));
    assert_eq!(two, "certificate has 2 URI names instead of one");
    let twice = changed(|p| p.subject_alt_names.push(uri(GOOD)));
    assert_eq!(twice, "certificate has 2 URI names instead of one");
    let none = changed(|p| p.subject_alt_names.clear());
    assert_eq!(none, "certificate has 0 URI names instead of one");
}

#[test]
fn takes_no_identity_from_other_places() {
    let in_dns = changed(|p| p.subject_alt_names = vec![SanType::DnsName(GOOD.try_into().unwrap())]);
    assert_eq!(in_dns, "certificate has 0 URI names instead of one");
    let in_cn = changed(|p| {
        p.subject_alt_names.clear();
        p.distinguished_name.push(DnType::CommonName, GOOD);
    });
    assert_eq!(in_cn, "certificate has 0 URI names instead of one");
    let in_other_name = changed(|p| {
        let value = rcgen::OtherNameValue::Utf8String(GOOD.to_owned());
        p.subject_alt_names = vec![SanType::OtherName((vec![1, 3, 6, 1, 4, 1, 311, 20, 2, 3], value))];
    });
    assert_eq!(in_other_name, "certificate has 0 URI names instead of one");
}

#[test]
fn refuses_two_lists_of_names() {
    let second = changed(|p| {
        let mut der = vec![0x30, 2 + GOOD.len() as u8, 0x86, GOOD.len() as u8];
        der.extend_from_slice(GOOD.as_bytes());
        p.custom_extensions = vec![CustomExtension::from_oid_content(&[2, 5, 29, 17], der)];
    });
    assert!(second.starts_with("malformed certificate"), "{second}");
}

/// What one reader passes over another one may read.
#[test]
fn refuses_what_cannot_be_read() {
    let extension = |oid: &'static [u64], content: Vec<u8>| {
        changed(move |p| p.custom_extensions = vec![CustomExtension::from_oid_content(oid, content.clone())])
    };
    // Policies, and points of revocation lists: garbage.
    for oid in [&[2, 5, 29, 32], &[2, 5, 29, 31]] {
        let verdict = extension(oid, vec![0x30, 0x7f, 1]);
        assert!(verdict.starts_with("malformed certificate"), "{oid:?}: {verdict}");
    }
    // Names that are none, beside the good one.
    for name in [&[0x82, 2, b'a', 0xff][..], &[0x86, 2, b'a', 0xff], &[0x81, 1, 0xff]] {
        let uri = [&[0x86, GOOD.len() as u8], GOOD.as_bytes()].concat();
        let list = [&uri, name].concat();
        let der = [&[0x30, list.len() as u8], &list[..]].concat();
        let verdict = changed(|p| {
            p.subject_alt_names.clear();
            p.custom_extensions = vec![CustomExtension::from_oid_content(&[2, 5, 29, 17], der.clone())];
        });
        assert!(verdict.starts_with("malformed certificate"), "{name:?}: {verdict}");
    }
}

#[test]
fn refuses_uris_that_two_readers_could_take_differently() {
    let long = format!("spiffe://cluster.local/ns/default/sa/{}", "a".repeat(2100));
    for bad in [
        "spiffe://cluster.local/ns/default/sa/a\0",
        "spiffe://cluster.local/ns/default\0/sa/a",
        "spiffe://cluster.local/ns/default/sa/%61",
        "spiffe://CLUSTER.LOCAL/ns/default/sa/a",
        "SPIFFE://cluster.local/ns/default/sa/a",
        "spiffe://cluster.local/ns/default/sa/A",
        "spiffe://cluster.local:443/ns/default/sa/a",
        "spiffe://x@cluster.local/ns/default/sa/a",
        "spiffe://cluster.local/ns/default/sa/a?b",
        "spiffe://cluster.local/ns/default/sa/a#b",
        "spiffe://cluster.local/ns/default/sa/a/",
        "spiffe://cluster.local//ns/default/sa/a",
        "spiffe://cluster.local/ns/../sa/a",
        "spiffe://cluster.local",
        "https://cluster.local/ns/default/sa/a",
        "",
        &long,
    ] {
        let verdict = changed(|p| p.subject_alt_names = vec![uri(bad)]);
        assert!(verdict.contains("is not a"), "{bad:?}: {verdict}");
    }
}

#[test]
fn refuses_what_may_sign() {
    let refused = "a signing certificate (CA) is no identity";
    let ca = changed(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    assert_eq!(ca, refused);
    assert_eq!(changed(|p| p.key_usages.push(KeyUsagePurpose::KeyCertSign)), refused);
    assert_eq!(changed(|p| p.key_usages.push(KeyUsagePurpose::CrlSign)), refused);
}

#[test]
fn refuses_outside_its_life() {
    let now = OffsetDateTime::now_utc();
    let expired = changed(|p| p.not_after = now - Duration::from_secs(10));
    assert!(expired.starts_with(&format!("{GOOD}: certificate expired 1")), "{expired}");
    let early = changed(|p| p.not_before = now + Duration::from_secs(100));
    assert!(early.starts_with(&format!("{GOOD}: certificate is not valid for another ")), "{early}");
}

#[test]
fn refuses_the_wrong_use() {
    let ca = TestCa::new();
    let with = |usages: &[ExtendedKeyUsagePurpose]| {
        let mut params = ca.leaf_params(GOOD, DAY);
        params.extended_key_usages = usages.to_vec();
        let (chain, _) = ca.sign(params);
        [Role::Server, Role::Client]
            .map(|role| check(&ca, &chain, role).map(|_| ()).map_err(|e| e.to_string()))
    };
    let refused = |role: &str| Err(format!("{GOOD}: certificate may not be used as a TLS {role}"));
    assert_eq!(with(&[ExtendedKeyUsagePurpose::ServerAuth]), [Ok(()), refused("client")]);
    assert_eq!(with(&[ExtendedKeyUsagePurpose::ClientAuth]), [refused("server"), Ok(())]);
    assert_eq!(with(&[]), [refused("server"), refused("client")]);
}

#[test]
fn chooses_the_roots_by_the_presented_trust_domain() {
    let (ours, theirs) = (TestCa::new(), TestCa::of("other.example"));
    let both = ours.roots().with_domain(&"other.example".parse().unwrap(), vec![theirs.root_der()]).unwrap();
    let both = RootsHandle::new(both);
    let verdict = |ca: &TestCa, uri: &str, roots: &RootsHandle| {
        let (chain, _) = ca.sign(ca.leaf_params(uri, DAY));
        verify_chain(&chain, roots, Role::Client, UnixTime::now())
            .map(|s| s.id.to_string())
            .map_err(|e| e.to_string())
    };
    let their_name = "spiffe://other.example/ns/default/sa/a";
    assert_eq!(verdict(&theirs, their_name, &both), Ok(their_name.to_owned()));
    // The other domain's authority signs a name in ours, and the reverse: the bundle of the name decides.
    let foreign = |name: &str| Err(format!("{name}: not signed by a root of its trust domain"));
    assert_eq!(verdict(&theirs, GOOD, &both), foreign(GOOD));
    assert_eq!(verdict(&ours, their_name, &both), foreign(their_name));
    let unknown = verdict(&theirs, their_name, &ours.roots_handle()).unwrap_err();
    assert_eq!(
        unknown,
        format!("{their_name}: its trust domain is not trusted (roots known for: cluster.local)")
    );
    // No roots at all: refuse, never accept any.
    let none = verdict(&ours, GOOD, &RootsHandle::new(Roots::none())).unwrap_err();
    assert_eq!(none, format!("{GOOD}: its trust domain is not trusted (roots known for: )"));
}

#[test]
fn an_intermediate_signs_only_for_the_domains_of_its_constraints() {
    let ca = TestCa::new();
    let root_key = KeyPair::from_pem(&ca.root_key_pem()).unwrap();
    let root = rcgen::Issuer::from_ca_cert_der(&ca.root_der(), root_key).unwrap();
    let verdict = |constraints: Option<(u8, &str)>| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "intermediate");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.custom_extensions.extend(constraints.map(|(kind, host)| uri_constraint(kind, host)));
        let intermediate = CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &root).unwrap();
        let leaf = ca.leaf_params(GOOD, DAY).signed_by(&KeyPair::generate().unwrap(), &intermediate).unwrap();
        let chain = [leaf.der().clone(), intermediate.der().clone()];
        check(&ca, &chain, Role::Server).map(|s| s.id.to_string()).map_err(|e| e.to_string())
    };
    let refused = Err(format!("an intermediate certificate may not sign for the trust domain of {GOOD}"));
    assert_eq!(verdict(None), Ok(GOOD.to_owned()));
    assert_eq!(verdict(Some((PERMITTED, "other.example"))), refused);
    assert_eq!(verdict(Some((PERMITTED, ".cluster.local"))), refused);
    assert_eq!(verdict(Some((EXCLUDED, "cluster.local"))), refused);
    assert_eq!(verdict(Some((EXCLUDED, ".local"))), refused);
    // What the path validation itself does with URI constraints that fit is its affair: at worst it refuses, too.
    assert_ne!(verdict(Some((PERMITTED, "cluster.local"))), refused);
}

const PERMITTED: u8 = 0xa0;
const EXCLUDED: u8 = 0xa1;

/// RFC 5280 §4.2.1.10, by hand: rcgen makes no constraints on URIs.
fn uri_constraint(kind: u8, host: &str) -> CustomExtension {
    let wrap = |tag: u8, content: &[u8]| [&[tag, content.len() as u8], content].concat();
    let name = wrap(0x86, host.as_bytes());
    let der = wrap(0x30, &wrap(kind, &wrap(0x30, &name)));
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 30], der);
    extension.set_criticality(true);
    extension
}

#[test]
fn refuses_an_endless_chain_and_garbage() {
    let ca = TestCa::new();
    let (mut chain, _) = ca.sign(ca.leaf_params(GOOD, DAY));
    let leaf = chain[0].clone();
    chain.resize(100, leaf.clone());
    assert_eq!(check(&ca, &chain, Role::Client).unwrap_err(), InvalidSvid::ChainTooLong(100));
    chain.truncate(9);
    assert_eq!(check(&ca, &chain, Role::Client).unwrap_err(), InvalidSvid::ChainTooLong(9));
    // Eight are read; the root's own may be among them.
    chain.truncate(1);
    chain.resize(8, ca.root_der());
    assert_eq!(check(&ca, &chain, Role::Client).unwrap().id.as_str(), GOOD);
    assert_eq!(check(&ca, &[], Role::Client).unwrap_err(), InvalidSvid::None);
    for cut in [0, 1, 10, leaf.len() / 2, leaf.len() - 1] {
        let part = CertificateDer::from(leaf[..cut].to_vec());
        assert!(check(&ca, &[part], Role::Client).is_err(), "{cut} bytes");
    }
    let mut more = leaf.to_vec();
    more.push(0);
    assert!(check(&ca, &[CertificateDer::from(more)], Role::Client).is_err());
}
