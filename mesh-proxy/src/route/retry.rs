//! When to try again: Envoy's `x-envoy-retry-on` words, decided on what came of an attempt.
//!
//! Whether an attempt may be repeated at all (methods, replayable body, budgets) is the caller's; this only says whether
//! the policy asks for it. Source: Envoy's router, retry state; istio-features §1.1 and §7 (8).

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use mesh_proto::wire::mesh::v1 as wire;
use rand::{Rng, RngExt};
use smallvec::SmallVec;

use super::{InvalidRoute, parse_duration};

/// Envoy's and Istio's default base interval.
const DEFAULT_BACKOFF: Duration = Duration::from_millis(25);
/// Envoy: the longest wait is ten base intervals.
const MAX_BACKOFF_FACTOR: u32 = 10;

/// A set of conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RetryOn(u16);

impl RetryOn {
    /// Could not connect.
    pub const CONNECT_FAILURE: Self = Self(1);
    /// REFUSED_STREAM.
    pub const REFUSED_STREAM: Self = Self(1 << 1);
    /// `grpc-status: 14`.
    pub const UNAVAILABLE: Self = Self(1 << 2);
    /// `grpc-status: 1`.
    pub const CANCELLED: Self = Self(1 << 3);
    /// Any 5xx, or no answer at all.
    pub const SERVER_ERROR: Self = Self(1 << 4);
    /// 502, 503, 504, or no answer at all.
    pub const GATEWAY_ERROR: Self = Self(1 << 5);
    /// No answer: disconnect, reset or timeout of the attempt.
    pub const RESET: Self = Self(1 << 6);
    /// The same, before anything of the request was sent.
    pub const RESET_BEFORE_REQUEST: Self = Self(1 << 7);
    /// 409.
    pub const RETRIABLE_4XX: Self = Self(1 << 8);
    /// One of the policy's status codes.
    pub const STATUS_CODES: Self = Self(1 << 9);
    /// `grpc-status: 4`.
    pub const DEADLINE_EXCEEDED: Self = Self(1 << 10);
    /// `grpc-status: 13`.
    pub const INTERNAL: Self = Self(1 << 11);
    /// `grpc-status: 8`.
    pub const RESOURCE_EXHAUSTED: Self = Self(1 << 12);

    /// One word.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        Some(match word {
            "connect-failure" => Self::CONNECT_FAILURE,
            "refused-stream" => Self::REFUSED_STREAM,
            "unavailable" => Self::UNAVAILABLE,
            "cancelled" => Self::CANCELLED,
            "5xx" => Self::SERVER_ERROR,
            "gateway-error" => Self::GATEWAY_ERROR,
            "reset" => Self::RESET,
            "reset-before-request" => Self::RESET_BEFORE_REQUEST,
            "retriable-4xx" => Self::RETRIABLE_4XX,
            "retriable-status-codes" => Self::STATUS_CODES,
            "deadline-exceeded" => Self::DEADLINE_EXCEEDED,
            "internal" => Self::INTERNAL,
            "resource-exhausted" => Self::RESOURCE_EXHAUSTED,
            _ => return None,
        })
    }

    /// Both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether any of `other` is set.
    #[must_use]
    pub const fn any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// What came of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// No connection (refused, unreachable, timeout, TLS).
    ConnectFailed,
    /// The peer refused the stream before looking at it.
    RefusedStream,
    /// The connection or stream ended before an answer.
    Reset {
        /// Something of the request was written.
        started: bool,
    },
    /// `perTryTimeout` passed.
    AttemptTimeout,
    /// The upstream's own answer.
    Response {
        /// Its status.
        status: StatusCode,
        /// `grpc-status` of its head (a trailers-only answer).
        grpc_status: Option<u32>,
    },
}

impl Outcome {
    /// From the head of an upstream's answer.
    #[must_use]
    pub fn of_response(status: StatusCode, headers: &HeaderMap) -> Self {
        let grpc = headers.get("grpc-status").and_then(|v| v.to_str().ok());
        Self::Response { status, grpc_status: grpc.and_then(|v| v.parse().ok()) }
    }
}

/// Complete: defaults were filled in by the pilot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RetryPolicy {
    /// How often to try again; 0: never.
    pub attempts: u32,
    /// For one attempt; `None`: only the request's timeout.
    pub per_try_timeout: Option<Duration>,
    /// On what.
    pub on: RetryOn,
    /// For [`RetryOn::STATUS_CODES`].
    pub status_codes: SmallVec<[u16; 4]>,
    /// Base interval.
    pub backoff: Duration,
    /// Avoid hosts already tried. `None`: yes, except with consistent hash.
    pub ignore_previous_hosts: Option<bool>,
}

