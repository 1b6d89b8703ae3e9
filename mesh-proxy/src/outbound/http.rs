//! The requests of one connection from the application.
//!
//! In: requests on a VIP listener, the HTTP proxy port, or inside a CONNECT tunnel. Out: their answers. What a host name
//! came to is remembered per connection, until the store says that names may have other answers. Routes may look at claims of
//! a request's token ([`Outbound::claims`]).

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::SystemTime;

use http::header::{HOST, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response};

use super::direct;
use super::forward::Onward;
use super::goal::{self, Asked, Goal};
use super::headers;
use crate::destination::Traffic;
use crate::drain::{Closer, DrainWatch};
use crate::exchange::{Ends, Exchange, reply};
use crate::http::{BadRequest, Body, Reply, Service, path};
use crate::pool::Target;
use crate::respond::Failure;
use crate::route::{Action, VerifiedClaims};
use crate::telemetry;
use crate::tls::MeshAlpn;
use crate::worker::{Me, Worker};

/// Where the connection came in.
#[derive(Clone)]
pub enum Entry {
    /// A service's own listener; the VIP and port for which it stands.
    Vip(SocketAddr),
    /// The HTTP proxy port.
    Proxy,
    /// Inside a CONNECT tunnel: the goal was named there.
    Tunnel(Goal),
}

/// One connection.
pub struct Outbound {
    /// This thread.
    pub worker: Rc<Worker>,
    /// Where it came in.
    pub entry: Entry,
    /// What all its requests share.
    pub ends: Ends,
    /// Ends it.
    pub closer: Closer,
    /// Ends it, and everything else.
    pub watch: DrainWatch,
    known: RefCell<Option<Rc<Known>>>,
}

/// What the last request's host came to.
struct Known {
    host: Option<HeaderValue>,
    generation: u64,
    goal: Goal,
    me: Rc<Me>,
}

impl Outbound {
    /// A connection that came in at `entry`.
    #[must_use]
    pub fn new(worker: Rc<Worker>, entry: Entry, ends: Ends, drain: (Closer, DrainWatch)) -> Self {
        let (closer, watch) = drain;
        Self { worker, entry, ends, closer, watch, known: RefCell::new(None) }
    }

    async fn answer(
        &self,
        mut head: Parts,
        body: Body,
        exchange: &mut Exchange,
    ) -> Result<Response<Body>, Failure> {
        headers::strip(&mut head.headers);
        headers::complete(&self.worker, &mut head.headers, "http");
        if let Some(id) = head.headers.get(&crate::exchange::REQUEST_ID) {
            exchange.request_id(id);
        }
        let known = self.find(&head).await?;
        path::normalise(&mut head.uri, known.me.config.path_normalization)?;
        match &known.goal {
            Goal::Destination(_, cell) => {
                let destination = cell.load_full().ok_or(Failure::NotReady)?;
                let (action, name) = {
                    let claims = || self.claims(&head, &known.me);
                    let rule = destination.http.find_with(&head, claims).ok_or(Failure::NoRoute)?;
                    (rule.action.clone(), rule.name.clone())
                };
                exchange.route(&name);
                match &*action {
                    Action::Respond(direct) => {
                        exchange.direct(direct.status.as_u16());
                        let mut response = Response::new(Body::full(direct.body.clone()));
                        *response.status_mut() = direct.status;
                        Ok(response)
                    }
                    Action::Route(route) => {
                        let source = self.ends.source_ip();
                        let (worker, dialled) = (&self.worker, self.dialled());
                        let mut onward = Onward { worker, me: &known.me, source, dialled, exchange };
                        onward.forward(head, body, route).await
                    }
                }
            }
            other => {
                let target = self.direct(other, &head, &known.me, exchange)?;
                send_direct(&self.worker, &target, Request::from_parts(head, body), exchange).await
            }
        }
    }

    /// What the token of the application's request says, where it is one that this workload itself would take: of no other issuer
    /// it is known whether he may be believed. (Istio knows claims at gateways only.) The request goes on as it is, also with a
    /// token that is not valid: whoever gets it refuses it.
    fn claims(&self, head: &Parts, me: &Me) -> Option<VerifiedClaims> {
        me.config.jwt_rules.claims(head, &mut self.worker.tokens.borrow_mut(), SystemTime::now())
    }

