//! The data plane of the mesh: sidecar and gateway.
//!
//! Data flows one way: `capture → tls → detect → http | tcp → destination → route → cluster → balance → pool`. A stage
//! calls the next one and reads only the [`store`], which only [`xds`] writes. A request stays on one thread.

pub mod admin;
pub mod app;
pub mod authentication;
pub mod authorization;
pub mod balance;
pub mod capture;
pub mod cluster;
pub mod config;
pub mod destination;
pub mod detect;
pub mod dns;
pub mod drain;
pub mod exchange;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
pub mod gateway;
pub mod http;
pub mod identity;
pub mod inbound;
pub mod io;
pub mod jwt;
pub mod outbound;
pub mod pool;
pub mod privileges;
pub mod respond;
pub mod revocation;
pub mod route;
pub mod store;
pub mod tcp;
pub mod telemetry;
pub mod tls;
pub mod worker;
pub mod xds;
