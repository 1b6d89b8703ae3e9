//! A gateway: requests from outside of the mesh, routed by port and host.
//!
//! In: connections to a listener's port. Out: answers by the same route and forwarding code as a sidecar's. Nothing that an
//! outsider sends makes this proxy ask the pilot.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Request, Response};
use tokio::net::TcpStream;

use crate::detect::{First, detect_until};
use crate::drain::Closer;
use crate::exchange::{Ends, Exchange, reply};
use crate::http::{BadRequest, Body, Protocol, Reply, Service, serve_connection};
use crate::io::Io;
use crate::outbound::forward::Onward;
use crate::outbound::headers;
use crate::respond::Failure;
use crate::route::Action;
use crate::store::VirtualHost;
use crate::telemetry::{self, Party, Reporter};
use crate::worker::{Me, Worker};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const EXTERNAL: HeaderName = HeaderName::from_static("x-envoy-external-address");

/// How long a client may be silent before its first request.
const SILENCE: Duration = Duration::from_secs(60);

/// One connection to a gateway.
struct Gateway {
    worker: Rc<Worker>,
    port: u16,
    ends: Ends,
    closer: Closer,
    known: RefCell<Option<Rc<Known>>>,
}

/// What the last request's host came to.
struct Known {
    host: Option<HeaderValue>,
    generation: u64,
    virtual_host: Arc<VirtualHost>,
    me: Rc<Me>,
}

/// Serves one connection to the listener of `port` (as the Gateway says it).
pub async fn serve(worker: Rc<Worker>, stream: TcpStream, remote: SocketAddr, port: u16) {
    let Ok(me) = worker.me() else { return };
    let (closer, watch) = worker.inbound.for_connection();
    let _live = watch.enter();
    let first = detect_until(&stream, SILENCE, &watch, worker.settings.drain_linger).await;
    let protocol = match first {
        Ok(Some(First::Http2)) => Protocol::Http2,
        Ok(Some(First::Http1 | First::Other | First::Tls)) => Protocol::Http1,
        Ok(None | Some(First::Silent | First::Closed)) | Err(_) => return,
    };
    let ends = Ends {
        reporter: Reporter::Source,
        source: me.party.clone(),
        destination: Party::unknown(),
        service: Arc::new(telemetry::Service::named("BlackHoleCluster")),
        mtls: false,
        local: stream.local_addr().ok(),
        remote: Some(remote),
        server_name: Rc::from(""),
    };
    let service = Rc::new(Gateway { worker: worker.clone(), port, ends, closer, known: RefCell::default() });
    serve_connection(Io::Plain(stream), Bytes::new(), protocol, &worker.settings, service, watch).await;
}

impl Gateway {
    async fn answer(
        &self,
        mut head: Parts,
        body: Body,
        exchange: &mut Exchange,
    ) -> Result<Response<Body>, Failure> {
        headers::strip_outsider(&mut head.headers);
        self.tell_client(&mut head.headers);
        headers::complete(&self.worker, &mut head.headers, "http");
        if let Some(id) = head.headers.get(&crate::exchange::REQUEST_ID) {
            exchange.request_id(id);
        }
        let known = self.find(&head)?;
        let rule = known.virtual_host.table.find(&head).ok_or(Failure::NoRoute)?;
        exchange.route(&rule.name);
        match &*rule.action {
            Action::Respond(direct) => {
                exchange.direct(direct.status.as_u16());
                let mut response = Response::new(Body::full(direct.body.clone()));
                *response.status_mut() = direct.status;
                Ok(response)
            }
            Action::Route(route) => {
                let source = self.ends.source_ip();
                let mut onward = Onward { worker: &self.worker, me: &known.me, source, exchange };
                onward.forward(head, body, route).await
            }
        }
    }

    /// The virtual host of a request, from memory where the host is the same and nothing has changed.
    fn find(&self, head: &Parts) -> Result<Rc<Known>, Failure> {
        let host = head.headers.get(HOST);
        let generation = self.worker.store.generation();
        if let Some(known) = &*self.known.borrow()
            && known.generation == generation
            && known.host.as_ref() == host
        {
            return Ok(known.clone());
        }
        let listeners = self.worker.store.listeners();
        let listener = listeners.iter().find(|l| l.port == self.port).ok_or(Failure::NoRoute)?;
        let name = host.and_then(|h| h.to_str().ok()).unwrap_or_default();
        let virtual_host = listener.find(name).ok_or(Failure::NoRoute)?.clone();
        let me = self.worker.me()?;
        let known = Rc::new(Known { host: host.cloned(), generation, virtual_host, me });
        *self.known.borrow_mut() = Some(known.clone());
        Ok(known)
    }

    /// Istio's edge: the client's address is appended, the scheme is what was spoken here.
    fn tell_client(&self, headers: &mut HeaderMap) {
        let address = self.ends.source_ip().to_string();
        let mut all = Vec::new();
        for before in headers.get_all(&FORWARDED_FOR) {
            all.extend_from_slice(before.as_bytes());
            all.push(b',');
        }
        all.extend_from_slice(address.as_bytes());
        if let (Ok(all), Ok(own)) = (HeaderValue::from_bytes(&all), HeaderValue::from_str(&address)) {
            headers.insert(FORWARDED_FOR, all);
            headers.insert(EXTERNAL, own);
        }
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
}

impl Service for Gateway {
    async fn call(&self, request: Request<Body>) -> Reply {
        let (head, body) = request.into_parts();
        let mut exchange = Exchange::new(&self.worker, self.ends.clone(), &head);
        let answer = self.answer(head, body, &mut exchange).await;
        reply(exchange, answer, false, &self.closer)
    }

    fn refused(&self, why: &BadRequest) {
        Exchange::malformed(&self.worker, self.ends.clone(), *why);
    }
}
