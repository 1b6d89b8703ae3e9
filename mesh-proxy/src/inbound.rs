//! What comes for the application: from a peer's sidecar, or in plaintext where policy allows that.
//!
//! ```text
//! capture (podIP:port) ─ accept (look at the first bytes) ─ decide ─ tls ─ http (policy, XFCC, peer facts) ─ app
//!                                                                  └ tcp ─ copy ─ app
//! ```

pub mod accept;
pub mod captured;
pub mod client_cert;
pub mod decide;
pub mod http;
pub mod live;
