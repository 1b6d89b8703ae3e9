//! HTTP on the wire. In: a connection's bytes. Out: `http::Request<Body>` for a [`Service`], and its answer written back;
//! the [`crate::pool`] does the same towards upstreams. HTTP/1 (RFC 9110, 9112) is our own strict codec, HTTP/2
//! (RFC 9113) is the `h2` crate. Above this module both look alike: the path and query in the URI, the authority in `Host`.

pub mod body;
pub(crate) mod buffer;
mod draining;
pub mod h1;
pub mod h2;
pub mod headers;
pub(crate) mod interim;
pub mod path;
pub mod replay;
pub mod sent;
pub mod server;
pub mod service;
pub mod timer;

pub use body::{Body, BodyError, Frame, Source};
pub use replay::Replayable;
pub use sent::Sent;
pub use server::{Http2Settings, Protocol, ServerSettings, serve_connection};
pub use service::{BadRequest, End, Outcome, Record, Reply, Service, Then};

#[cfg(test)]
mod tests;
