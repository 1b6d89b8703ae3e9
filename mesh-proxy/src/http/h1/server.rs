//! The server's side of an HTTP/1 connection: read a head, call the service, write its answer, again. One task, no channel;
//! the request's body and 1xx answers go through the [`core`] that loop and body share.

use std::future::poll_fn;
use std::pin::pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Method, Request, Version};

pub mod core;
pub mod reply;

pub use self::core::{InterimWriter, RequestBody};

use self::core::{Core, Shared};
use crate::drain::DrainWatch;
use crate::http::body::{Body, Frame};
use crate::http::draining::Draining;
use crate::http::h1::decode::Decoder;
use crate::http::h1::head::{self, Framing, RequestHead};
use crate::http::h1::scan::Scan;
use crate::http::headers;
use crate::http::interim::Interim;
use crate::http::server::ServerSettings;
use crate::http::service::{BadRequest, Reply, Service};
use crate::io::Io;

/// Serves a connection until it ends.
pub async fn serve<S: Service>(
    io: Io,
    first: Bytes,
    settings: &ServerSettings,
    service: &S,
    drain: &DrainWatch,
) {
    let core = Core::shared(io, first, settings);
    let mut draining = Draining::new(drain);
    let mut scan = Scan::default();
    loop {
        let next = poll_fn(|cx| core.borrow_mut().poll_next(cx, &mut scan, settings, &mut draining));
        let head = match next.await {
            Next::Head(head) => head,
            Next::End => return core::close(&core, false).await,
            Next::Gone => return,
            Next::Refuse(why) => {
                service.refused(&why);
                return reply::refuse(&core, why).await;
            }
        };
        scan.reset();
        let exchange = reply::Exchange {
            head: head.method == Method::HEAD,
            connect: head.method == Method::CONNECT,
            version: head.version,
            keep_alive: head.keep_alive,
            expects_continue: head.expects_continue,
            upgrade: head.upgrade,
        };
        let request = match begin(&core, head) {
            Ok(request) => request,
            Err(why) => {
                service.refused(&why);
                return reply::refuse(&core, why).await;
            }
        };
        let Some(reply) = call(&core, service, request).await else { return };
        if !reply::send(&core, reply, &exchange, settings, drain).await {
            return;
        }
    }
}

/// What comes next on a connection.
#[expect(clippy::large_enum_variant, reason = "it is moved once; a box would be an allocation per request")]
pub(super) enum Next {
    /// A request.
    Head(RequestHead),
    /// Nothing: it may be closed.
    End,
    /// The client closed it, or it failed.
    Gone,
    /// Something that is answered with an error and closed.
    Refuse(BadRequest),
}

/// Makes the request that the service sees. A body that is there already is handed over whole.
fn begin(core: &Shared, head: RequestHead) -> Result<Request<Body>, BadRequest> {
    let mut inner = core.borrow_mut();
    inner.exchange += 1;
    inner.received.set(0);
    inner.ready.clear();
    inner.interim_allowed = head.version == Version::HTTP_11;
    inner.continued = false;
    let body = match head.framing {
        Framing::Length(length) if length <= inner.incoming.bytes().len() as u64 => {
            inner.received.set(length);
            // It is no longer than a slice in memory.
            Body::full(inner.incoming.bytes_mut().split_to(length as usize))
        }
        Framing::None => Body::empty(),
        framing => {
            inner.decoder = Decoder::new(framing);
            if framing == Framing::Chunked && inner.decode_ahead()? {
                match inner.ready.pop_front() {
                    Some(Frame::Data(data)) => Body::full(data),
                    _ => Body::empty(),
                }
            } else {
                inner.body_alive = true;
                Body::request(RequestBody::new(core.clone(), inner.exchange))
            }
        }
    };
    let interim =
        inner.interim_allowed.then(|| Interim::h1(InterimWriter::new(core.clone(), inner.exchange)));
    drop(inner);
    let mut request = Request::new(body.with_case(head.case).with_interim(interim));
    *request.method_mut() = head.method;
    *request.uri_mut() = head.uri;
    *request.version_mut() = head.version;
    *request.headers_mut() = head.headers;
    Ok(request)
}

/// Waits for the service, forwards 1xx, and gives up when the client goes away.
async fn call<S: Service>(core: &Shared, service: &S, request: Request<Body>) -> Option<Reply> {
    let mut call = pin!(service.call(request));
    poll_fn(|cx| {
        if let Poll::Ready(reply) = call.as_mut().poll(cx) {
            return Poll::Ready(Some(reply));
        }
        if core.borrow_mut().poll_waiting(cx).is_ready() { Poll::Ready(None) } else { Poll::Pending }
    })
    .await
}

impl Core {
    /// The next head; waits for it, bounded in time and size.
    pub(super) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        scan: &mut Scan,
        settings: &ServerSettings,
        draining: &mut Draining<'_>,
    ) -> Poll<Next> {
        loop {
            if draining.is_revoked() {
                return Poll::Ready(Next::End);
            }
            if scan.ends().is_empty() && self.incoming.bytes().starts_with(b"\r\n") && !self.skipped_line {
                // RFC 9112 §2.2: one empty line before a request line is ignored.
                bytes::Buf::advance(self.incoming.bytes_mut(), 2);
                self.skipped_line = true;
                scan.reset();
            }
            match scan.find(self.incoming.bytes(), settings.max_head, settings.max_headers + 1) {
                Err(why) => return Poll::Ready(Next::Refuse(why)),
                Ok(Some(length)) => return Poll::Ready(self.take_head(length, scan)),
                Ok(None) => {}
            }
            let started = !self.incoming.bytes().is_empty();
            match self.incoming.poll_read(self.io.as_mut().expect("not taken before a tunnel"), cx) {
                Poll::Ready(Ok(n)) if n > 0 => {
                    if !started {
                        self.read_deadline.clear();
                        self.deadline_is_idle = false;
                    }
                }
                Poll::Ready(_) => return Poll::Ready(Next::Gone),
                Poll::Pending => return self.poll_idle(cx, started, settings, draining),
            }
        }
    }

    fn take_head(&mut self, length: usize, scan: &Scan) -> Next {
        self.read_deadline.clear();
        self.deadline_is_idle = false;
        self.skipped_line = false;
        let bytes = self.incoming.bytes_mut().split_to(length).freeze();
        match head::parse_request(&bytes, scan.ends(), headers::fresh()) {
            Ok(head) => Next::Head(head),
            Err(why) => Next::Refuse(why),
        }
    }

    /// Nothing to read: idle, or in the middle of a head.
    fn poll_idle(
        &mut self,
        cx: &mut Context<'_>,
        started: bool,
        settings: &ServerSettings,
        draining: &mut Draining<'_>,
    ) -> Poll<Next> {
        if !started {
            self.incoming.rest();
            self.outgoing.rest();
            if draining.poll(cx) && !self.lingering {
                if draining.is_revoked() {
                    return Poll::Ready(Next::End);
                }
                // A request may be on its way: it is still served, and told to be the last.
                self.lingering = true;
                self.read_deadline.set(settings.drain_linger);
                self.deadline_is_idle = true;
            }
        }
        if !self.read_deadline.is_set() {
            self.deadline_is_idle = !started;
            self.read_deadline.set(if started { settings.header_timeout } else { settings.idle_timeout });
        }
        if self.read_deadline.poll_expired(cx).is_pending() {
            return Poll::Pending;
        }
        Poll::Ready(if self.deadline_is_idle { Next::End } else { Next::Refuse(BadRequest::Timeout) })
    }
}
