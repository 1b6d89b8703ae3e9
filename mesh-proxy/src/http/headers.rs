//! Field sections: maps that are used again, what is hop-by-hop, and what nobody may strip (RFC 9110 §7.6.1).

use std::cell::RefCell;

use http::{HeaderMap, HeaderName};

pub mod case;
pub mod names;

pub use case::HeaderCase;

/// Maps that a thread keeps for later.
const SPARE: usize = 64;
/// A map that has grown beyond this is not kept.
const MAX_CAPACITY: usize = 64;

thread_local! {
    static MAPS: RefCell<Vec<HeaderMap>> = const { RefCell::new(Vec::new()) };
}

/// An empty map.
#[must_use]
pub fn fresh() -> HeaderMap {
    MAPS.with_borrow_mut(Vec::pop).unwrap_or_else(|| HeaderMap::with_capacity(16))
}

/// Takes a map that is no longer needed.
pub fn recycle(mut map: HeaderMap) {
    if map.capacity() == 0 || map.capacity() > MAX_CAPACITY {
        return;
    }
    map.clear();
    MAPS.with_borrow_mut(|maps| {
        if maps.len() < SPARE {
            maps.push(map);
        }
    });
}

/// Whether a field belongs to one connection: never written from a map, the codec writes its own.
#[must_use]
pub fn is_connection_specific(name: &HeaderName) -> bool {
    let name = name.as_str();
    match name.len() {
        10 => name == "connection" || name == "keep-alive",
        14 => name == "http2-settings",
        16 => name == "proxy-connection",
        17 => name == "transfer-encoding",
        _ => false,
    }
}

/// Names that identity, routing and policy rest on: listing one in `Connection` does not remove it, and a name that equals
/// one but for underscores is dropped (many applications cannot tell them apart).
#[must_use]
pub fn is_trusted(name: &str) -> bool {
    const PREFIXES: [&str; 11] = [
        "x-forwarded-",
        "x-envoy-",
        "x-istio-",
        "x-mesh-",
        "x-b3-",
        "x-request-",
        "x-real-",
        "x-auth",
        "x-user",
        "x-client",
        "x-jwt",
    ];
    matches!(
        name,
        "host"
            | "authorization"
            | "proxy-authorization"
            | "cookie"
            | "set-cookie"
            | "content-length"
            | "content-type"
            | "content-encoding"
            | "transfer-encoding"
            | "expect"
            | "forwarded"
            | "via"
            | "origin"
            | "traceparent"
            | "tracestate"
            | "baggage"
            | "strict-transport-security"
            | "content-security-policy"
            | "www-authenticate"
    ) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || (name.starts_with("access-control-"))
}

/// Whether a name with underscores reads like a trusted one with dashes.
#[must_use]
pub fn aliases_trusted(name: &str) -> bool {
    name.contains('_') && is_trusted(&name.replace('_', "-"))
}

/// Whether a field must not come in a trailer section (RFC 9110 §6.5.1): framing, routing, authentication, content.
#[must_use]
pub fn is_forbidden_in_trailers(name: &HeaderName) -> bool {
    let name = name.as_str();
    is_trusted(name)
        || matches!(
            name,
            "connection"
                | "keep-alive"
                | "proxy-connection"
                | "te"
                | "trailer"
                | "upgrade"
                | "http2-settings"
                | "cache-control"
                | "max-forwards"
                | "range"
                | "pragma"
                | "content-range"
                | "proxy-authenticate"
                | "age"
                | "expires"
                | "date"
                | "location"
                | "retry-after"
                | "vary"
                | "warning"
        )
        || name.starts_with("if-")
        || aliases_trusted(name)
}

/// Drops the fields of a trailer section that must not be there.
pub fn clean_trailers(trailers: &mut HeaderMap) {
    if trailers.keys().any(is_forbidden_in_trailers) {
        let bad: Vec<HeaderName> = trailers.keys().filter(|n| is_forbidden_in_trailers(n)).cloned().collect();
        for name in bad {
            trailers.remove(name);
        }
    }
}
