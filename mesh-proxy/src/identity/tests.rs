//! A proxy's start against an authority that signs what it is asked for.

use std::net::SocketAddr;

use mesh_proto::model::SpiffeId;
use mesh_proto::runtime::certificates::authority_id;
use mesh_proto::runtime::identity::pem;
use mesh_proto::runtime::testing::TestCa;
use mesh_proto::runtime::tls::{ClientAuth, server_config};
use mesh_proto::runtime::{drain, grpc};
use mesh_proto::wire::istio::v1::auth::istio_certificate_service_server::{
    IstioCertificateService, IstioCertificateServiceServer,
};
use mesh_proto::wire::istio::v1::auth::{IstioCertificateRequest, IstioCertificateResponse};
use rcgen::{CertificateSigningRequestParams, KeyPair};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status};

use super::*;

/// Signs for `id` whoever shows the token `secret`.
struct FakeCa {
    ca: TestCa,
    id: SpiffeId,
}

#[tonic::async_trait]
impl IstioCertificateService for FakeCa {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        if request.metadata().get("authorization").is_none_or(|token| token != "Bearer secret") {
            return Err(Status::unauthenticated("no"));
        }
        let csr = CertificateSigningRequestParams::from_pem(&request.get_ref().csr).unwrap();
        let key = KeyPair::from_pem(&self.ca.root_key_pem()).unwrap();
        let issuer = rcgen::Issuer::from_ca_cert_der(&self.ca.root_der(), key).unwrap();
        let life = match request.get_ref().validity_duration {
            0 => 3600,
            asked => u64::try_from(asked).unwrap(),
        };
        let life = std::time::Duration::from_secs(life);
        let leaf = self.ca.leaf_params(self.id.as_str(), life).signed_by(&csr.public_key, &issuer).unwrap();
        let cert_chain = vec![leaf.pem(), pem(&self.ca.root_der())];
        Ok(Response::new(IstioCertificateResponse { cert_chain }))
    }
}

/// An authority that signs for `id` and calls itself `name`.
async fn start(ca: &TestCa, id: &SpiffeId, name: &str) -> (SocketAddr, drain::Drain) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tls = server_config(&ca.identity("istio-system", name), ClientAuth::Optional, &[b"h2"]);
    let service = IstioCertificateServiceServer::new(FakeCa { ca: ca.clone(), id: id.clone() });
    let (drain, watch) = drain::channel();
    tokio::spawn(grpc::serve(listener, tls, tonic::service::Routes::new(service), watch));
    (address, drain)
}

fn bootstrap(dir: &std::path::Path, ca: &TestCa, address: SocketAddr) -> Config {
    std::fs::write(dir.join("root.pem"), ca.root_pem()).unwrap();
    std::fs::write(dir.join("token"), "secret\n").unwrap();
    let text = serde_json::json!({
        "node": {"kind": "sidecar", "name": "reviews-v1-0", "namespace": "default", "service_account": "reviews", "uid": "1"},
        "trust_domain": "cluster.local", "cluster_domain": "cluster.local", "pod_ip": "127.0.0.1",
        "ca": {"address": address, "roots": dir.join("root.pem"), "token": dir.join("token")},
        "pilot": {"address": "127.0.0.1:1"},
        "outbound": {"http_proxy": "127.0.0.1:15001"},
        "status": "127.0.0.1:15021", "metrics": "127.0.0.1:15090", "admin": "127.0.0.1:15000",
        "state_dir": dir.join("state"),
    });
    let file = dir.join("proxy.json");
    std::fs::write(&file, text.to_string()).unwrap();
    Config::read(&file).unwrap()
}

fn reviews() -> SpiffeId {
    "spiffe://cluster.local/ns/default/sa/reviews".parse().unwrap()
}

#[tokio::test]
async fn obtains_keeps_and_tells() {
    let (dir, ca) = (tempfile::tempdir().unwrap(), TestCa::new());
    assert_eq!(authority_id(&"cluster.local".parse().unwrap()).service_account(), "mesh-ca");
    let (address, drain) = start(&ca, &reviews(), "mesh-ca").await;
    let config = bootstrap(dir.path(), &ca, address);
    let (identity, rotation) = obtain(&config).await.unwrap();
    assert_eq!(*identity.id(), reviews());
    let told = certs(&identity, &rotation);
    assert_eq!(told["identity"], reviews().as_str());
    assert_eq!(told["valid"], true);
    assert_eq!(told["renewal"]["overdue"], false);
    assert_eq!(told["renewal"]["last_error"], serde_json::Value::Null);
    assert_eq!(told["roots"][0]["trust_domain"], "cluster.local");
    assert!(!told.to_string().contains("PRIVATE"));
    // Another start while the authority is away takes the stored one.
    assert!(drain.finish(std::time::Duration::from_secs(5)).await);
    let (again, _rotation) = obtain(&config).await.unwrap();
    assert_eq!(again.leaf().serial, identity.leaf().serial);
}

#[tokio::test]
async fn asks_for_the_life_that_it_was_told() {
    let (dir, ca) = (tempfile::tempdir().unwrap(), TestCa::new());
    let (address, _drain) = start(&ca, &reviews(), "mesh-ca").await;
    let mut config = bootstrap(dir.path(), &ca, address);
    config.ca.life = Some(std::time::Duration::from_secs(600));
    let (identity, rotation) = obtain(&config).await.unwrap();
    let left = certs(&identity, &rotation)["seconds_left"].as_u64().unwrap();
    assert!((1..=600).contains(&left), "{left}");
}

/// Whoever is not the authority, and an authority that answers with somebody else's certificate, is not believed.
#[tokio::test]
async fn believes_only_the_authority_and_only_its_own_name() {
    let (dir, ca) = (tempfile::tempdir().unwrap(), TestCa::new());
    let other: SpiffeId = "spiffe://cluster.local/ns/default/sa/admin".parse().unwrap();
    for (signs_for, called, why) in [
        (reviews(), "ratings", "peer is spiffe://cluster.local/ns/istio-system/sa/ratings, expected"),
        (other, "mesh-ca", "the certificate is spiffe://cluster.local/ns/default/sa/admin's"),
    ] {
        let (address, _drain) = start(&ca, &signs_for, called).await;
        let settings = settings(&bootstrap(dir.path(), &ca, address)).unwrap();
        let error = certificates::obtain_once(&settings).await.unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}
