//! One request to one of a route's backends, and again where that is safe and asked for.
//!
//! In: a request, the rule's action. Out: the upstream's answer, or why there is none. Used by sidecars and gateways.
//! Each attempt picks anew, so that it sees the endpoints of now, and avoids those already tried.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{HOST, HeaderValue, SET_COOKIE};
use http::request::Parts;
use http::{Method, Request, Response, Version};
use mesh_proto::model::Protocol as Declared;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::attempt::{Sendable, expired, is_stale, outcome, seen, seen_answer};
use super::{direct, headers, timed};
use crate::cluster::{
    ClusterView, Endpoint, Hashed, Limits, Moment, NoEndpoint, Permit, PickContext, Resource, Seen,
};
use crate::exchange::Exchange;
use crate::http::Body;
use crate::pool::{SendError, Target};
use crate::respond::Failure;
use crate::route::{Backend, Outcome, RetryPolicy, RouteAction};
use crate::telemetry::Flags;
use crate::tls::MeshAlpn;
use crate::worker::targets::Way;
use crate::worker::{Me, Worker};

/// How often a stale connection is replaced for one request, beyond what the policy allows.
const STALE: u32 = 3;

/// Who forwards, and for whom.
pub struct Onward<'a> {
    /// This thread.
    pub worker: &'a Rc<Worker>,
    /// This workload.
    pub me: &'a Me,
    /// The client's address, for hashing.
    pub source: IpAddr,
    /// What the application dialled, where that is known.
    pub dialled: Option<SocketAddr>,
    /// What is told about it.
    pub exchange: &'a mut Exchange,
}

/// The choices of one request.
struct Attempts<'r> {
    backend: &'r Backend,
    retry: &'r RetryPolicy,
    method: Method,
    hashed: Hashed,
    carries: Wanted,
    tried: SmallVec<[Arc<Endpoint>; 2]>,
    /// Retries that the policy granted.
    retries: u32,
    /// Stale connections replaced.
    stale: u32,
    /// The last attempt did not reach anybody.
    unreached: bool,
    /// The name that the request has, where a cluster's own is a wildcard.
    host: Option<HeaderValue>,
    /// Of the cluster, where it has any.
    limits: Option<Arc<Limits>>,
    /// Counts the retry that is under way.
    retrying: Option<Permit>,
    /// A retry was asked for, but too many are under way.
    overflowed: bool,
}

/// What the client's side speaks.
#[derive(Clone, Copy)]
struct Wanted {
    version: Version,
    upgrade: bool,
}

/// What to do after an attempt.
enum Next {
    Done(Result<Response<Body>, Failure>),
    Again,
}