impl RetryPolicy {
    /// Parses; `field` is the message's path. Absent: no retries.
    pub(super) fn new(policy: Option<&wire::RetryPolicy>, field: &str) -> Result<Self, InvalidRoute> {
        let Some(policy) = policy else { return Ok(Self::default()) };
        let invalid =
            |name: &str, reason: String| InvalidRoute::Value { field: format!("{field}.{name}"), reason };
        let mut on = RetryOn::default();
        for word in &policy.retry_on {
            let known = RetryOn::of_word(word);
            on = on.with(known.ok_or_else(|| invalid("retry_on", format!("unknown condition {word:?}")))?);
        }
        let mut status_codes = SmallVec::new();
        for code in &policy.status_codes {
            let known = u16::try_from(*code).ok().filter(|c| (100..600).contains(c));
            status_codes.push(known.ok_or_else(|| invalid("status_codes", format!("{code} is no status")))?);
        }
        if !status_codes.is_empty() {
            on = on.with(RetryOn::STATUS_CODES);
        }
        let duration = |value: Option<prost_types::Duration>, name| {
            value.map(parse_duration).transpose().map_err(|reason| invalid(name, reason))
        };
        let backoff = duration(policy.backoff, "backoff")?.filter(|d| !d.is_zero());
        Ok(Self {
            attempts: policy.attempts,
            per_try_timeout: duration(policy.per_try_timeout, "per_try_timeout")?.filter(|d| !d.is_zero()),
            on,
            status_codes,
            backoff: backoff.unwrap_or(DEFAULT_BACKOFF),
            ignore_previous_hosts: policy.ignore_previous_hosts,
        })
    }

    /// Whether the policy asks for another attempt after `outcome`.
    #[must_use]
    pub fn is_retriable(&self, outcome: &Outcome) -> bool {
        // Envoy counts an attempt without an answer as a 5xx, since it would become one.
        const NO_ANSWER: RetryOn = RetryOn::RESET.with(RetryOn::SERVER_ERROR).with(RetryOn::GATEWAY_ERROR);
        const UNSENT: RetryOn = NO_ANSWER.with(RetryOn::RESET_BEFORE_REQUEST);
        let conditions = match *outcome {
            Outcome::ConnectFailed => UNSENT.with(RetryOn::CONNECT_FAILURE),
            Outcome::RefusedStream => NO_ANSWER.with(RetryOn::REFUSED_STREAM),
            Outcome::Reset { started: false } => UNSENT,
            Outcome::Reset { started: true } | Outcome::AttemptTimeout => NO_ANSWER,
            Outcome::Response { status, grpc_status } => self.conditions_of(status.as_u16(), grpc_status),
        };
        self.attempts > 0 && self.on.any(conditions)
    }

    fn conditions_of(&self, status: u16, grpc_status: Option<u32>) -> RetryOn {
        let mut conditions = match status {
            502..=504 => RetryOn::SERVER_ERROR.with(RetryOn::GATEWAY_ERROR),
            500..=599 => RetryOn::SERVER_ERROR,
            409 => RetryOn::RETRIABLE_4XX,
            _ => RetryOn::default(),
        };
        if self.status_codes.contains(&status) {
            conditions = conditions.with(RetryOn::STATUS_CODES);
        }
        conditions.with(match grpc_status {
            Some(1) => RetryOn::CANCELLED,
            Some(4) => RetryOn::DEADLINE_EXCEEDED,
            Some(8) => RetryOn::RESOURCE_EXHAUSTED,
            Some(13) => RetryOn::INTERNAL,
            Some(14) => RetryOn::UNAVAILABLE,
            _ => RetryOn::default(),
        })
    }

    /// How long to wait before try `attempt` (the first retry is 1): exponential, at most ten base intervals, fully
    /// jittered as in Envoy.
    pub fn wait<R: Rng>(&self, attempt: u32, rng: &mut R) -> Duration {
        let doubled = 1_u32.checked_shl(attempt).unwrap_or(u32::MAX).saturating_sub(1);
        let limit = self.backoff.saturating_mul(doubled.min(MAX_BACKOFF_FACTOR));
        let nanos = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(rng.random_range(0..=nanos))
    }
}
