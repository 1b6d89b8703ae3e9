//! Whole proxies in this process, against a fake pilot and a fake CA that speak the real protocols over real TLS.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

mod advisories;
mod again;
mod authorization;
mod capture;
mod claims;
mod drain;
mod egress;
mod environment;
mod external;
mod external_grpc;
mod failover;
mod first_word;
mod gateway;
mod gateway_clients;
mod grpc;
mod held;
mod hello;
mod http;
mod lasting;
mod mesh_tls;
mod mtls;
mod originate;
mod own_capture;
mod paths;
mod permissive;
mod rerouted;
mod revision;
mod tcp;
mod written;
