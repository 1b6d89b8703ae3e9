//! `istio.v1.auth.IstioCertificateService`: the table of contents of a call.
//!
//! Who is calling, whether it may, for which key, how long: and the certificate. Each end of that is counted and audited.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_proto::runtime::grpc::{PeerAddress, PeerIdentity};
use mesh_proto::wire::istio::v1::auth::istio_certificate_service_server::{
    IstioCertificateService, IstioCertificateServiceServer,
};
use mesh_proto::wire::istio::v1::auth::{IstioCertificateRequest, IstioCertificateResponse};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::attest::{Attestor, Caller, Credentials, NotAttested};
use crate::audit::Asked;
use crate::authority::{Authority, Issued, hex};
use crate::csr;
use crate::keeper::Keeper;
use crate::keeper::told::sha256;
use crate::limit::{Limiter, Rate, TooMany};

/// The largest message that is read: a request with room for metadata.
const MAX_MESSAGE: usize = 64 << 10;

/// Names of the counters (Istio's where Istio has one).
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
    /// Callers whose identity is refused by name.
    pub const TAINTED: &str = "mesh_ca_tainted_count";
    /// Callers that had too many certificates of late.
    pub const LIMITED: &str = "mesh_ca_rate_limited_count";
    /// Lives that were cut to the longest allowed, or raised to the shortest.
    pub const CLAMPED: &str = "mesh_ca_ttl_clamped_count";
    /// When our root ends, Unix seconds.
    pub const ROOT_EXPIRY: &str = "citadel_server_root_cert_expiry_timestamp";
    /// When the first certificate of our chain ends, Unix seconds.
    pub const CHAIN_EXPIRY: &str = "citadel_server_cert_chain_expiry_timestamp";
    /// All that only grow.
    pub const ALL: [&str; 9] =
        [CSR, SUCCESS, DENIED, UNAVAILABLE, CSR_INVALID, SIGN_FAILED, TAINTED, LIMITED, CLAMPED];
}

/// The service.
#[derive(Debug)]
pub struct Service {
    keeper: Arc<Keeper>,
    attestor: Attestor,
    limiter: Limiter,
}

/// A refusal: the counter that counts it, and the answer.
struct Refusal(&'static str, Status);

impl Service {
    /// The service as tonic serves it.
    #[must_use]
    pub fn new(keeper: Arc<Keeper>, attestor: Attestor, rate: Rate) -> IstioCertificateServiceServer<Self> {
        let service = Self { keeper, attestor, limiter: Limiter::new(rate) };
        IstioCertificateServiceServer::new(service).max_decoding_message_size(MAX_MESSAGE)
    }

    async fn attest(&self, request: &Request<IstioCertificateRequest>) -> Result<Caller, Refusal> {
        let authorization = request.metadata().get_all("authorization");
        let authorization: Vec<&[u8]> = authorization.iter().map(|value| value.as_encoded_bytes()).collect();
        let certificate = request.extensions().get::<PeerIdentity>().and_then(|peer| peer.0.as_ref());
        let credentials = Credentials { authorization: &authorization, certificate };
        self.attestor.attest(credentials, SystemTime::now()).await.map_err(|error| match error {
            NotAttested::Denied(denied) => {
                Refusal(counters::DENIED, Status::unauthenticated(denied.to_string()))
            }
            NotAttested::Unavailable(why) => Refusal(counters::UNAVAILABLE, Status::unavailable(why)),
        })
    }

    /// Whether this caller may have a certificate now.
    fn permit(&self, caller: &Caller) -> Result<(), Refusal> {
        let Caller { id, .. } = caller;
        if self.keeper.is_outdated() {
            let why =
                "a newer authority has taken over, and whom it refuses is not known here: try again there";
            return Err(Refusal(counters::SIGN_FAILED, Status::unavailable(why)));
        }
        if self.keeper.told().borrow().is_tainted(id) {
            let why = format!("{id} is tainted: it gets no certificates");
            return Err(Refusal(counters::TAINTED, Status::permission_denied(why)));
        }
        self.limiter.take(id, Instant::now()).map_err(|TooMany(wait)| {
            let seconds = wait.as_secs() + 1;
            let why = format!("{id} has asked for too many certificates: try again in {seconds} s");
            Refusal(counters::LIMITED, Status::resource_exhausted(why))
        })
    }

    /// How long the certificate lives.
    async fn life(&self, authority: &Arc<Authority>, asked: i64) -> Result<Duration, Refusal> {
        let asked = match asked {
            0 => None,
            seconds => {
                let invalid = |_| Status::invalid_argument("a negative life");
                let seconds = u64::try_from(seconds).map_err(invalid);
                Some(Duration::from_secs(seconds.map_err(|status| Refusal(counters::CSR_INVALID, status))?))
            }
        };
        let life = authority.life(asked);
        if asked.is_some_and(|asked| asked != life) {
            metrics::counter!(counters::CLAMPED).increment(1);
        }
        let allowed = self.keeper.allow(life).await;
        // What is remembered is remembered of the root that signs.
        let same = Arc::ptr_eq(authority, &self.keeper.signing().load());
        allowed.ok().filter(|_| same).ok_or_else(|| {
            Refusal(counters::SIGN_FAILED, Status::unavailable("another root takes over: try again"))
        })
    }

    async fn create(
        &self,
        request: &Request<IstioCertificateRequest>,
        caller: &Caller,
        now: SystemTime,
    ) -> Result<(Issued, String), Refusal> {
        self.permit(caller)?;
        let message = request.get_ref();
        let invalid = |why: String| Refusal(counters::CSR_INVALID, Status::invalid_argument(why));
        let key = csr::public_key(&message.csr).map_err(|e| invalid(e.to_string()))?;
        let authority = self.keeper.signing().load();
        let life = self.life(&authority, message.validity_duration).await?;
        let issued = authority.sign(&caller.id, &key, Some(life), now);
        let issued =
            issued.map_err(|e| Refusal(counters::SIGN_FAILED, Status::unavailable(e.to_string())))?;
        let root = authority.root_certificates().first().map(|root| hex(&sha256(root)));
        Ok((issued, root.unwrap_or_default()))
    }
}

#[tonic::async_trait]
impl IstioCertificateService for Service {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        metrics::counter!(counters::CSR).increment(1);
        let peer = request.extensions().get::<PeerAddress>().map(|peer| peer.0.to_string());
        let token = request.metadata().contains_key("authorization");
        let certificate = request.extensions().get::<PeerIdentity>().is_some_and(|peer| peer.0.is_some());
        let mut asked = Asked::from(peer.as_deref().unwrap_or_default(), token, certificate);
        let refuse = |asked: &Asked<'_>, Refusal(counter, status): Refusal| {
            metrics::counter!(counter).increment(1);
            asked.refused(status.code(), status.message());
            status
        };
        let caller = self.attest(&request).await.map_err(|refusal| refuse(&asked, refusal))?;
        asked.identity = Some(&caller.id);
        asked.pod = caller.pod.as_deref().unwrap_or_default();
        let now = SystemTime::now();
        let created = self.create(&request, &caller, now).await;
        let (issued, root) = created.map_err(|refusal| refuse(&asked, refusal))?;
        asked.issued(&issued, &root, now);
        metrics::counter!(counters::SUCCESS).increment(1);
        Ok(Response::new(IstioCertificateResponse { cert_chain: issued.chain }))
    }
}
