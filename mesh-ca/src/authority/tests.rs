//! What is signed, and what is kept.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::ParsedExtension;

use super::*;

const LIMITS: Limits = Limits {
    default: Duration::from_secs(3600),
    min: Duration::from_secs(5),
    max: Duration::from_secs(7200),
};

fn policy() -> Policy {
    let own = mesh_proto::runtime::certificates::authority_id(&"cluster.local".parse().unwrap());
    Policy { own, limits: LIMITS, dns: None }
}

fn open(dir: &Path) -> Result<Authority, OpenError> {
    open_with(dir, policy())
}

/// What is kept in `dir`; a new root where there is nothing.
fn open_with(dir: &Path, policy: Policy) -> Result<Authority, OpenError> {
    mesh_proto::runtime::crypto::install_provider();
    if store::find(dir)?.is_none() {
        let (key, root) = material::self_signed(policy.own.trust_domain(), material::ROOT_LIFE)?;
        store::create(dir, &root, &key)?;
    }
    Authority::new(store::find(dir)?.expect("just made").material, policy)
}

fn id() -> SpiffeId {
    "spiffe://cluster.local/ns/default/sa/a".parse().unwrap()
}

fn refused(dir: &Path) -> String {
    open(dir).unwrap_err().to_string()
}

#[test]
fn a_leaf_is_an_svid_and_nothing_more() {
    let dir = tempfile::tempdir().unwrap();
    let authority = open(dir.path()).unwrap();
    let key = KeyPair::generate().unwrap();
    let now = SystemTime::now();
    let issued = authority.sign(&id(), &key, None, now).unwrap();
    assert_eq!(issued.chain.len(), 2);
    assert_eq!(issued.chain[1], authority.root_pem());
    let leaf = CertificateDer::from_pem_slice(issued.chain[0].as_bytes()).unwrap();
    let (_, parsed) = x509_parser::parse_x509_certificate(&leaf).unwrap();
    assert_eq!(parsed.public_key().subject_public_key.data.as_ref(), key.public_key_raw());
    assert_eq!(parsed.subject().iter().count(), 0);
    let san = parsed.subject_alternative_name().unwrap().unwrap();
    assert!(san.critical);
    assert_eq!(san.value.general_names.len(), 1);
    let usage = parsed.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && usage.client_auth && !usage.any);
    let usage = parsed.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && !usage.key_cert_sign() && !usage.crl_sign());
    assert!(!parsed.is_ca());
    assert!(
        parsed
            .extensions()
            .iter()
            .any(|e| matches!(e.parsed_extension(), ParsedExtension::AuthorityKeyIdentifier(_)))
    );
    let svid = tls::peer(&[leaf]).unwrap();
    assert_eq!(svid.id, id());
    assert_eq!(svid.serial.trim_start_matches('0'), issued.serial.trim_start_matches('0'));
    let age = now.duration_since(svid.not_before).unwrap();
    assert!((300..=302).contains(&age.as_secs()), "{age:?}");
    let again = authority.sign(&id(), &key, None, now).unwrap();
    assert_ne!(issued.serial, again.serial);
}

#[test]
fn lives_are_bounded_by_settings_and_by_the_root() {
    let dir = tempfile::tempdir().unwrap();
    let authority = open(dir.path()).unwrap();
    let key = KeyPair::generate().unwrap();
    let life = |asked: Option<u64>, now: SystemTime| {
        let issued = authority.sign(&id(), &key, asked.map(Duration::from_secs), now)?;
        Ok::<_, SignError>(issued.not_after.duration_since(now).unwrap().as_secs())
    };
    let now = SystemTime::now();
    assert_eq!(life(None, now).unwrap(), 3600);
    assert_eq!(life(Some(10), now).unwrap(), 10);
    assert_eq!(life(Some(1), now).unwrap(), 5);
    assert_eq!(life(Some(7200), now).unwrap(), 7200);
    assert_eq!(life(Some(7201), now).unwrap(), 7200);
    assert_eq!(life(Some(u64::MAX), now).unwrap(), 7200);
    let last_minute = authority.not_after() - Duration::from_secs(60);
    assert_eq!(life(None, last_minute).unwrap(), 60);
    assert!(matches!(life(None, authority.not_after()), Err(SignError::RootExpired)));
}

#[test]
fn a_restart_keeps_the_root() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path()).unwrap();
    let again = open(dir.path()).unwrap();
    assert_eq!(first.root_pem(), again.root_pem());
    let life = first.not_after().duration_since(SystemTime::now()).unwrap();
    assert_eq!(life.as_secs().div_ceil(86400), 3650);
    let issued = again.sign(&id(), &KeyPair::generate().unwrap(), None, SystemTime::now()).unwrap();
    let chain = [CertificateDer::from_pem_slice(issued.chain[0].as_bytes()).unwrap()];
    let roots = RootsHandle::new(first.roots().unwrap());
    assert!(tls::verify_chain(&chain, &roots, Role::Client, UnixTime::now()).is_ok());
    let mode = std::fs::metadata(dir.path().join("authority.pem")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left lying about");
}

#[test]
fn a_root_that_cannot_be_used_is_never_replaced() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).unwrap();
    let file = dir.path().join("authority.pem");
    let good = std::fs::read(&file).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    assert!(refused(dir.path()).contains("others than the owner"));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    for bad in [&b""[..], b"garbage", &good[..good.len() / 2]] {
        std::fs::write(&file, bad).unwrap();
        assert!(refused(dir.path()).contains("authority.pem"));
        assert_eq!(std::fs::read(&file).unwrap(), bad);
    }
    std::fs::write(&file, good).unwrap();
    assert!(open(dir.path()).is_ok());
}