impl Onward<'_> {
    /// Sends `request` where `route` says, within the route's timeout.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn forward(
        &mut self,
        head: Parts,
        body: Body,
        route: &RouteAction,
    ) -> Result<Response<Body>, Failure> {
        let Some(timeout) = route.timeout else {
            return self.attempts(head, body, route).await;
        };
        let deadline = Instant::from_std(self.exchange.started()) + timeout;
        let answer = tokio::time::timeout_at(deadline, self.attempts(head, body, route)).await;
        let mut response = match answer {
            Ok(response) => response?,
            Err(_) => {
                // Whoever was asked last has not answered.
                self.exchange.saw(Seen::TimedOut, deadline - timeout, deadline);
                return Err(Failure::RouteTimeout);
            }
        };
        if response.status() != http::StatusCode::SWITCHING_PROTOCOLS {
            let body = std::mem::take(response.body_mut());
            *response.body_mut() = timed::until(body, deadline);
        }
        Ok(response)
    }

    async fn attempts(
        &mut self,
        head: Parts,
        body: Body,
        route: &RouteAction,
    ) -> Result<Response<Body>, Failure> {
        let backend = self.worker.random(|rng| route.choose_backend(rng)).ok_or(Failure::NoBackend)?;
        let any_name = backend.cluster.name().host().starts_with('*');
        let mut attempts = Attempts {
            backend,
            retry: &route.retry,
            method: head.method.clone(),
            hashed: Hashed::default(),
            carries: Wanted {
                version: head.version,
                upgrade: head.headers.contains_key(http::header::UPGRADE),
            },
            tried: SmallVec::new(),
            retries: 0,
            stale: 0,
            unreached: false,
            host: if any_name { head.headers.get(HOST).cloned() } else { None },
            limits: None,
            retrying: None,
            overflowed: false,
        };
        attempts.hashed = self.hash(backend, &head)?;
        let mut request = Sendable::new(head, body, &route.retry, self.exchange.is_grpc());
        loop {
            let now = Instant::now();
            let target = self.target(&mut attempts, now)?;
            match self.attempt(&target, &mut request, &mut attempts, now).await {
                Next::Done(answer) => {
                    if attempts.overflowed {
                        self.exchange.flag(Flags::UPSTREAM_OVERFLOW);
                    }
                    return answer;
                }
                Next::Again => self.pause(&attempts).await,
            }
        }
    }

    fn hash(&self, backend: &Backend, head: &Parts) -> Result<Hashed, Failure> {
        let view = view_of(backend)?;
        let key = view.policy(backend.subset.as_deref())?.hash_key();
        Ok(key.map_or_else(Hashed::default, |key| {
            self.worker.random(|rng| key.evaluate(head, self.source, rng))
        }))
    }

    /// Chooses an endpoint and how to reach it.
    fn target(&mut self, attempts: &mut Attempts<'_>, now: Instant) -> Result<Rc<Target>, Failure> {
        let backend = attempts.backend;
        let view = view_of(backend)?;
        let subset = backend.subset.as_deref();
        // A key stays with its host, unless that one cannot be reached at all.
        let elsewhere = attempts.unreached || attempts.hashed.hash.is_none();
        let avoid = attempts.retry.ignore_previous_hosts.unwrap_or(elsewhere);
        let context = PickContext {
            hash: attempts.hashed.hash,
            tried: if avoid { &attempts.tried } else { &[] },
            worker: self.worker.index,
            now: Moment::of(now),
        };
        if let (None, Some(limits)) = (&attempts.limits, view.limits(subset)) {
            attempts.limits = Some(limits.clone());
        }
        self.exchange.service(view.service(), || cluster_name(&view, subset));
        let carries = attempts.carries.over(&view, self.exchange.is_grpc());
        let host = attempts.host.as_ref().and_then(|host| host.to_str().ok());
        if view.is_dialled() {
            let to = direct::Dialled { address: self.dialled, host };
            let target = direct::dialled(self.worker, &view, subset, to, carries)?;
            self.exchange.upstream(None, target.address, target.mesh);
            return Ok(Rc::new(target));
        }
        let picked = self.worker.random(|rng| view.pick(subset, &context, rng))?;
        let way = Way { carries, greeting: self.me.greeting.as_ref(), host };
        let target = self.worker.targets.of(&view, subset, picked.endpoint(), &way)?;
        let endpoint = picked.endpoint();
        self.exchange.upstream(Some(&endpoint.party), endpoint.address, target.mesh);
        attempts.tried.push(endpoint.clone());
        self.exchange.hold(Some(picked));
        Ok(target)
    }

    async fn attempt(
        &mut self,
        target: &Target,
        request: &mut Sendable,
        attempts: &mut Attempts<'_>,
        sent: Instant,
    ) -> Next {
        let Some(mut next) = request.take() else {
            return Next::Done(Err(Failure::Bug("an attempt without a request")));
        };
        headers::attempt(next.headers_mut(), attempts.retries + 1);
        match self.send(target, next, attempts.retry.per_try_timeout).await {
            Ok(mut response) => {
                let answer = Outcome::of_response(response.status(), response.headers());
                let ended = Instant::now();
                let took = ended - sent;
                self.exchange.saw(seen_answer(&answer), sent, ended);
                if attempts.grants(&answer, request) {
                    return Next::Again;
                }
                self.exchange.answered(response.status().as_u16(), took);
                headers::answered(response.headers_mut(), took);
                if let Some(cookie) = attempts.hashed.set_cookie.take() {
                    response.headers_mut().append(SET_COOKIE, cookie);
                }
                Next::Done(Ok(response))
            }
            Err(None) => {
                self.exchange.saw(Seen::TimedOut, sent, Instant::now());
                if attempts.grants(&Outcome::AttemptTimeout, request) {
                    return Next::Again;
                }
                Next::Done(Err(Failure::PerTryTimeout))
            }
            Err(Some(mut error)) => {
                request.give_back(&mut error);
                if let Some(seen) = seen(&error.kind).filter(|_| !is_stale(&error.kind, &attempts.method)) {
                    self.exchange.saw(seen, sent, Instant::now());
                }
                let next = attempts.after(error, request);
                if target.mesh { self.blame_our_certificate(next) } else { next }
            }
        }
    }

    /// `Err(None)`: the attempt's own time is up.
    async fn send(
        &self,
        target: &Target,
        request: Request<Body>,
        limit: Option<Duration>,
    ) -> Result<Response<Body>, Option<SendError>> {
        let sending = self.worker.pool.send(target, request);
        match limit {
            None => sending.await.map_err(Some),
            Some(limit) => {
                let answer = tokio::time::timeout(limit, sending).await;
                answer.map_err(|_| None)?.map_err(Some)
            }
        }
    }

    /// A peer that refuses an expired certificate only closes the connection: the reason is on our side.
    fn blame_our_certificate(&self, next: Next) -> Next {
        match next {
            Next::Done(Err(Failure::Send { kind, retried })) => {
                let leaf = self.worker.identity.leaf().not_after;
                let kind = expired(leaf, SystemTime::now()).unwrap_or(kind);
                Next::Done(Err(Failure::Send { kind, retried }))
            }
            next => next,
        }
    }

    async fn pause(&self, attempts: &Attempts<'_>) {
        if attempts.retries > 0 {
            let wait = self.worker.random(|rng| attempts.retry.wait(attempts.retries, rng));
            tokio::time::sleep(wait).await;
        }
    }
}

