//! HTTP/2 (RFC 9113) on the `h2` crate, both directions. Windows, streams and small frames are bounded; a byte of window is
//! given back only when the other side has taken what came.

pub mod client;
pub mod message;
pub mod piece;
pub mod rewind;
pub mod send;
pub mod server;
