//! HTTP/1.1 and HTTP/1.0 (RFC 9110, RFC 9112), both directions, strict: what two servers could read differently is refused.

pub mod authority;
pub mod chunked;
pub mod client;
pub mod decode;
pub mod encode;
pub mod fields;
pub mod head;
pub mod scan;
pub mod server;
