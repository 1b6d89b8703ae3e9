//! The requests of one inbound connection.
//!
//! In: requests, and what the handshake verified. Out: the application's answers. The application learns who asks from
//! `x-forwarded-client-cert`, which only we write; a peer's facts count only where its certificate says the same.

use std::cell::RefCell;
use std::rc::Rc;

use http::header::HeaderValue;
use http::request::Parts;
use http::{HeaderMap, Request, Response};
use mesh_proto::model::{Protocol as Declared, SpiffeId};

use crate::authorization::Gate;
use crate::authorization::external::Asked;
use crate::authorization::under_way::while_allowed;
use crate::capture::Application;
use crate::drain::Closer;
use crate::exchange::{Ends, Exchange, reply};
use crate::http::{BadRequest, Body, Reply, Service};
use crate::outbound::direct;
use crate::outbound::headers::{self, CLIENT_CERT, UNREACHED};
use crate::outbound::http::{carries, send_direct};
use crate::pool::Target;
use crate::respond::Failure;
use crate::tls::MeshAlpn;
use crate::worker::Worker;
use crate::worker::me::{self, PEER};

/// One connection.
pub struct Inbound {
    worker: Rc<Worker>,
    port: Application,
    declared: Declared,
    ends: RefCell<Ends>,
    peer: Option<Peer>,
    gate: Gate,
    closer: Closer,
    http1: Target,
    http2: Target,
}

/// Who was verified.
pub struct Peer {
    /// Its identity.
    pub id: SpiffeId,
    /// What the application is told.
    pub client_cert: Option<HeaderValue>,
}

impl Inbound {
    /// A connection to `port`.
    #[must_use]
    pub fn new(
        worker: Rc<Worker>,
        port: Application,
        declared: Declared,
        ends: Ends,
        (peer, gate): (Option<Peer>, Gate),
        closer: Closer,
    ) -> Self {
        let http1 = direct::application(&worker.targets, port, MeshAlpn::Http1);
        let http2 = direct::application(&worker.targets, port, MeshAlpn::Http2);
        Self { worker, port, declared, ends: RefCell::new(ends), peer, gate, closer, http1, http2 }
    }

    async fn answer(
        &self,
        mut head: Parts,
        mut body: Body,
        exchange: &mut Exchange,
    ) -> Result<Response<Body>, Failure> {
        // First what was verified: policies see what the application gets.
        self.tell_client_cert(&mut head.headers);
        headers::complete(&self.worker, &mut head.headers, "http");
        if let Some(id) = head.headers.get(&crate::exchange::REQUEST_ID) {
            exchange.request_id(id);
        }
        let asked = self.authorize(&mut head, &mut body, exchange).await?;
        let target = self.target(&head);
        exchange.upstream(None, target.address, false);
        let told = exchange.told();
        let request = Request::from_parts(head, body);
        let answer = std::pin::pin!(send_direct(&self.worker, target, request, exchange));
        let mut answer = while_allowed(told, answer).await?;
        headers::strip_answer(answer.headers_mut());
        asked.to_response(answer.headers_mut());
        Ok(answer)
    }

    /// The place of authorization: nothing reaches the application before it has said yes. What it has looked at is what
    /// goes on.
    async fn authorize(
        &self,
        head: &mut Parts,
        body: &mut Body,
        exchange: &mut Exchange,
    ) -> Result<Asked, Failure> {
        let config = self.worker.store.self_config().ok_or(Failure::NotReady)?;
        if config.external.is_none() {
            self.gate.begin(&config, head)?;
            self.gate.admit(&self.worker, &config, (head, body), exchange)?;
            return Ok(Asked::default());
        }
        let source = self.ends.borrow().source();
        let (asked, config) = self.gate.ask(&self.worker, config, source, (head, body)).await?;
        self.gate.admit(&self.worker, &config, (head, body), exchange)?;
        Ok(asked)
    }

    /// The application's protocol is kept, except where its port declares HTTP/2.
    fn target(&self, head: &Parts) -> &Target {
        let declared = matches!(self.declared, Declared::Http2 | Declared::Grpc);
        let upgrade = head.headers.contains_key(http::header::UPGRADE);
        if carries(head) == MeshAlpn::Http2 || declared && !upgrade { &self.http2 } else { &self.http1 }
    }

    /// Istio's APPEND_FORWARD: what was verified is put behind what a verified peer says, as a gateway says whom it has
    /// verified; of anybody else nothing is believed. (A sidecar takes away what its application says.)
    fn tell_client_cert(&self, headers: &mut HeaderMap) {
        let verified = self.peer.as_ref().and_then(|p| p.client_cert.clone());
        let said = headers.get(CLIENT_CERT).filter(|_| verified.is_some()).cloned();
        match self.peer {
            Some(_) => headers::strip(headers),
            None => headers::strip_outsider(headers),
        }
        let Some(verified) = verified else { return };
        let value = match said {
            Some(said) => HeaderValue::from_bytes(&[said.as_bytes(), b",", verified.as_bytes()].concat()),
            None => Ok(verified),
        };
        // Two values with a comma between are a value.
        if let Ok(value) = value {
            headers.insert(CLIENT_CERT, value);
        }
    }

    /// A mesh peer's first request says which workload it is.
    fn learn(&self, headers: &HeaderMap) {
        let (Some(greeting), Some(peer)) = (headers.get(&PEER), &self.peer) else { return };
        match me::believed(greeting, &peer.id) {
            Some(party) => self.ends.borrow_mut().source = party,
            None => tracing::info!(peer = %peer.id, "a peer's greeting disagrees with its certificate"),
        }
    }
}

impl Service for Inbound {
    async fn call(&self, request: Request<Body>) -> Reply {
        let (head, body) = request.into_parts();
        self.learn(&head.headers);
        let mut exchange = Exchange::new(&self.worker, self.ends.borrow().clone(), &head);
        exchange.cluster(|| format!("inbound|{}||", self.port.port));
        let answer = self.answer(head, body, &mut exchange).await;
        let unreached = matches!(&answer, Err(Failure::Send { kind, .. }) if kind.is_safe_to_repeat())
            && self.peer.is_some();
        // A verified peer's sidecar passes the detail on to its application.
        let mut reply = reply(exchange, answer, self.peer.is_some(), &self.closer);
        if unreached {
            reply.response.headers_mut().insert(UNREACHED, HeaderValue::from_static("1"));
        }
        reply
    }

    fn refused(&self, why: &BadRequest) {
        Exchange::malformed(&self.worker, self.ends.borrow().clone(), *why);
    }
}