fn write_key(dir: &Path, pem: &str) {
    store::write_private(&dir.join("ca-key.pem"), pem.as_bytes()).unwrap();
}

/// What an operator plugs in: a root, an intermediate signed by it, and the intermediate's key.
fn plug(dir: &Path) -> KeyPair {
    let ca = mesh_proto::runtime::testing::TestCa::new();
    let root =
        rcgen::Issuer::from_ca_cert_der(&ca.root_der(), KeyPair::from_pem(&ca.root_key_pem()).unwrap());
    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "intermediate");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().unwrap();
    let intermediate = params.signed_by(&key, &root.unwrap()).unwrap();
    std::fs::write(dir.join("ca-cert.pem"), intermediate.pem()).unwrap();
    write_key(dir, &key.serialize_pem());
    std::fs::write(dir.join("root-cert.pem"), ca.root_pem()).unwrap();
    std::fs::write(dir.join("cert-chain.pem"), intermediate.pem()).unwrap();
    key
}

#[test]
fn signs_with_a_plugged_in_intermediate() {
    let dir = tempfile::tempdir().unwrap();
    plug(dir.path());
    let authority = open(dir.path()).unwrap();
    let root = std::fs::read_to_string(dir.path().join("root-cert.pem")).unwrap();
    let same = |a: &str, b: &str| a.split_whitespace().eq(b.split_whitespace());
    assert!(same(&authority.root_pem(), &root));
    let issued = authority.sign(&id(), &KeyPair::generate().unwrap(), None, SystemTime::now()).unwrap();
    assert_eq!(issued.chain.len(), 3);
    assert!(same(&issued.chain[2], &root));
    let shown = authority.own_leaf().unwrap();
    assert_eq!(shown.certified_key.cert.len(), 2, "the root is not shown");
}

#[test]
fn refuses_what_cannot_have_been_meant() {
    let dir = tempfile::tempdir().unwrap();
    plug(dir.path());
    // The key of another certificate.
    write_key(dir.path(), &KeyPair::generate().unwrap().serialize_pem());
    assert!(refused(dir.path()).contains("not signed by a root"));
    std::fs::remove_file(dir.path().join("ca-key.pem")).unwrap();
    assert!(refused(dir.path()).contains("missing beside its counterpart"));
    // An intermediate whose root is not there.
    plug(dir.path());
    std::fs::write(dir.path().join("root-cert.pem"), mesh_proto::runtime::testing::TestCa::new().root_pem())
        .unwrap();
    assert!(refused(dir.path()).contains("not signed by a root"));
    // A leaf instead of a signing certificate.
    let ca = mesh_proto::runtime::testing::TestCa::new();
    let key = KeyPair::generate().unwrap();
    let issuer =
        rcgen::Issuer::from_ca_cert_der(&ca.root_der(), KeyPair::from_pem(&ca.root_key_pem()).unwrap());
    let leaf =
        ca.leaf_params(id().as_str(), Duration::from_secs(60)).signed_by(&key, &issuer.unwrap()).unwrap();
    std::fs::write(dir.path().join("ca-cert.pem"), leaf.pem()).unwrap();
    write_key(dir.path(), &key.serialize_pem());
    std::fs::write(dir.path().join("root-cert.pem"), ca.root_pem()).unwrap();
    std::fs::remove_file(dir.path().join("cert-chain.pem")).unwrap();
    assert!(open(dir.path()).is_err());
}

#[test]
fn dns_names_are_for_one_identity_only() {
    let dir = tempfile::tempdir().unwrap();
    let pilot: SpiffeId = "spiffe://cluster.local/ns/istio-system/sa/mesh-pilot".parse().unwrap();
    let names = vec!["mesh-pilot.istio-system.svc".to_owned(), "mesh-pilot.istio-system".to_owned()];
    let policy = Policy { dns: Some((pilot.clone(), names.clone())), ..policy() };
    let authority = open_with(dir.path(), policy).unwrap();
    let key = KeyPair::generate().unwrap();
    let dns_of = |id: &SpiffeId| {
        let issued = authority.sign(id, &key, None, SystemTime::now()).unwrap();
        let (_, parsed) = x509_parser::parse_x509_certificate(&issued.leaf).unwrap();
        let san = parsed.subject_alternative_name().unwrap().unwrap().value;
        let names = san.general_names.iter().filter_map(|name| match name {
            x509_parser::extensions::GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        });
        (names.collect::<Vec<_>>(), tls::peer(std::slice::from_ref(&issued.leaf)).unwrap().id)
    };
    assert_eq!(dns_of(&pilot), (names, pilot));
    let other: SpiffeId = "spiffe://cluster.local/ns/default/sa/mesh-pilot".parse().unwrap();
    assert_eq!(dns_of(&other), (vec![], other));
}

#[test]
fn several_roots_are_trusted_and_the_one_that_signs_comes_first() {
    let dir = tempfile::tempdir().unwrap();
    plug(dir.path());
    let root = std::fs::read_to_string(dir.path().join("root-cert.pem")).unwrap();
    let old = mesh_proto::runtime::testing::TestCa::new().root_pem();
    std::fs::write(dir.path().join("root-cert.pem"), format!("{old}{root}")).unwrap();
    let authority = open(dir.path()).unwrap();
    assert_eq!(authority.root_certificates().len(), 2);
    assert_eq!(authority.roots().unwrap().domains().next().unwrap().1.certificates.len(), 2);
    let issued = authority.sign(&id(), &KeyPair::generate().unwrap(), None, SystemTime::now()).unwrap();
    assert_eq!(issued.chain.len(), 3);
}
