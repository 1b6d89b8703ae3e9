//! reliability-security.md C3-C5: who gets which certificate.

use mesh_proto::runtime::certificates::authority_id;
use mesh_proto::runtime::grpc::channel;
use mesh_proto::runtime::identity::{Identity, Leaf, Roots, RootsHandle};
use mesh_proto::runtime::testing::TestCa;
use mesh_proto::runtime::tls::{ClientIdentity, Expect, client_config};
use mesh_proto::wire::istio::v1::auth::IstioCertificateRequest;
use mesh_proto::wire::istio::v1::auth::istio_certificate_service_client::IstioCertificateServiceClient;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType};
use tonic::{Code, Status};

use super::*;
use crate::keeper::Request;

struct Caller {
    roots: RootsHandle,
    address: String,
    key: KeyPair,
    csr: String,
}

impl Caller {
    fn new(dir: &Path, address: SocketAddr) -> Self {
        let pem = std::fs::read(dir.join("root.pem")).unwrap();
        let roots = RootsHandle::new(Roots::from_pem(&"cluster.local".parse().unwrap(), &pem).unwrap());
        let key = KeyPair::generate().unwrap();
        let csr = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
        Self { roots, address: address.to_string(), key, csr }
    }

    async fn call(
        &self,
        show: ClientIdentity<'_>,
        tokens: &[&str],
        seconds: i64,
        csr: &str,
    ) -> Result<Vec<String>, Status> {
        let expect = Expect::Exactly(authority_id(&"cluster.local".parse().unwrap()));
        let tls = client_config(show, self.roots.clone(), expect, &[b"h2"]);
        let mut client = IstioCertificateServiceClient::new(channel(&self.address, tls).unwrap());
        let message =
            IstioCertificateRequest { csr: csr.to_owned(), validity_duration: seconds, metadata: None };
        let mut request = tonic::Request::new(message);
        for token in tokens {
            request.metadata_mut().append("authorization", format!("Bearer {token}").parse().unwrap());
        }
        client.create_certificate(request).await.map(|answer| answer.into_inner().cert_chain)
    }

    fn leaf(&self, chain: &[String]) -> Leaf {
        Leaf::from_pem(chain.concat().as_bytes(), self.key.serialize_pem().as_bytes()).unwrap()
    }
}

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn the_account_is_the_tokens_whatever_the_request_says() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(dir.path(), 3600).await;
    let caller = Caller::new(dir.path(), running.address);
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "spiffe://cluster.local/ns/default/sa/admin");
    params.subject_alt_names = vec![
        SanType::URI("spiffe://cluster.local/ns/default/sa/admin".try_into().unwrap()),
        SanType::DnsName("admin.default.svc".try_into().unwrap()),
    ];
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    let csr = params.serialize_request(&caller.key).unwrap().pem().unwrap();
    let chain = caller.call(ClientIdentity::None, &[&token("reviews", HOUR)], 0, &csr).await.unwrap();
    let leaf = caller.leaf(&chain);
    assert_eq!(leaf.id, id("reviews"));
    let (_, parsed) = x509_parser::parse_x509_certificate(&leaf.certified_key.cert[0]).unwrap();
    assert!(!parsed.is_ca() && parsed.subject().iter().count() == 0);
    assert_eq!(parsed.subject_alternative_name().unwrap().unwrap().value.general_names.len(), 1);
    assert!(!parsed.extended_key_usage().unwrap().unwrap().value.code_signing);
}

#[tokio::test]
async fn without_proof_there_is_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(dir.path(), 3600).await;
    let caller = Caller::new(dir.path(), running.address);
    let good = token("reviews", HOUR);
    let mut tampered = good.clone().into_bytes();
    tampered[5] ^= 1;
    let tampered = String::from_utf8(tampered).unwrap();
    let foreign = mint(
        &TokenKey::new(&[9; 32]),
        &Claims {
            namespace: "default".to_owned(),
            service_account: "reviews".to_owned(),
            pod: String::new(),
            expires: u64::MAX,
        },
    );
    let expired = token("reviews", Duration::ZERO);
    for tokens in [&[][..], &[&tampered[..]], &[&foreign], &[&expired], &[""], &[&good, &good]] {
        let refused = caller.call(ClientIdentity::None, tokens, 0, &caller.csr).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{tokens:?}: {refused}");
    }
    // The proof is asked for before anything is parsed.
    let refused = caller.call(ClientIdentity::None, &[], 0, "garbage").await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    for bad in ["", "garbage", &"x".repeat(20_000), &caller.key.serialize_pem()] {
        let refused = caller.call(ClientIdentity::None, &[&good], 0, bad).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
    }
    let refused = caller.call(ClientIdentity::None, &[&good], -1, &caller.csr).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    // A message that is larger than any request is not read.
    assert!(caller.call(ClientIdentity::None, &[&good], 0, &"x".repeat(1 << 20)).await.is_err());
    assert!(caller.call(ClientIdentity::None, &[&good], 0, &caller.csr).await.is_ok());
}

