//! An authority that believes what the token says: the SPIFFE id to sign.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mesh_proto::runtime::testing::TestCa;
use mesh_proto::runtime::tls::{ClientAuth, server_config};
use mesh_proto::runtime::{drain, grpc};
use mesh_proto::wire::istio::v1::auth::istio_certificate_service_server::{
    IstioCertificateService, IstioCertificateServiceServer,
};
use mesh_proto::wire::istio::v1::auth::{IstioCertificateRequest, IstioCertificateResponse};
use parking_lot::Mutex;
use rcgen::{CertificateSigningRequestParams, Issuer, KeyPair};
use tokio::net::TcpListener;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

/// The running authority.
pub struct FakeCa {
    pub address: SocketAddr,
    pub life: Arc<Mutex<Duration>>,
    _drain: drain::Drain,
}

struct Signer {
    ca: TestCa,
    life: Arc<Mutex<Duration>>,
}

impl FakeCa {
    pub async fn start(ca: &TestCa, ip: IpAddr) -> Self {
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let identity = ca.identity("istio-system", "mesh-ca");
        let config = server_config(&identity, ClientAuth::Optional, &[b"h2"]);
        let life = Arc::new(Mutex::new(Duration::from_secs(86400)));
        let signer = Signer { ca: ca.clone(), life: life.clone() };
        let routes = Routes::new(IstioCertificateServiceServer::new(signer));
        let (drain, watch) = drain::channel();
        tokio::spawn(grpc::serve(listener, config, routes, watch));
        Self { address, life, _drain: drain }
    }
}

#[tonic::async_trait]
impl IstioCertificateService for Signer {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let token = request.metadata().get("authorization").and_then(|v| v.to_str().ok());
        let id = token.and_then(|t| t.strip_prefix("Bearer ")).ok_or(Status::unauthenticated("no token"))?;
        let failed = |e: rcgen::Error| Status::invalid_argument(e.to_string());
        let key = KeyPair::from_pem(&self.ca.root_key_pem()).map_err(failed)?;
        let issuer = Issuer::from_ca_cert_pem(&self.ca.root_pem(), key).map_err(failed)?;
        let mut csr = CertificateSigningRequestParams::from_pem(&request.get_ref().csr).map_err(failed)?;
        let life = *self.life.lock();
        csr.params = self.ca.leaf_params(id, life);
        let leaf = csr.signed_by(&issuer).map_err(failed)?;
        let cert_chain = vec![leaf.pem(), self.ca.root_pem()];
        Ok(Response::new(IstioCertificateResponse { cert_chain }))
    }
}
