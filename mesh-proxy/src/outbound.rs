//! What leaves the application: from its own listeners and the HTTP proxy port to the peer's sidecar.
//!
//! ```text
//! capture (15001 | VIP listener | HTTP proxy port) ─ detect ─ http ─ goal (resolve) ─ route ─ forward (pick, attempts) ─ pool
//!                                                    └ tcp ─ goal ─ pick ─ copy
//! ```

pub mod attempt;
pub mod captured;
pub mod connect;
pub mod direct;
pub mod forward;
pub mod goal;
pub mod headers;
pub mod http;
pub mod listen;
pub mod tcp;
pub mod timed;
