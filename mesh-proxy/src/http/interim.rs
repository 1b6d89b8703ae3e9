//! The way back for 1xx answers: from the upstream's codec to the client's, while the request is still being served.

use std::rc::Rc;

use http::{HeaderMap, StatusCode};

use crate::http::h1;
use crate::http::headers::HeaderCase;

/// Sends 1xx answers to whoever asked. Travels with the request's body.
#[derive(Clone)]
pub(crate) enum Interim {
    /// An HTTP/1 client.
    H1(h1::server::InterimWriter),
    /// Any other.
    #[expect(dead_code, reason = "the HTTP/2 server constructs it")]
    Other(Rc<dyn Fn(StatusCode, HeaderMap)>),
}

impl Interim {
    /// Sends one.
    pub(crate) fn send(&self, status: StatusCode, headers: HeaderMap, case: &HeaderCase) {
        match self {
            Self::H1(writer) => writer.send(status, &headers, case),
            Self::Other(send) => send(status, headers),
        }
    }
}
