//! What comes of asking somebody else (ext_authz): what he wants a client to be told, or that he has not answered.
//!
//! In: [`External`]. Out: its verdict, in Envoy's words (`ext_authz_denied`, `ext_authz_error`, UAEX), and the answer.

use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::{Fault, Verdict, known, told, trailers_only};
use crate::http::Body;
use crate::telemetry::Flags;

/// Why a request that somebody else is asked about does not pass.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum External {
    /// He forbids it.
    #[error("denied ({rule})")]
    Denied {
        /// The rule of CUSTOM by which he was asked.
        rule: Arc<str>,
        /// What the client is told.
        denial: Box<Denial>,
    },
    /// He has not answered so that it counts.
    #[error("{why}")]
    NotAnswered {
        /// Who, and why.
        why: String,
        /// The provider's `statusOnError`.
        status: StatusCode,
    },
    /// He cannot be asked.
    #[error("{0}")]
    CannotAsk(String),
    /// A body that has to be shown whole and is longer than what may be shown.
    #[error("the request body is longer than what may be shown")]
    TooLarge,
    /// A body that has to be shown and does not come in time.
    #[error("the request body did not come in time to be shown")]
    TooSlow,
}

impl External {
    /// Whether it is what an answer, or none, has come to; of the request nothing is lost then.
    pub(super) fn is_an_answer(&self) -> bool {
        match self {
            Self::Denied { .. } | Self::NotAnswered { .. } | Self::CannotAsk(_) => true,
            Self::TooLarge | Self::TooSlow => false,
        }
    }

    /// Spaces would end the field in a log.
    pub(super) fn verdict(&self) -> Verdict {
        let (status, details) = match self {
            Self::Denied { rule, denial } => (denial.status, format!("ext_authz_denied{{{rule}}}")),
            Self::NotAnswered { why, status } => (*status, format!("ext_authz_error{{{why}}}")),
            Self::CannotAsk(why) => (StatusCode::FORBIDDEN, format!("ext_authz_error{{{why}}}")),
            Self::TooSlow => {
                let details = "request_overall_timeout{the_request_body_did_not_come_in_time}";
                return known(StatusCode::REQUEST_TIMEOUT, Flags::STREAM_IDLE, details, Fault::Client);
            }
            Self::TooLarge => {
                let details = "request_payload_too_large";
                return known(StatusCode::PAYLOAD_TOO_LARGE, Flags::NONE, details, Fault::Client);
            }
        };
        told(status, Flags::UNAUTHORIZED, details.replace(' ', "_"), Fault::Policy)
    }
}

/// An answer of somebody else's. Its fields say nothing about the length of the message or the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// Never 1xx.
    pub status: StatusCode,
    /// More fields.
    pub headers: HeaderMap,
    /// Content.
    pub body: Bytes,
}

impl Denial {
    /// As the client gets it. Callers of gRPC are told in their way, as Envoy does: the text is the message.
    pub(super) fn response(&self, grpc: bool) -> Response<Body> {
        let mut response = if grpc {
            trailers_only(self.status, &String::from_utf8_lossy(&self.body))
        } else {
            let mut response = Response::new(Body::full(self.body.clone()));
            *response.status_mut() = self.status;
            if !self.body.is_empty() {
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
            }
            response
        };
        let headers = response.headers_mut();
        for name in self.headers.keys().filter(|name| !(grpc && is_of_grpc(name.as_str()))) {
            headers.remove(name);
            for value in self.headers.get_all(name) {
                headers.append(name, value.clone());
            }
        }
        response
    }
}

/// What a caller of gRPC goes by.
fn is_of_grpc(name: &str) -> bool {
    name == "content-type" || name.starts_with("grpc-")
}
