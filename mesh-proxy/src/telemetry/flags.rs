//! Istio's response flags.

use std::fmt;

/// A set of response flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Flags(u32);

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident = $bit:literal, $text:literal;)*) => {
        impl Flags {
            /// No flag: printed as `-`.
            pub const NONE: Self = Self(0);
            $($(#[$doc])* pub const $name: Self = Self(1 << $bit);)*
            const NAMES: &'static [(Self, &'static str)] = &[$((Self::$name, $text)),*];
        }
    };
}

flags! {
    /// No healthy upstream.
    NO_HEALTHY_UPSTREAM = 0, "UH";
    /// Connecting to the upstream failed.
    UPSTREAM_CONNECT_FAILED = 1, "UF";
    /// A limit of the circuit breaker.
    UPSTREAM_OVERFLOW = 2, "UO";
    /// No route.
    NO_ROUTE = 3, "NR";
    /// Attempts are used up.
    RETRY_LIMIT = 4, "URX";
    /// No such cluster.
    NO_CLUSTER = 5, "NC";
    /// The request's duration limit.
    DURATION_TIMEOUT = 6, "DT";
    /// The client went away.
    DOWNSTREAM_DISCONNECT = 7, "DC";
    /// The request's timeout.
    UPSTREAM_TIMEOUT = 8, "UT";
    /// We reset the stream.
    LOCAL_RESET = 9, "LR";
    /// The upstream reset the stream.
    UPSTREAM_RESET = 10, "UR";
    /// The upstream closed the connection.
    UPSTREAM_CLOSED = 11, "UC";
    /// Injected delay.
    DELAY_INJECTED = 12, "DI";
    /// Injected fault.
    FAULT_INJECTED = 13, "FI";
    /// Rate limited.
    RATE_LIMITED = 14, "RL";
    /// Refused by external authorization.
    UNAUTHORIZED = 15, "UAEX";
    /// A stream was idle for too long.
    STREAM_IDLE = 16, "SI";
    /// The client's message is malformed.
    DOWNSTREAM_PROTOCOL = 17, "DPE";
    /// The upstream's message is malformed.
    UPSTREAM_PROTOCOL = 18, "UPE";
    /// The upstream's stream took longer than allowed.
    UPSTREAM_MAX_DURATION = 19, "UMSDR";
    /// The client reset the stream.
    DOWNSTREAM_RESET = 20, "DR";
    /// A name could not be resolved.
    DNS_FAILURE = 21, "DF";
}

impl Flags {
    /// Both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    pub(super) const fn bits(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("-");
        }
        let set = Self::NAMES.iter().filter(|(flag, _)| self.contains(*flag));
        for (index, (_, name)) in set.enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            f.write_str(name)?;
        }
        Ok(())
    }
}