#[tokio::test]
async fn a_certificate_renews_itself_and_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(dir.path(), 3600).await;
    let caller = Caller::new(dir.path(), running.address);
    let chain = caller.call(ClientIdentity::None, &[&token("reviews", HOUR)], 0, &caller.csr).await.unwrap();
    let identity = Identity::new(caller.leaf(&chain), caller.roots.clone());
    let renewed = caller.call(ClientIdentity::Mesh(&identity), &[], 0, &caller.csr).await.unwrap();
    assert_eq!(caller.leaf(&renewed).id, id("reviews"));
    assert_ne!(caller.leaf(&renewed).serial, identity.leaf().serial);
    let other = token("ratings", HOUR);
    let refused = caller.call(ClientIdentity::Mesh(&identity), &[&other], 0, &caller.csr).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    // A certificate of another authority, and an expired one, do not even get a connection.
    let stranger = TestCa::new().identity("default", "reviews");
    assert!(caller.call(ClientIdentity::Mesh(&stranger), &[], 0, &caller.csr).await.is_err());
}

#[tokio::test]
async fn lives_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(dir.path(), 3600).await;
    let caller = Caller::new(dir.path(), running.address);
    for (asked, given) in [(0, 3600), (60, 60), (7200, 7200), (1_000_000, 7200), (i64::MAX, 7200)] {
        let chain =
            caller.call(ClientIdentity::None, &[&token("a", HOUR)], asked, &caller.csr).await.unwrap();
        let left = caller.leaf(&chain).not_after.duration_since(SystemTime::now()).unwrap().as_secs();
        assert!((given - 3..=given).contains(&left), "{asked}: {left}");
    }
}

/// What Istio's agents send along (a header `clusterid`, a Struct that names a signer for other issuers), and what they make of
/// the answer: the leaf first, each signed by the next, a root last.
#[tokio::test]
async fn a_stock_client_gets_a_chain_from_leaf_to_root() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(dir.path(), 3600).await;
    let caller = Caller::new(dir.path(), running.address);
    let expect = Expect::Exactly(authority_id(&"cluster.local".parse().unwrap()));
    let tls = client_config(ClientIdentity::None, caller.roots.clone(), expect, &[b"h2"]);
    let mut client = IstioCertificateServiceClient::new(channel(&caller.address, tls).unwrap());
    let mut request = tonic::Request::new(IstioCertificateRequest {
        csr: caller.csr.clone(),
        validity_duration: 86400,
        metadata: Some(Default::default()),
    });
    let bearer = format!("Bearer {}", token("reviews", HOUR));
    request.metadata_mut().insert("authorization", bearer.parse().unwrap());
    request.metadata_mut().insert("clusterid", "Kubernetes".parse().unwrap());
    let chain = client.create_certificate(request).await.unwrap().into_inner().cert_chain;
    assert!(chain.iter().all(|one| one.matches("BEGIN CERTIFICATE").count() == 1), "one certificate each");
    assert_eq!(caller.leaf(&chain[..1]).id, id("reviews"));
    let root = std::fs::read_to_string(dir.path().join("root.pem")).unwrap();
    assert!(chain.last().unwrap().split_whitespace().eq(root.split_whitespace()));
    let names = chain.iter().map(|one| {
        let der =
            mesh_proto::runtime::identity::read_certificates("chain", one.as_bytes()).unwrap().remove(0);
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
        (parsed.subject().to_string(), parsed.issuer().to_string())
    });
    let names: Vec<_> = names.collect();
    assert!(names.windows(2).all(|pair| pair[0].1 == pair[1].0), "{names:?}");
}

/// A state that a newer authority has kept: what it says more may be whom it refuses. Nothing of it is lost.
#[tokio::test]
async fn who_does_not_know_what_is_kept_gives_nobody_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(dir.path(), 3600).await;
    let caller = Caller::new(dir.path(), running.address);
    let bearer = token("a", HOUR);
    let call = async || caller.call(ClientIdentity::None, &[&bearer], 0, &caller.csr).await;
    call().await.unwrap();
    let path = dir.path().join("ca/state.json");
    let kept = std::fs::read_to_string(&path).unwrap();
    let newer = kept.replacen('{', r#"{"refused_too":["spiffe://cluster.local/ns/default/sa/a"],"#, 1);
    std::fs::write(&path, &newer).unwrap();
    let told = running.keeper.look().await.unwrap_err().to_string();
    for said in ["ca/state.json", "refused_too", "newer authority", "charts' README.md"] {
        assert!(told.contains(said), "{told}");
    }
    assert_eq!(call().await.unwrap_err().code(), Code::Unavailable);
    let taint = Request::Taint { identity: id("b").to_string(), reason: String::new() };
    assert!(running.keeper.command(&taint).await.unwrap_err().to_string().contains("refused_too"));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), newer);
    assert!(!running.keeper.told().borrow().is_tainted(&id("b")));
    // Who cannot read it at all does not know better.
    std::fs::write(&path, "{").unwrap();
    assert!(running.keeper.look().await.is_err());
    assert_eq!(call().await.unwrap_err().code(), Code::Unavailable);
    // The operator has gone back.
    std::fs::write(&path, &kept).unwrap();
    running.keeper.look().await.unwrap();
    call().await.unwrap();
    // What is no state at all is nobody's news: what is in memory goes on.
    std::fs::write(&path, "{").unwrap();
    assert!(!running.keeper.look().await.unwrap_err().to_string().contains("newer"));
    call().await.unwrap();
}
