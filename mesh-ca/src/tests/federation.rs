//! Two trust domains: each tells its bundle, and hears the other's.

use std::path::PathBuf;

use mesh_proto::model::TrustDomain;
use mesh_proto::runtime::certificates::{authority_id, pilot_id};
use mesh_proto::runtime::identity::{Roots, RootsHandle};
use mesh_proto::runtime::testing::TestCa;
use mesh_proto::runtime::tls::{InvalidSvid, Role, verify_chain};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::UnixTime;

use super::*;
use crate::authority::material::ROOT_LIFE;
use crate::authority::{Limits, Policy};
use crate::bundle::serve::{WebCertificate, serve};
use crate::federation::{self, Federated, Source, Spiffe, Web};
use crate::keeper::{Clock, Request, Settings};
use crate::rotation::Step;
use crate::shelf::Shelf;
use crate::shelf::files::Files;

const HOUR: Duration = Duration::from_secs(3600);

async fn keeper(dir: &Path, domain: &str, federated: &[&str]) -> Arc<Keeper> {
    mesh_proto::runtime::crypto::install_provider();
    let own: TrustDomain = domain.parse().unwrap();
    let limits = Limits { default: HOUR, min: Duration::from_secs(1), max: HOUR };
    let settings = Settings {
        policy: Policy { own: authority_id(&own), limits, dns: None },
        pilot: pilot_id(&own),
        federated: federated.iter().map(|domain| domain.parse().unwrap()).collect(),
        root_life: ROOT_LIFE,
        grace_percent: 0,
        clock: Clock::default(),
    };
    let files = Files::new(&dir.join(domain), &dir.join(format!("{domain}.pem")));
    Arc::new(Keeper::open_once(Shelf::Files(files), settings).await.unwrap())
}

async fn endpoint(keeper: &Arc<Keeper>, web: Option<WebCertificate>) -> (String, drain::Drain) {
    let listener = bind("127.0.0.1:0".parse().unwrap());
    let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
    let (drain, watch) = drain::channel();
    tokio::spawn(serve(listener, keeper.clone(), web, watch));
    (url, drain)
}

fn spiffe(url: &str, id: &str, bundle: PathBuf) -> Source {
    Source::HttpsSpiffe(Spiffe { url: url.to_owned(), endpoint_spiffe_id: id.parse().unwrap(), bundle })
}

const B: &str = "spiffe://b.test/ns/istio-system/sa/mesh-ca";

