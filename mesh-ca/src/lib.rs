//! The SPIFFE certificate authority: attests callers, signs, owns its root.

pub mod app;
pub mod attest;
pub mod authority;
pub mod config;
pub mod server;
pub mod token;
