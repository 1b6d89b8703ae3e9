//! Fields that a provider may set, and those that nobody sets from outside: a message's length, its connection, its name.

use http::HeaderName;
use mesh_proto::model::authorization::TextPattern;

use crate::http::headers::is_connection_specific;
use crate::outbound::headers::CLIENT_CERT;

/// Says how long a message is, what the connection does, or whom the request is for: never taken from a provider.
pub(super) fn is_framing(name: &HeaderName) -> bool {
    is_connection_specific(name)
        || matches!(name.as_str(), "host" | "content-length" | "te" | "trailer" | "upgrade" | "expect")
}

/// What only proxies of the mesh say of one another and of those whom they verified.
pub(super) fn is_of_mesh(name: &HeaderName) -> bool {
    *name == CLIENT_CERT
        || name.as_str().starts_with("x-mesh-")
        || name.as_str().starts_with("x-envoy-peer-metadata")
}

/// What this proxy has set itself on a request: no pattern takes it away. These names alone: `x-forwarded-user` and such
/// are what a provider says of a client, and must not be what a client says.
pub(super) fn is_of_proxy(name: &HeaderName) -> bool {
    let text = name.as_str();
    is_framing(name)
        || is_of_mesh(name)
        || text.starts_with("x-envoy-")
        || matches!(
            text,
            "x-forwarded-for"
                | "x-forwarded-proto"
                | "x-forwarded-host"
                | "x-forwarded-port"
                | "x-request-id"
        )
}

/// Whether a name is among these.
pub(super) fn is_among(patterns: &[TextPattern], name: &str) -> bool {
    patterns.iter().any(|pattern| pattern.matches(name.as_bytes()))
}

/// The same name with dashes, where it has underscores: many applications cannot tell them apart.
pub(super) fn with_dashes(name: &HeaderName) -> Option<String> {
    name.as_str().contains('_').then(|| name.as_str().replace('_', "-"))
}
