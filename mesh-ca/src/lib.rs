//! The SPIFFE certificate authority: attests callers, signs, owns its root.
//!
//! A call goes `server → attest → csr → authority`: who is calling, for which key, and the certificate. The identity is
//! the attested caller's; nothing that the caller writes into its request names it. [`kubernetes`] is the same on a cluster.

pub mod admin;
pub mod app;
pub mod attest;
pub mod authority;
pub mod config;
pub mod csr;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
pub mod kubernetes;
pub mod server;
pub mod token;

pub use app::{Ca, run};

#[cfg(test)]
mod tests;
