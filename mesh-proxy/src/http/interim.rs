//! The way back for 1xx answers: from the upstream's codec to the client's, while the request is still being served.

use std::cell::RefCell;
use std::rc::Rc;

use ::h2::server::SendResponse;
use http::{HeaderMap, Response, StatusCode};

use crate::http::h1;
use crate::http::h2::piece::Piece;
use crate::http::headers::HeaderCase;

/// Sends 1xx answers to whoever asked. Travels with the request's body.
#[derive(Clone)]
pub(crate) struct Interim {
    to: To,
    /// The client was told by us to send its body: it is not told again.
    went_on: bool,
}

#[derive(Clone)]
enum To {
    H1(h1::server::InterimWriter),
    H2(Rc<RefCell<SendResponse<Piece>>>),
}

impl Interim {
    /// To an HTTP/1 client.
    pub(crate) fn h1(writer: h1::server::InterimWriter) -> Self {
        Self { to: To::H1(writer), went_on: false }
    }

    /// To an HTTP/2 client.
    pub(crate) fn h2(respond: Rc<RefCell<SendResponse<Piece>>>) -> Self {
        Self { to: To::H2(respond), went_on: false }
    }

    /// Tells the client to send its body: whoever would have told it has not seen the request yet. Once.
    pub(crate) fn go_on(&mut self) {
        self.send(StatusCode::CONTINUE, HeaderMap::new(), &HeaderCase::Lower);
        self.went_on = true;
    }

    /// Sends one. Too late for one is no error: the final head is out.
    pub(crate) fn send(&self, status: StatusCode, headers: HeaderMap, case: &HeaderCase) {
        if self.went_on && status == StatusCode::CONTINUE {
            return;
        }
        match &self.to {
            To::H1(writer) => writer.send(status, &headers, case),
            To::H2(respond) => {
                let mut response = Response::new(());
                *response.status_mut() = status;
                *response.headers_mut() = headers;
                let _ = respond.borrow_mut().send_informational(response);
            }
        }
    }
}