impl Attempts<'_> {
    /// Whether the policy grants another attempt; counts it.
    fn grants(&mut self, outcome: &Outcome, request: &Sendable) -> bool {
        // The one that has just ended is none any more.
        self.retrying = None;
        let asked =
            self.retries < self.retry.attempts && self.retry.is_retriable(outcome) && request.is_left();
        if !asked {
            return false;
        }
        if let Some(limits) = &self.limits {
            self.retrying = limits.enter(Resource::Retries);
            self.overflowed = self.retrying.is_none();
            if self.overflowed {
                return false;
            }
        }
        self.retries += 1;
        true
    }

    fn after(&mut self, error: SendError, request: &Sendable) -> Next {
        if self.stale < STALE && is_stale(&error.kind, &self.method) && request.is_left() {
            self.stale += 1;
            // The endpoint is not to blame: it may be chosen again.
            self.tried.pop();
            return Next::Again;
        }
        self.unreached = error.kind.is_safe_to_repeat();
        if outcome(&error.kind).is_some_and(|outcome| self.grants(&outcome, request)) {
            return Next::Again;
        }
        Next::Done(Err(Failure::Send { kind: error.kind, retried: self.retries > 0 }))
    }
}

impl Wanted {
    /// The application's protocol is kept, except where the port declares HTTP/2. A server that is not of the mesh need not
    /// know HTTP/2 where its port does not say so, but gRPC is nothing else.
    fn over(self, view: &ClusterView, grpc: bool) -> MeshAlpn {
        let declared = matches!(view.protocol(), Declared::Http2 | Declared::Grpc);
        let kept = self.version == Version::HTTP_2 && (grpc || !view.is_entry());
        if !self.upgrade && (declared || kept) { MeshAlpn::Http2 } else { MeshAlpn::Http1 }
    }
}

/// The cluster of a backend as it is now.
///
/// # Errors
/// When the pilot knows no such cluster.
pub fn view_of(backend: &Backend) -> Result<Arc<ClusterView>, Failure> {
    let absent = || Failure::from(NoEndpoint::ClusterAbsent(backend.cluster.name().clone()));
    backend.cluster.load_full().ok_or_else(absent)
}

/// Istio's name of a cluster in logs.
#[must_use]
pub fn cluster_name(view: &ClusterView, subset: Option<&str>) -> String {
    let name = view.name();
    format!("outbound|{}|{}|{}", name.port(), subset.unwrap_or_default(), name.host())
}