#[tokio::test]
async fn the_roots_of_another_domain_vouch_for_that_domain_alone() {
    let dir = tempfile::tempdir().unwrap();
    let b = keeper(dir.path(), "b.test", &[]).await;
    let (url, _drain) = endpoint(&b, None).await;
    let a = keeper(dir.path(), "cluster.local", &["b.test"]).await;
    let domain: TrustDomain = "b.test".parse().unwrap();
    let federated =
        Federated { trust_domain: domain.clone(), bundle: spiffe(&url, B, dir.path().join("b.test.pem")) };
    tokio::spawn(federation::keep(federated, a.clone()));
    while !a.told().borrow().bundles.contains_key(&domain) {
        a.look().await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let told = a.told().borrow().clone();
    assert_eq!(told.bundles[&domain].roots, b.told().borrow().own_bundle().roots);
    // As a proxy makes roots of it.
    let mut roots = Roots::none();
    for (domain, bundle) in &told.bundles {
        roots = roots.with_domain(domain, bundle.roots.clone()).unwrap();
    }
    let roots = RootsHandle::new(roots);
    let check = |signer: &Keeper, id: &str| {
        let id: SpiffeId = id.parse().unwrap();
        let key = KeyPair::generate().unwrap();
        let issued = signer.signing().load().sign(&id, &key, None, SystemTime::now()).unwrap();
        let text = issued.chain.concat();
        let chain = mesh_proto::runtime::identity::read_certificates("chain", text.as_bytes()).unwrap();
        verify_chain(&chain, &roots, Role::Client, UnixTime::now()).map(|svid| svid.id)
    };
    let (ours, theirs) = ("spiffe://cluster.local/ns/x/sa/y", "spiffe://b.test/ns/x/sa/y");
    assert!(check(&a, ours).is_ok() && check(&b, theirs).is_ok());
    // T8: each signs a name of the other's.
    assert!(matches!(check(&b, ours), Err(InvalidSvid::UnknownIssuer(_))));
    assert!(matches!(check(&a, theirs), Err(InvalidSvid::UnknownIssuer(_))));
    // It is kept over a restart, until the federation ends.
    let again = keeper(dir.path(), "cluster.local", &["b.test"]).await;
    assert!(again.told().borrow().bundles.contains_key(&domain));
    let taint = Request::Taint { identity: theirs.to_owned(), reason: String::new() };
    again.command(&taint).await.unwrap();
    assert!(again.told().borrow().is_tainted(&theirs.parse().unwrap()));
    let alone = keeper(dir.path(), "cluster.local", &[]).await;
    assert_eq!(alone.told().borrow().bundles.len(), 1);
}

#[tokio::test]
async fn an_endpoint_is_who_it_should_be_or_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let b = keeper(dir.path(), "b.test", &[]).await;
    let (url, _drain) = endpoint(&b, None).await;
    let first = dir.path().join("b.test.pem");
    let got = spiffe(&url, B, first.clone()).get(&[]).await.unwrap();
    assert_eq!(got.roots, b.told().borrow().own_bundle().roots);
    // Both roots of a rotation come, with a higher number.
    for step in [Step::Prepare, Step::Publish] {
        b.command(&Request::Rotate { step, force: false, automatic: false }).await.unwrap();
    }
    let later = spiffe(&url, B, first.clone()).get(&got.roots).await.unwrap();
    assert_eq!(later.roots.len(), 2);
    assert!(later.sequence > got.sequence && later.refresh.is_some());
    let stranger = dir.path().join("stranger.pem");
    std::fs::write(&stranger, TestCa::of("b.test").root_pem()).unwrap();
    for (source, why) in [
        (spiffe(&url, "spiffe://b.test/ns/a/sa/b", first.clone()), "expected spiffe://b.test/ns/a/sa/b"),
        (spiffe(&url, B, stranger), "not signed by a root of its trust domain"),
        (spiffe(&url.replace("https", "http"), B, first.clone()), "not an https URL"),
        (spiffe(&format!("{url}else"), B, first.clone()), "answered 404"),
        (spiffe(&url, B, dir.path().join("missing.pem")), "missing.pem"),
        (Source::File(dir.path().join("b.test/state.json")), "not a SPIFFE bundle"),
    ] {
        let refused = source.get(&[]).await.unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
    }
}

#[tokio::test]
async fn an_endpoint_of_the_web_has_a_certificate_of_the_web() {
    let dir = tempfile::tempdir().unwrap();
    let b = keeper(dir.path(), "b.test", &[]).await;
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let (file, key_file) = (dir.path().join("web.pem"), dir.path().join("web-key.pem"));
    std::fs::write(&file, certificate.pem()).unwrap();
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    let web = WebCertificate { certificate: file.clone(), key: key_file };
    let (url, _drain) = endpoint(&b, Some(web)).await;
    let source = |roots: Option<PathBuf>| Source::HttpsWeb(Web { url: url.clone(), roots });
    assert_eq!(source(Some(file)).get(&[]).await.unwrap().roots, b.told().borrow().own_bundle().roots);
    assert!(source(Some(dir.path().join("b.test.pem"))).get(&[]).await.is_err(), "another root");
    let by_identity = spiffe(&url, B, dir.path().join("b.test.pem")).get(&[]).await;
    assert!(by_identity.is_err(), "no SPIFFE identity");
}
