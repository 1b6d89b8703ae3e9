//! `security.istio.io` RequestAuthentication.

use std::time::Duration as StdDuration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::meta::{ObjectMeta, WorkloadSelector};
use super::target_ref::{TargetRef, Whom};
use super::values::Duration;

strict! {
    /// Which tokens are valid at a workload. It demands none: that is an AuthorizationPolicy's affair.
    pub struct RequestAuthentication {
        /// Checked when the kind is chosen.
        pub api_version: String,
        /// Checked when the kind is chosen.
        pub kind: String,
        /// Name, namespace, age.
        pub metadata: ObjectMeta,
        /// Issuers and where their tokens are.
        pub spec: RequestAuthenticationSpec,
        /// Written by a control plane; not read.
        pub status: Value,
    }

    /// What a RequestAuthentication says.
    pub struct RequestAuthenticationSpec {
        /// Absent: the namespace; the whole mesh in the root namespace.
        pub selector: Option<WorkloadSelector>,
        /// A gateway or a service, in place of a selector.
        pub target_ref: Option<TargetRef>,
        /// Gateways and services, in place of a selector.
        pub target_refs: Vec<TargetRef>,
        /// Issuers.
        pub jwt_rules: Vec<JwtRule>,
    }

    /// One issuer.
    pub struct JwtRule {
        /// The `iss` of its tokens.
        pub issuer: String,
        /// One of them must be in a token's `aud`; absent: any.
        pub audiences: Vec<String>,
        /// Where its keys are fetched; absent, with `jwks` absent too: what its discovery document says.
        pub jwks_uri: Option<String>,
        /// Its keys.
        pub jwks: Option<String>,
        /// Fields that have a token; absent, with the two below absent too: `Authorization: Bearer` and `access_token`.
        pub from_headers: Vec<JwtHeader>,
        /// Parameters of the query that have a token.
        pub from_params: Vec<String>,
        /// Cookies that have a token.
        pub from_cookies: Vec<String>,
        /// The field that tells the application what a token says, in base64url.
        pub output_payload_to_header: Option<String>,
        /// Fields that tell the application single claims.
        pub output_claim_to_headers: Vec<ClaimToHeader>,
        /// The application gets the token.
        pub forward_original_token: Option<bool>,
        /// Of fetching keys.
        pub timeout: Option<Duration>,
        /// Claims that are lists with spaces between.
        pub space_delimited_claims: Vec<String>,
    }

    /// A field with a token.
    pub struct JwtHeader {
        /// Its name.
        pub name: String,
        /// What stands before the token, as `Bearer ` with its space.
        pub prefix: Option<String>,
    }

    /// A claim that the application is told.
    pub struct ClaimToHeader {
        /// The field.
        pub header: String,
        /// The claim.
        pub claim: String,
    }
}

impl JwtRule {
    /// More than that is not waited for a fetch.
    pub const MAX_TIMEOUT: StdDuration = StdDuration::from_secs(30);

    /// How long a fetch of its keys may take: Istio's 5 s unless it says something, at most [`Self::MAX_TIMEOUT`].
    #[must_use]
    pub fn fetch_timeout(&self) -> StdDuration {
        self.timeout.map_or(StdDuration::from_secs(5), |timeout| timeout.0.min(Self::MAX_TIMEOUT))
    }
}

impl RequestAuthenticationSpec {
    /// Whom it is for.
    #[must_use]
    pub fn whom(&self) -> Whom<'_> {
        Whom::new(self.selector.as_ref(), self.target_ref.as_ref(), &self.target_refs)
    }
}