    /// What the application dialled.
    fn dialled(&self) -> Option<SocketAddr> {
        match self.entry {
            Entry::Vip(at) => Some(at),
            Entry::Proxy | Entry::Tunnel(_) => None,
        }
    }

    /// The goal of a request, from memory where the host is the same and nothing has changed.
    async fn find(&self, head: &Parts) -> Result<Rc<Known>, Failure> {
        let host = head.headers.get(HOST);
        let generation = self.worker.store.generation();
        if let Some(known) = &*self.known.borrow()
            && known.generation == generation
            && known.host.as_ref() == host
        {
            return Ok(known.clone());
        }
        let goal = match &self.entry {
            Entry::Tunnel(goal) => goal.clone(),
            Entry::Vip(vip) => self.ask(Some(*vip), host).await?,
            Entry::Proxy => self.ask(None, host).await?,
        };
        let known = Rc::new(Known { host: host.cloned(), generation, goal, me: self.worker.me()? });
        *self.known.borrow_mut() = Some(known.clone());
        Ok(known)
    }

    async fn ask(&self, vip: Option<SocketAddr>, host: Option<&HeaderValue>) -> Result<Goal, Failure> {
        let host = host.and_then(|h| h.to_str().ok());
        goal::find(&self.worker, Asked { vip, host, traffic: Traffic::Http }).await
    }

    /// The target of a goal that has no routes.
    fn direct(&self, goal: &Goal, head: &Parts, me: &Me, exchange: &mut Exchange) -> Result<Target, Failure> {
        let carries = carries(head);
        let targets = &self.worker.targets;
        let target = match goal {
            Goal::Workload(address, workload, service) => {
                let greeting = me.greeting.as_ref();
                let target =
                    direct::workload(targets, *address, workload, service.as_ref(), carries, greeting)?;
                let identity = workload.identity.as_ref();
                let party = telemetry::Party::new(Some(&workload.facts), identity);
                exchange.upstream(Some(&party.into()), *address, target.mesh);
                target
            }
            Goal::Own(port) => direct::application(targets, *port, carries),
            Goal::Address(address) => {
                let service = telemetry::Service::named("PassthroughCluster");
                exchange.service(&service.into(), || "PassthroughCluster".to_owned());
                direct::outside(targets, *address, carries)
            }
            Goal::Destination(..) => return Err(Failure::Bug("a destination has routes")),
        };
        exchange.upstream(None, target.address, target.mesh);
        Ok(target)
    }
}

/// What an untouched protocol means for the connection onward.
#[must_use]
pub fn carries(head: &Parts) -> MeshAlpn {
    let upgrade = head.headers.contains_key(http::header::UPGRADE);
    if head.version == http::Version::HTTP_2 && !upgrade { MeshAlpn::Http2 } else { MeshAlpn::Http1 }
}

/// Sends to one address; a connection that had gone stale is replaced, nothing else is repeated.
///
/// # Errors
/// Why there is no answer.
pub async fn send_direct(
    worker: &Rc<Worker>,
    target: &Target,
    request: Request<Body>,
    exchange: &mut Exchange,
) -> Result<Response<Body>, Failure> {
    const STALE: usize = 3;
    let method = request.method().clone();
    let mut request = Some(request);
    let mut replaced = 0;
    loop {
        let next = request.take().ok_or(Failure::Bug("an attempt without a request"))?;
        let sent = std::time::Instant::now();
        match worker.pool.send(target, next).await {
            Ok(mut response) => {
                let took = sent.elapsed();
                exchange.answered(response.status().as_u16(), took);
                headers::answered(response.headers_mut(), took);
                return Ok(response);
            }
            Err(error) => {
                let again = replaced < STALE && super::attempt::is_stale(&error.kind, &method);
                match error.request {
                    Some(given_back) if again => request = Some(*given_back),
                    _ => return Err(Failure::Send { kind: error.kind, retried: false }),
                }
                replaced += 1;
            }
        }
    }
}

impl Service for Outbound {
    async fn call(&self, request: Request<Body>) -> Reply {
        let (head, body) = request.into_parts();
        let mut exchange = Exchange::new(&self.worker, self.ends.clone(), &head);
        if head.method == Method::CONNECT {
            return super::connect::connect(self, &head, exchange).await;
        }
        let answer = self.answer(head, body, &mut exchange).await;
        reply(exchange, answer, true, &self.closer)
    }

    fn refused(&self, why: &BadRequest) {
        Exchange::malformed(&self.worker, self.ends.clone(), *why);
    }
}
