//! What may be sent again, and when (design §3.3 "Safe to repeat").
//!
//! In: a request, its retry policy, what came of an attempt. Out: the request for another attempt, or none.

use std::time::SystemTime;

use http::request::Parts;
use http::{Method, Request};

use crate::cluster::Seen;
use crate::http::{Body, Replayable, Sent};
use crate::pool::{SendError, SendErrorKind};
use crate::route::{Outcome, RetryOn, RetryPolicy};

/// A longer body is sent once.
const REPLAY: usize = 64 << 10;

/// A request that may be needed more than once.
#[expect(
    clippy::large_enum_variant,
    reason = "the large one is the usual one, and a box would cost each request"
)]
pub enum Sendable {
    /// No copy is kept: it is there again only when an attempt gives it back untouched.
    Once(Option<Request<Body>>),
    /// The head is kept, and the body as long as it is short; without one, where the head is to be once it is written.
    Kept(Box<Parts>, Result<Replayable, Option<Sent>>),
}

impl Sendable {
    /// Keeps a copy only where the policy could ask for one after the request has been sent.
    #[must_use]
    pub fn new(head: Parts, body: Body, policy: &RetryPolicy, grpc: bool) -> Self {
        if !may_repeat_sent(policy, grpc) {
            return Self::Once(Some(Request::from_parts(head, body)));
        }
        let body = if body.is_end() { Err(body.sent().cloned()) } else { Ok(Replayable::new(body, REPLAY)) };
        Self::Kept(Box::new(head), body)
    }

    /// The request for the next attempt; `None` when it cannot be sent again.
    pub fn take(&mut self) -> Option<Request<Body>> {
        match self {
            Self::Once(request) => request.take(),
            Self::Kept(head, Err(sent)) => {
                let body = Body::empty().with_sent(sent.clone());
                Some(Request::from_parts(Parts::clone(head), body))
            }
            Self::Kept(head, Ok(body)) => {
                let body = body.attempt()?;
                Some(Request::from_parts(Parts::clone(head), body))
            }
        }
    }

    /// Takes back what an attempt did not use.
    pub fn give_back(&mut self, error: &mut SendError) {
        if let Self::Once(place @ None) = self {
            *place = error.request.take().map(|request| *request);
        }
    }

    /// Whether [`Self::take`] would give a request.
    #[must_use]
    pub fn is_left(&self) -> bool {
        match self {
            Self::Once(request) => request.is_some(),
            Self::Kept(_, body) => body.as_ref().map_or(true, Replayable::can_replay),
        }
    }
}

/// Whether `policy` can ask for a repetition of what the upstream has already read.
fn may_repeat_sent(policy: &RetryPolicy, grpc: bool) -> bool {
    const ANSWERS: RetryOn = RetryOn::SERVER_ERROR
        .with(RetryOn::GATEWAY_ERROR)
        .with(RetryOn::RESET)
        .with(RetryOn::RETRIABLE_4XX)
        .with(RetryOn::STATUS_CODES);
    const GRPC: RetryOn = RetryOn::UNAVAILABLE
        .with(RetryOn::CANCELLED)
        .with(RetryOn::DEADLINE_EXCEEDED)
        .with(RetryOn::INTERNAL)
        .with(RetryOn::RESOURCE_EXHAUSTED);
    policy.attempts > 0 && (policy.on.any(ANSWERS) || grpc && policy.on.any(GRPC))
}

/// Whether a failed attempt left the upstream untouched because of how connections end, not because of how it is: then
/// it is repeated at once, whatever the policy says.
#[must_use]
pub fn is_stale(kind: &SendErrorKind, method: &Method) -> bool {
    match kind {
        SendErrorKind::ClosedBeforeResponse { first_use: false, bytes_written } => {
            !bytes_written || method.is_idempotent()
        }
        SendErrorKind::RefusedStream => true,
        _ => false,
    }
}

/// What a failed attempt is in a retry policy's words; `None`: nothing that another attempt would mend.
#[must_use]
pub fn outcome(kind: &SendErrorKind) -> Option<Outcome> {
    match kind {
        SendErrorKind::ConnectFailed(_)
        | SendErrorKind::ConnectTimeout
        | SendErrorKind::Tls(_)
        | SendErrorKind::Unreached => Some(Outcome::ConnectFailed),
        SendErrorKind::RefusedStream => Some(Outcome::RefusedStream),
        SendErrorKind::ClosedBeforeResponse { bytes_written, .. } => {
            Some(Outcome::Reset { started: *bytes_written })
        }
        SendErrorKind::Reset => Some(Outcome::Reset { started: true }),
        // Another attempt would only take more of what is short.
        SendErrorKind::Overflow(_) | SendErrorKind::Protocol(_) | SendErrorKind::RequestBody(_) => None,
    }
}

