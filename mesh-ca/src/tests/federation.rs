//! Two trust domains: each tells its bundle, and hears the other's.

use std::path::PathBuf;

use mesh_proto::model::TrustDomain;
use mesh_proto::runtime::certificates::{authority_id, pilot_id};
use mesh_proto::runtime::identity::{Identity, Roots, RootsHandle};
use mesh_proto::runtime::testing::TestCa;
use mesh_proto::runtime::tls::{ClientAuth, InvalidSvid, Role, server_config, verify_chain};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, UnixTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::authority::material::ROOT_LIFE;
use crate::authority::{Limits, Policy};
use crate::bundle::serve::{WebCertificate, serve};
use crate::federation::{self, Course, Federated, Known, NoBundle, Source, Spiffe, Web};
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

fn by<'a>(roots: &'a [CertificateDer<'static>]) -> Known<'a> {
    Known { roots, superseded: None }
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
    let got = spiffe(&url, B, first.clone()).get(Known::default()).await.unwrap().document;
    assert_eq!(got.roots, b.told().borrow().own_bundle().roots);
    // Both roots of a rotation come, with a higher number.
    for step in [Step::Prepare, Step::Publish] {
        b.command(&Request::Rotate { step, force: false, automatic: false }).await.unwrap();
    }
    let later = spiffe(&url, B, first.clone()).get(by(&got.roots)).await.unwrap().document;
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
        let refused = source.get(Known::default()).await.unwrap_err().to_string();
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
    assert_eq!(
        source(Some(file)).get(Known::default()).await.unwrap().document.roots,
        b.told().borrow().own_bundle().roots
    );
    assert!(source(Some(dir.path().join("b.test.pem"))).get(Known::default()).await.is_err(), "another root");
    let by_identity = spiffe(&url, B, dir.path().join("b.test.pem")).get(Known::default()).await;
    assert!(by_identity.is_err(), "no SPIFFE identity");
}

/// An endpoint that is `whose`, and has `document`.
async fn stand_in(whose: Identity, document: String) -> String {
    stand_in_for(whose, vec![document]).await
}

/// An endpoint that is `whose`, and has one of `documents` after the other, then the last one.
async fn stand_in_for(whose: Identity, documents: Vec<String>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
    let acceptor = tokio_rustls::TlsAcceptor::from(server_config(&whose, ClientAuth::Optional, &[]));
    tokio::spawn(async move {
        let mut turns = 0;
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let document = &documents[usize::min(turns, documents.len() - 1)];
            turns += 1;
            let _ = stream.read(&mut [0; 4096]).await;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", document.len());
            let _ = stream.write_all(format!("{head}{document}").as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    url
}

/// Who serves a bundle may be of a third trust domain: that one's roots vouch for him, never those of the bundle.
#[tokio::test]
async fn an_endpoint_may_be_of_a_third_trust_domain() {
    const C: &str = "spiffe://c.test/ns/bundles/sa/server";
    let dir = tempfile::tempdir().unwrap();
    let (b, c) = (keeper(dir.path(), "b.test", &[]).await, TestCa::of("c.test"));
    let first = dir.path().join("c.test.pem");
    std::fs::write(&first, c.root_pem()).unwrap();
    let document = crate::bundle::document(&b.told().borrow());
    let url = stand_in(c.identity("bundles", "server"), document.clone()).await;
    let source = spiffe(&url, C, first.clone());
    let a = keeper(dir.path(), "cluster.local", &["b.test", "c.test"]).await;
    // What was fetched once is what is known afterwards.
    for turn in 0..3 {
        let got = source.get(by(source.vouching(&a.told().borrow().clone()))).await.unwrap();
        assert_eq!(got.document.roots, b.told().borrow().own_bundle().roots, "{turn}");
        a.federate(&"b.test".parse().unwrap(), &got.document.roots, got.document.sequence, got.first);
        a.look().await.unwrap();
    }
    // Where that trust domain is federated with too, its newest roots count.
    std::fs::write(&first, TestCa::of("c.test").root_pem()).unwrap();
    assert!(source.get(by(source.vouching(&a.told().borrow().clone()))).await.is_err());
    a.federate(&"c.test".parse().unwrap(), &[c.root_der()], None, None);
    a.look().await.unwrap();
    assert!(source.get(by(source.vouching(&a.told().borrow().clone()))).await.is_ok());
    // One whom a root of the bundle's trust domain calls so.
    let id: SpiffeId = C.parse().unwrap();
    let key = KeyPair::generate().unwrap();
    let issued = b.signing().load().sign(&id, &key, None, SystemTime::now()).unwrap();
    let chain = mesh_proto::runtime::identity::read_certificates("chain", issued.chain.concat().as_bytes());
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let leaf = mesh_proto::runtime::identity::Leaf::from_der(chain.unwrap(), key).unwrap();
    let url = stand_in(Identity::new(leaf, c.roots_handle()), document).await;
    let source = spiffe(&url, C, first);
    let refused = source.get(by(source.vouching(&a.told().borrow().clone()))).await.unwrap_err().to_string();
    assert!(refused.contains("not signed by a root of its trust domain"), "{refused}");
}

/// The first bundle is not believed any more once its endpoint has said something newer; another one is.
#[tokio::test]
async fn a_first_bundle_that_has_changed_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let b = keeper(dir.path(), "b.test", &[]).await;
    let (url, _drain) = endpoint(&b, None).await;
    let first = dir.path().join("first.pem");
    std::fs::write(&first, b.signing().load().root_pem()).unwrap();
    let source = spiffe(&url, B, first.clone());
    let a = keeper(dir.path(), "cluster.local", &["b.test"]).await;
    let domain: TrustDomain = "b.test".parse().unwrap();
    let federated = Federated { trust_domain: domain.clone(), bundle: source.clone() };
    tokio::spawn(federation::keep(federated, a.clone()));
    while a.superseded(&domain).await.is_none() {
        a.look().await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Over a restart too.
    let again = keeper(dir.path(), "cluster.local", &["b.test"]).await;
    let superseded = again.superseded(&domain).await;
    assert!(superseded.is_some());
    // The other trust domain has begun anew: nothing that is known of it vouches for its endpoint.
    let stale = [TestCa::of("b.test").root_der()];
    let known = Known { roots: &stale, superseded: superseded.as_deref() };
    let refused = source.get(known).await.unwrap_err().to_string();
    assert!(refused.contains("not signed by a root of its trust domain"), "{refused}");
    std::fs::write(&first, format!("\n{}", b.signing().load().root_pem())).unwrap();
    let got = source.get(known).await.unwrap();
    assert!(got.first.is_some() && got.first != superseded);
    // One that cannot be read keeps nobody from what is known.
    std::fs::remove_file(&first).unwrap();
    let roots = b.told().borrow().own_bundle().roots.clone();
    let got = source.get(Known { roots: &roots, ..known }).await.unwrap();
    assert!(got.first.is_none());
}

/// An older document is one, also where only the first bundle vouches for its endpoint, time and again. Who changes that
/// bundle begins anew.
#[tokio::test]
async fn an_older_document_of_a_third_trust_domain_is_not_taken() {
    const C: &str = "spiffe://c.test/ns/bundles/sa/server";
    let dir = tempfile::tempdir().unwrap();
    let (b, c) = (keeper(dir.path(), "b.test", &[]).await, TestCa::of("c.test"));
    let older = crate::bundle::document(&b.told().borrow());
    for step in [Step::Prepare, Step::Publish] {
        b.command(&Request::Rotate { step, force: false, automatic: false }).await.unwrap();
    }
    let newer = crate::bundle::document(&b.told().borrow());
    let unnumbered = older.replace("spiffe_sequence", "x");
    let first = dir.path().join("c.test.pem");
    std::fs::write(&first, c.root_pem()).unwrap();
    let url = stand_in_for(c.identity("bundles", "server"), vec![newer.clone(), newer, older]).await;
    let a = keeper(dir.path(), "cluster.local", &["b.test"]).await;
    let domain: TrustDomain = "b.test".parse().unwrap();
    let federated = Federated { trust_domain: domain.clone(), bundle: spiffe(&url, C, first.clone()) };
    let mut course = Course::new(federated.clone(), &a).await;
    let roots = || a.told().borrow().bundles[&domain].roots.len();
    // One after the other before anything is kept, too.
    course.turn(&a).await.unwrap();
    course.turn(&a).await.unwrap();
    assert!(matches!(course.turn(&a).await, Err(NoBundle::Older { .. })));
    a.look().await.unwrap();
    assert_eq!(roots(), 2);
    assert!(matches!(course.turn(&a).await, Err(NoBundle::Older { .. })));
    a.look().await.unwrap();
    assert_eq!(roots(), 2);
    // Over a restart too, whoever asks.
    let again = keeper(dir.path(), "cluster.local", &["b.test"]).await;
    let mut after = Course::new(federated.clone(), &again).await;
    assert!(matches!(after.turn(&again).await, Err(NoBundle::Older { known: 2, now: 1, .. })));
    // Nor by another replica that has not heard of it yet, nor one that counts nothing.
    let one = [b.signing().load().root_certificates()[0].clone()];
    again.federate(&domain, &one, Some(1), None);
    again.look().await.unwrap();
    assert_eq!(again.told().borrow().bundles[&domain].roots.len(), 2);
    assert_eq!(again.number(&domain).await, Some(2));
    let url = stand_in(c.identity("bundles", "server"), unnumbered).await;
    after.federated.bundle = spiffe(&url, C, first.clone());
    assert!(matches!(after.turn(&again).await, Err(NoBundle::Older { known: 2, now: 0, .. })));
    // But not where it was not federated with meanwhile.
    let without = keeper(dir.path(), "cluster.local", &[]).await;
    assert_eq!(without.number(&domain).await, None);
    std::fs::write(&first, format!("\n{}", c.root_pem())).unwrap();
    course.turn(&a).await.unwrap();
    a.look().await.unwrap();
    assert_eq!(roots(), 1);
}

/// The operator knows the other side's new roots before it has them: his bundle waits for them, and is spent then.
#[tokio::test]
async fn a_first_bundle_may_be_there_before_its_endpoint() {
    let dir = tempfile::tempdir().unwrap();
    let old = keeper(&dir.path().join("old"), "b.test", &[]).await;
    let new = keeper(&dir.path().join("new"), "b.test", &[]).await;
    let (old_url, _old) = endpoint(&old, None).await;
    let (new_url, _new) = endpoint(&new, None).await;
    let root = |of: &Keeper| of.signing().load().root_pem();
    let first = dir.path().join("first.pem");
    std::fs::write(&first, root(&old)).unwrap();
    let a = keeper(dir.path(), "cluster.local", &["b.test"]).await;
    let domain: TrustDomain = "b.test".parse().unwrap();
    let federated = Federated { trust_domain: domain.clone(), bundle: spiffe(&old_url, B, first.clone()) };
    let mut course = Course::new(federated.clone(), &a).await;
    // What is told afterwards, and which first bundle is spent.
    let turn = async |course: &mut Course| {
        course.turn(&a).await.map_err(|e| e.to_string())?;
        a.look().await.unwrap();
        let told = a.told().borrow().bundles[&domain].roots.clone();
        Ok::<_, String>((told, a.superseded(&domain).await.unwrap()))
    };
    let roots = |of: &Keeper| of.told().borrow().own_bundle().roots.clone();
    let (told, begun) = turn(&mut course).await.unwrap();
    assert_eq!(told, roots(&old));
    std::fs::write(&first, root(&new)).unwrap();
    // Ahead of time, over a restart too.
    for course in [&mut course, &mut Course::new(federated, &a).await] {
        assert_eq!(turn(course).await, Ok((roots(&old), begun.clone())));
    }
    course.federated.bundle = spiffe(&new_url, B, first.clone());
    let (told, spent) = turn(&mut course).await.unwrap();
    assert_eq!(told, roots(&new));
    assert_ne!(spent, begun);
    // With a root that is not told it waits, though another one is told.
    std::fs::write(&first, root(&new) + &root(&old)).unwrap();
    assert_eq!(turn(&mut course).await, Ok((roots(&new), spent.clone())));
    // Another text with roots that are told is spent at once.
    std::fs::write(&first, format!("\n{}", root(&new))).unwrap();
    assert_ne!(turn(&mut course).await.unwrap().1, spent);
    course.federated.bundle = spiffe(&old_url, B, first.clone());
    let refused = turn(&mut course).await.unwrap_err();
    assert!(refused.contains("not signed by a root of its trust domain"), "{refused}");
    std::fs::write(&first, "nonsense").unwrap();
    let refused = turn(&mut course).await.unwrap_err();
    assert!(
        refused.contains("not signed by a root of its trust domain") && refused.contains("first.pem"),
        "{refused}"
    );
}
