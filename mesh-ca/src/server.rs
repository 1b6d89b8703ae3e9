//! `istio.v1.auth.IstioCertificateService`: the table of contents of a call.

use std::time::{Duration, SystemTime};

use mesh_proto::runtime::grpc::{PeerAddress, PeerIdentity};
use mesh_proto::wire::istio::v1::auth::istio_certificate_service_server::{
    IstioCertificateService, IstioCertificateServiceServer,
};
use mesh_proto::wire::istio::v1::auth::{IstioCertificateRequest, IstioCertificateResponse};
use tonic::{Request, Response, Status};

use crate::app::Signing;
use crate::attest::{Attestor, Caller, Credentials, NotAttested};
use crate::csr;

/// The largest message that is read: a request with room for metadata.
const MAX_MESSAGE: usize = 64 << 10;

/// Names of the counters (Istio's).
pub mod counters {
    /// Requests for a certificate.
    pub const CSR: &str = "citadel_server_csr_count";
    /// Certificates given.
    pub const SUCCESS: &str = "citadel_server_success_cert_issuance_count";
    /// Callers that could not prove who they are.
    pub const DENIED: &str = "citadel_server_authentication_failure_count";
    /// Callers whose proof could not be checked, because the API server did not answer.
    pub const UNAVAILABLE: &str = "mesh_ca_attestation_unavailable_count";
    /// Requests that were refused for their form or key.
    pub const CSR_INVALID: &str = "citadel_server_csr_parsing_err_count";
    /// Certificates that could not be signed, by our own fault.
    pub const SIGN_FAILED: &str = "citadel_server_csr_sign_err_count";
    /// When our root ends, Unix seconds.
    pub const ROOT_EXPIRY: &str = "citadel_server_root_cert_expiry_timestamp";
    /// When the first certificate of our chain ends, Unix seconds.
    pub const CHAIN_EXPIRY: &str = "citadel_server_cert_chain_expiry_timestamp";
}

/// The service.
#[derive(Debug)]
pub struct Service {
    signing: Signing,
    attestor: Attestor,
}

impl Service {
    /// The service as tonic serves it.
    #[must_use]
    pub fn new(signing: Signing, attestor: Attestor) -> IstioCertificateServiceServer<Self> {
        IstioCertificateServiceServer::new(Self { signing, attestor }).max_decoding_message_size(MAX_MESSAGE)
    }

    async fn attest(&self, request: &Request<IstioCertificateRequest>, from: &str) -> Result<Caller, Status> {
        let authorization = request.metadata().get_all("authorization");
        let authorization: Vec<&[u8]> = authorization.iter().map(|value| value.as_encoded_bytes()).collect();
        let certificate = request.extensions().get::<PeerIdentity>().and_then(|peer| peer.0.as_ref());
        let credentials = Credentials { authorization: &authorization, certificate };
        self.attestor.attest(credentials, SystemTime::now()).await.map_err(|error| match error {
            NotAttested::Denied(denied) => {
                metrics::counter!(counters::DENIED).increment(1);
                tracing::warn!(peer = from, %denied, "caller not attested");
                Status::unauthenticated(denied.to_string())
            }
            NotAttested::Unavailable(why) => {
                metrics::counter!(counters::UNAVAILABLE).increment(1);
                tracing::warn!(peer = from, why, "the proof of a caller cannot be checked now");
                Status::unavailable(why)
            }
        })
    }

    async fn create(
        &self,
        request: &Request<IstioCertificateRequest>,
        from: &str,
    ) -> Result<Vec<String>, Status> {
        let Caller { id, pod } = self.attest(request, from).await?;
        let now = SystemTime::now();
        let invalid = |why: String| {
            metrics::counter!(counters::CSR_INVALID).increment(1);
            tracing::warn!(peer = from, identity = %id, why, "request refused");
            Status::invalid_argument(why)
        };
        let message = request.get_ref();
        let life = match message.validity_duration {
            0 => None,
            seconds => {
                let seconds = u64::try_from(seconds).map_err(|_| invalid("a negative life".to_owned()))?;
                Some(Duration::from_secs(seconds))
            }
        };
        let key = csr::public_key(&message.csr).map_err(|e| invalid(e.to_string()))?;
        let issued = self.signing.load().sign(&id, &key, life, now).map_err(|error| {
            metrics::counter!(counters::SIGN_FAILED).increment(1);
            tracing::error!(identity = %id, %error, "not signed");
            Status::unavailable(error.to_string())
        })?;
        let proof = if request.metadata().contains_key("authorization") { "token" } else { "certificate" };
        let pod = pod.unwrap_or_default();
        let seconds = issued.not_after.duration_since(now).map_or(0, |life| life.as_secs());
        tracing::info!(peer = from, identity = %id, serial = issued.serial, seconds, proof, pod, "signed");
        metrics::counter!(counters::SUCCESS).increment(1);
        Ok(issued.chain)
    }
}

#[tonic::async_trait]
impl IstioCertificateService for Service {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        metrics::counter!(counters::CSR).increment(1);
        let from =
            request.extensions().get::<PeerAddress>().map_or_else(String::new, |peer| peer.0.to_string());
        let cert_chain = self.create(&request, &from).await?;
        Ok(Response::new(IstioCertificateResponse { cert_chain }))
    }
}
