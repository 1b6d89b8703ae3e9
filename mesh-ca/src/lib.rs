//! The SPIFFE certificate authority: attests callers, signs, owns its root.
//!
//! A call goes `server → attest → csr → authority`: who is calling, for which key, and the certificate. The identity is
//! the attested caller's; nothing that the caller writes into its request names it. [`keeper`] looks after what signs and
//! whom to trust, kept on a [`shelf`]; [`rotation`] is what may follow upon what. [`follow`] tells the pilots, and
//! [`admin::commands`] is the operator's way in. [`kubernetes`] is the same on a cluster.

pub mod admin;
pub mod app;
pub mod attest;
pub mod audit;
pub mod authority;
pub mod bundle;
pub mod config;
pub mod csr;
pub mod federation;
pub mod follow;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
pub mod keeper;
pub mod kubernetes;
pub mod limit;
pub mod rotation;
pub mod server;
pub mod shelf;
pub mod token;

pub use app::{Ca, run};

#[cfg(test)]
mod tests;
