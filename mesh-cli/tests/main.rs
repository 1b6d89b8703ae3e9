//! A whole mesh as real processes, driven as a person drives it: `meshctl up`, YAML files, `meshctl request`, `meshctl status`.
//!
//! Each module runs one mesh (starting one takes seconds) and tells a story with it. `contract`, `discovery` and
//! `advisories` need no processes: they hold the crates against each other.

// Helpers of tests may unwrap as tests may.
#![allow(clippy::unwrap_used)]

mod support;

mod advisories;
mod alias;
mod authorization;
mod ca;
mod charts;
mod circuit_breaking;
mod claims;
mod contract;
mod discovery;
mod egress;
mod external;
mod failover;
mod federation;
mod gateway;
mod identity;
mod inject;
mod input;
mod lifecycle;
mod my_service;
mod netns;
mod protocols;
mod revoked;
mod routing;
mod scan;
mod secure_gateway;
mod survival;
mod telemetry;
mod told;
mod values;
