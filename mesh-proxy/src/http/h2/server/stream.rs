//! One request on its stream.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use ::h2::Reason;
use ::h2::server::SendResponse;
use http::{Method, Request, Response, StatusCode, header, response};

use super::Wishes;
use crate::http::body::Body;
use crate::http::h2::message::{self, Incoming, Length};
use crate::http::h2::piece::Piece;
use crate::http::h2::send::{Sending, SendingError};
use crate::http::headers;
use crate::http::interim::Interim;
use crate::http::server::ServerSettings;
use crate::http::service::{BadRequest, End, Reply, Service, Teller, Then, grpc_status};

/// The sending end, shared by the stream's loop and 1xx answers.
type Respond = Rc<RefCell<SendResponse<Piece>>>;

/// Serves one request.
pub(super) async fn serve<S: Service>(
    request: Request<::h2::RecvStream>,
    respond: Respond,
    settings: &ServerSettings,
    service: &S,
    wishes: Rc<Wishes>,
) {
    let (mut parts, stream) = request.into_parts();
    if let Err(why) = message::normalise_request(&mut parts, settings.max_headers) {
        service.refused(&why);
        return refuse(&respond, why);
    }
    let head = parts.method == Method::HEAD;
    let received = Rc::new(std::cell::Cell::new(0));
    let incoming = Incoming::new(stream, &parts.headers, received.clone());
    let body = if incoming.is_end() { Body::empty() } else { Body::h2(Box::new(incoming)) };
    let body = body.with_interim(Some(Interim::h2(respond.clone())));
    let Some(reply) = call(service, Request::from_parts(parts, body), &respond).await else { return };
    let Reply { response, then, record } = reply;
    let response = match then {
        Then::KeepAlive => response,
        Then::Close => {
            wishes.close.set(true);
            response
        }
        // Tunnels over HTTP/2 (RFC 8441, CONNECT) are not spoken: refused where the client can see it.
        Then::Tunnel(_) => status(StatusCode::NOT_IMPLEMENTED),
    };
    let teller = Teller::new(record, received, grpc_status(response.headers()));
    send(response, head, &respond, teller).await;
}

/// Waits for the service; gives up when the client resets the stream.
async fn call<S: Service>(service: &S, request: Request<Body>, respond: &Respond) -> Option<Reply> {
    let mut call = pin!(service.call(request));
    poll_fn(|cx| {
        if let Poll::Ready(reply) = call.as_mut().poll(cx) {
            return Poll::Ready(Some(reply));
        }
        match respond.borrow_mut().poll_reset(cx) {
            Poll::Ready(_) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Sends an answer, and tells how that went.
async fn send(response: Response<Body>, head: bool, respond: &Respond, teller: Teller) {
    let (mut parts, body) = response.into_parts();
    if parts.status.is_informational() {
        parts = status(StatusCode::BAD_GATEWAY).into_parts().0;
    }
    let bodiless = head || parts.status == StatusCode::NO_CONTENT || parts.status == StatusCode::NOT_MODIFIED;
    let end = bodiless || body.is_end();
    let length = length(&parts, bodiless, &body);
    message::clean(&mut parts.headers, length);
    parts.version = http::Version::HTTP_2;
    let stream = match respond.borrow_mut().send_response(Response::from_parts(parts, ()), end) {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(%error, "answer not sent");
            return teller.finish(End::ClientGone);
        }
    };
    if end {
        return teller.finish(End::Complete);
    }
    let mut sending = Told { sending: Sending::new(stream, body), teller };
    let result = poll_fn(|cx| sending.poll(cx)).await;
    sending.teller.finish(match result {
        Ok(()) => End::Complete,
        Err(SendingError::Body(error)) => End::UpstreamFailed(error),
        Err(SendingError::Peer(_) | SendingError::Closed) => End::ClientGone,
    });
}

/// A body on its way out, and who is told about it.
struct Told {
    sending: Sending,
    teller: Teller,
}

impl Told {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendingError>> {
        // Here too, not only where the body is read: what was read already may wait for the client's window.
        if let Poll::Ready(why) = self.teller.poll_cut(cx) {
            self.sending.reset(&why);
            return Poll::Ready(Err(SendingError::Body(why)));
        }
        let result = self.sending.poll(cx);
        self.teller.sent = self.sending.sent;
        self.teller.grpc_status = self.sending.grpc_status.or(self.teller.grpc_status);
        result
    }
}

fn length(parts: &response::Parts, bodiless: bool, body: &Body) -> Length {
    if bodiless {
        return Length::AsIs;
    }
    match body.known_len() {
        // Without content there is often no length either, above all with gRPC: nothing is added.
        Some(0) if !parts.headers.contains_key(header::CONTENT_LENGTH) => Length::AsIs,
        Some(length) => Length::Known(length),
        None => Length::Unknown,
    }
}

fn status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

fn refuse(respond: &Respond, why: BadRequest) {
    let mut response = Response::new(());
    *response.status_mut() = why.status();
    *response.headers_mut() = headers::fresh();
    let mut respond = respond.borrow_mut();
    if respond.send_response(response, true).is_err() {
        respond.send_reset(Reason::PROTOCOL_ERROR);
    }
}
