//! gRPC over SPIFFE TLS, both sides.
//!
//! In: an address or a listener, and TLS settings of [`super::tls`]. Out: a tonic channel that reconnects by itself, or a
//! server that no bad connection ends and that says in every request who is calling.

mod client;
mod server;

use std::net::SocketAddr;

pub use client::channel;
pub use server::{ServeSettings, serve, serve_with};

use crate::model::SpiffeId;

/// The window of a whole connection: below it the h2 crate takes many small DATA frames for an attack.
const CONNECTION_WINDOW: u32 = 16 << 20;
/// The window of one stream.
const STREAM_WINDOW: u32 = 4 << 20;
/// How often an idle connection is asked whether it lives.
const KEEPALIVE: std::time::Duration = std::time::Duration::from_secs(30);
/// How long it may take to answer.
const KEEPALIVE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

/// Who is calling, verified: an extension of every request. `None`: no certificate was shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity(pub Option<SpiffeId>);

/// Where the call comes from: an extension of every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerAddress(pub SocketAddr);