/// What a failed attempt says about the endpoint; `None`: nothing.
#[must_use]
pub fn seen(kind: &SendErrorKind) -> Option<Seen> {
    match kind {
        SendErrorKind::ConnectFailed(_)
        | SendErrorKind::ConnectTimeout
        | SendErrorKind::Tls(_)
        | SendErrorKind::ClosedBeforeResponse { .. }
        | SendErrorKind::Reset
        | SendErrorKind::Protocol(_) => Some(Seen::Failed),
        // Its sidecar's answer.
        SendErrorKind::Unreached => Some(Seen::Status(503)),
        // How connections end, our own limits, the client's fault.
        SendErrorKind::RefusedStream | SendErrorKind::Overflow(_) | SendErrorKind::RequestBody(_) => None,
    }
}

/// What an answer says about the endpoint. Of gRPC, its status where the head has it: Envoy's translation.
#[must_use]
pub fn seen_answer(outcome: &Outcome) -> Seen {
    let Outcome::Response { status, grpc_status } = outcome else { return Seen::Failed };
    Seen::Status(match grpc_status {
        None | Some(0) => status.as_u16(),
        Some(4) => 504,
        Some(12) => 501,
        Some(14) => 503,
        Some(2 | 13 | 15) => 500,
        // The client's fault, or a limit.
        Some(_) => 400,
    })
}

/// The failure of an attempt with a certificate that has expired by `now`.
#[must_use]
pub fn expired(not_after: SystemTime, now: SystemTime) -> Option<SendErrorKind> {
    let since = now.duration_since(not_after).ok()?.as_secs();
    let why =
        format!("this workload's own certificate expired {since} s ago and the CA has given no new one");
    Some(SendErrorKind::Tls(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expired_certificate_of_our_own_is_named() {
        let now = SystemTime::now();
        let later = now + std::time::Duration::from_secs(7);
        assert_eq!(expired(later, now), None);
        let told = expired(now, later).unwrap().to_string();
        assert!(told.contains("own certificate expired 7 s ago"), "{told}");
    }

    fn policy(on: RetryOn) -> RetryPolicy {
        RetryPolicy { attempts: 2, on, ..RetryPolicy::default() }
    }

    fn head() -> Parts {
        Request::new(()).into_parts().0
    }

    #[test]
    fn a_copy_is_kept_only_where_it_can_be_asked_for() {
        let istio = policy(
            RetryOn::CONNECT_FAILURE
                .with(RetryOn::REFUSED_STREAM)
                .with(RetryOn::UNAVAILABLE)
                .with(RetryOn::CANCELLED),
        );
        assert!(matches!(Sendable::new(head(), Body::empty(), &istio, false), Sendable::Once(_)));
        assert!(matches!(Sendable::new(head(), Body::empty(), &istio, true), Sendable::Kept(..)));
        let mut kept = Sendable::new(head(), Body::full("x"), &policy(RetryOn::SERVER_ERROR), false);
        assert!(kept.take().is_some() && kept.is_left() && kept.take().is_some());
        let mut once = Sendable::new(head(), Body::full("x"), &istio, false);
        let request = once.take();
        assert!(request.is_some() && !once.is_left());
        once.give_back(&mut SendError::new(SendErrorKind::ConnectTimeout, request));
        assert!(once.is_left());
    }

    #[test]
    fn what_is_repeated_whatever_the_policy_says() {
        let closed =
            |first_use, bytes_written| SendErrorKind::ClosedBeforeResponse { first_use, bytes_written };
        assert!(is_stale(&closed(false, false), &Method::POST));
        assert!(!is_stale(&closed(false, true), &Method::POST));
        assert!(is_stale(&closed(false, true), &Method::GET));
        assert!(!is_stale(&closed(true, true), &Method::GET));
        assert!(is_stale(&SendErrorKind::RefusedStream, &Method::POST));
        assert!(!is_stale(&SendErrorKind::ConnectTimeout, &Method::GET));
    }
}
