//! The suite: one file for each thing that a cluster must show, each test named after the item that it proves.
//!
//! `e2e/run` brings up what it needs. Alone, without a cluster that has the mesh, each test says why it skips.

mod admission;
mod authority;
mod authorization;
mod authorization_tcp;
mod bad_days;
mod definitions;
mod egress;
mod external;
mod failover;
mod flood;
mod gateways;
mod helm;
mod identity;
mod injection;
mod loss;
mod meshctl;
mod mtls;
mod own_capture;
mod repository;
mod routing;
mod seed;
mod source;
mod status;
mod upgrade;

/// The client of this build, for requests from outside the cluster.
const CLIENT: &str = env!("CARGO_BIN_EXE_e2e-client");
