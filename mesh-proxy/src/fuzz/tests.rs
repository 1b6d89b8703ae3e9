//! A short run of each, with the seeds of `corpus`.

use std::path::PathBuf;

use mesh_proto::runtime::testing::fuzz::short_run;

use super::*;

fn short(target: fn(&[u8]), name: &str, rounds: u32) {
    short_run(target, &PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name), rounds);
}

#[test]
fn f2_f4_f12_requests_of_any_bytes() {
    short(request, "request", 10_000);
}

#[test]
fn answers_of_any_bytes() {
    short(response, "response", 10_000);
}

#[test]
fn f4_chunks_of_any_bytes() {
    short(chunked, "chunked", 10_000);
}

#[test]
fn c13_first_bytes_are_any_bytes() {
    short(first_bytes, "first_bytes", 5_000);
}

#[test]
fn t1_hellos_of_any_bytes() {
    short(client_hello, "client_hello", 5_000);
}

#[test]
fn p1_p9_paths_and_hosts_of_any_bytes() {
    short(path_and_host, "path_and_host", 20_000);
}

#[test]
fn j1_tokens_of_any_bytes() {
    short(token, "token", 2_000);
}

#[test]
fn j4_claims_of_any_bytes() {
    short(claims, "claims", 5_000);
}

#[test]
fn j1_keys_of_any_bytes() {
    short(keys, "keys", 300);
}

#[test]
fn c7_discovery_of_any_bytes() {
    short(discovery, "discovery", 2_000);
}

#[test]
fn j9_j11_policies_of_any_bytes() {
    short(policy, "policy", 10_000);
}
