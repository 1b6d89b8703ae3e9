//! What an operator plugs into the state directory: read again when it changes, refused by name when it cannot be used.

use mesh_proto::runtime::certificates::{authority_id, pilot_id};
use mesh_proto::runtime::identity::{RootsHandle, pem, read_certificates};
use mesh_proto::runtime::tls::{Role, verify_chain};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose};
use rustls::pki_types::UnixTime;

use super::*;
use crate::authority::material::ROOT_LIFE;
use crate::authority::{Limits, Policy, store};
use crate::keeper::{Clock, Request, Settings};
use crate::rotation::{Phase, Step};
use crate::shelf::Shelf;
use crate::shelf::files::Files;

async fn keeper(dir: &Path) -> (Keeper, Clock) {
    mesh_proto::runtime::crypto::install_provider();
    let own = "cluster.local".parse().unwrap();
    let hour = Duration::from_secs(3600);
    let settings = Settings {
        policy: Policy {
            own: authority_id(&own),
            limits: Limits { default: hour, min: Duration::from_secs(1), max: hour },
            dns: None,
        },
        pilot: pilot_id(&own),
        federated: Vec::new(),
        root_life: ROOT_LIFE,
        grace_percent: 20,
        clock: Clock::default(),
    };
    let clock = settings.clock.clone();
    let shelf = Shelf::Files(Files::new(&dir.join("ca"), &dir.join("root.pem")));
    (Keeper::open_once(shelf, settings).await.unwrap(), clock)
}

fn root(keeper: &Keeper) -> String {
    pem(&keeper.signing().load().root_certificates()[0])
}

/// A self-signed root with its key, plugged in; the root.
fn plug(dir: &Path, key: &KeyPair) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "the operator's own root");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let certificate = params.self_signed(key).unwrap();
    std::fs::write(dir.join("ca/ca-cert.pem"), certificate.pem()).unwrap();
    store::write_private(&dir.join("ca/ca-key.pem"), key.serialize_pem().as_bytes()).unwrap();
    pem(certificate.der())
}

#[tokio::test]
async fn a_certificate_that_is_plugged_in_takes_over_when_everybody_can_know_it() {
    let dir = tempfile::tempdir().unwrap();
    let (keeper, clock) = keeper(dir.path()).await;
    let own = root(&keeper);
    let rsa = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    let theirs = plug(dir.path(), &rsa);
    // First something that cannot be meant: by name, and nothing changes.
    let key = dir.path().join("ca/ca-key.pem");
    let good = std::fs::read(&key).unwrap();
    store::write_private(&key, b"garbage").unwrap();
    let refused = keeper.look().await.unwrap_err().to_string();
    assert!(refused.contains("ca-key.pem") && !refused.contains("garbage"), "{refused}");
    std::fs::remove_file(&key).unwrap();
    let refused = keeper.look().await.unwrap_err().to_string();
    assert!(refused.contains("ca-key.pem is missing"), "{refused}");
    std::fs::write(&key, &good).unwrap();
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
    let refused = keeper.look().await.unwrap_err().to_string();
    assert!(refused.contains("others than the owner"), "{refused}");
    assert_eq!(root(&keeper), own);
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    keeper.look().await.unwrap();
    let told = std::fs::read_to_string(dir.path().join("root.pem")).unwrap();
    assert!(told.contains(&own) && told.contains(&theirs));
    assert_eq!(root(&keeper), own, "known first");
    clock.advance(121);
    keeper.look().await.unwrap();
    assert_eq!(root(&keeper), theirs);
    // RSA signs as well as P-256: the authority's own leaf was verified with it.
    let status = keeper.status().await.unwrap();
    assert!(status.plugged_in && status.rotation.unwrap().phase == Phase::Activated);
    // The last certificate of the old root has ended: it leaves by itself.
    clock.advance(3600 + 31);
    keeper.look().await.unwrap();
    assert_eq!(std::fs::read_to_string(dir.path().join("root.pem")).unwrap(), theirs);
}

#[tokio::test]
async fn every_kind_of_key_signs() {
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_RSA_SHA256]
    {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("ca")).unwrap();
        let key = match algorithm == &rcgen::PKCS_RSA_SHA256 {
            true => KeyPair::generate_rsa_for(algorithm, rcgen::RsaKeySize::_3072).unwrap(),
            false => KeyPair::generate_for(algorithm).unwrap(),
        };
        let theirs = plug(dir.path(), &key);
        let (keeper, _) = keeper(dir.path()).await;
        assert_eq!(root(&keeper), theirs);
        assert!(!dir.path().join("ca/authority.pem").exists(), "nothing else is created");
    }
}

/// Certificates of the first root are good until they end, whatever is plugged in meanwhile.
#[tokio::test]
async fn a_third_root_leaves_the_first_one_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let (keeper, clock) = keeper(dir.path()).await;
    let first = root(&keeper);
    let key = KeyPair::generate().unwrap();
    let issued = keeper.signing().load().sign(&id("a"), &key, None, SystemTime::now()).unwrap();
    let chain = read_certificates("chain", issued.chain.concat().as_bytes()).unwrap();
    let mut theirs = Vec::new();
    for _ in 0..2 {
        theirs.push(plug(dir.path(), &KeyPair::generate().unwrap()));
        keeper.look().await.unwrap();
        clock.advance(121);
        keeper.look().await.unwrap();
        assert_eq!(Some(&root(&keeper)), theirs.last());
        let told = RootsHandle::new(keeper.told().borrow().own_roots().unwrap());
        let verified = verify_chain(&chain, &told, Role::Client, UnixTime::now());
        assert_eq!(verified.unwrap().id, id("a"), "{} roots are plugged in", theirs.len());
    }
    let told = std::fs::read_to_string(dir.path().join("root.pem")).unwrap();
    assert!(told.contains(&first) && theirs.iter().all(|root| told.contains(root)), "{told}");
    let roles: Vec<_> = keeper.status().await.unwrap().roots.into_iter().map(|root| root.role).collect();
    assert_eq!(roles, ["signs", "old", "old"]);
    clock.advance(3600 + 31);
    keeper.look().await.unwrap();
    assert_eq!(std::fs::read_to_string(dir.path().join("root.pem")).unwrap(), theirs[1]);
}

/// One long life is remembered by its end, and only then given.
#[tokio::test]
async fn one_long_life_is_remembered_by_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let (keeper, clock) = keeper(dir.path()).await;
    let (hour, days) = (Duration::from_secs(3600), Duration::from_secs(90 * 86400));
    let file = dir.path().join("ca/state.json");
    let kept = || std::fs::read_to_string(&file).unwrap();
    let before = kept();
    assert_eq!(keeper.allow(hour).await.unwrap(), hour);
    assert_eq!(kept(), before, "nothing is written for what everybody gets");
    assert_eq!(keeper.allow(days).await.unwrap(), days);
    assert_ne!(kept(), before);
    clock.advance(80 * 86400);
    for step in [Step::Prepare, Step::Publish, Step::Activate] {
        keeper.command(&Request::Rotate { step, force: true, automatic: false }).await.unwrap();
    }
    let left = keeper.status().await.unwrap().rotation.unwrap().old_in_use;
    assert!((10 * 86400..10 * 86400 + 300).contains(&left), "{left} s");
}
