//! The way back for 1xx answers: from the upstream's codec to the client's, while the request is still being served.

use std::cell::RefCell;
use std::rc::Rc;

use ::h2::server::SendResponse;
use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};

use crate::http::h1;
use crate::http::headers::HeaderCase;

/// Sends 1xx answers to whoever asked. Travels with the request's body.
#[derive(Clone)]
pub(crate) enum Interim {
    /// An HTTP/1 client.
    H1(h1::server::InterimWriter),
    /// An HTTP/2 client.
    H2(Rc<RefCell<SendResponse<Bytes>>>),
}

impl Interim {
    /// Sends one. Too late for one is no error: the final head is out.
    pub(crate) fn send(&self, status: StatusCode, headers: HeaderMap, case: &HeaderCase) {
        match self {
            Self::H1(writer) => writer.send(status, &headers, case),
            Self::H2(respond) => {
                let mut response = Response::new(());
                *response.status_mut() = status;
                *response.headers_mut() = headers;
                let _ = respond.borrow_mut().send_informational(response);
            }
        }
    }
}
