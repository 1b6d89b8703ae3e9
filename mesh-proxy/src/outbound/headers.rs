//! The fields that a sidecar sets and removes, as Istio's does.
//!
//! In: heads. Out: the same, without what an application could use to pass for somebody else.

use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue, SERVER};
use rand::RngExt;

use crate::exchange::REQUEST_ID;
use crate::worker::Worker;
use crate::worker::me::PEER;

/// Who was verified, in Envoy's form.
pub const CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// What a sidecar answers to a verified peer where nothing of the request reached its application: the peer's sidecar may
/// send it to another instance, whatever its method. Nobody else ever sees it.
pub const UNREACHED: HeaderName = HeaderName::from_static("x-mesh-unreached");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const UPSTREAM_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");
const ATTEMPT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
const PEER_METADATA: HeaderName = HeaderName::from_static("x-envoy-peer-metadata");
const PEER_METADATA_ID: HeaderName = HeaderName::from_static("x-envoy-peer-metadata-id");
const ISTIO: HeaderValue = HeaderValue::from_static("istio-envoy");

/// What only proxies say to one another, beside all of [`MESH`].
const OURS: [HeaderName; 3] = [CLIENT_CERT, PEER_METADATA, PEER_METADATA_ID];
/// Names of this prefix are the mesh's own.
const MESH: &str = "x-mesh-";
/// Names of this prefix are what proxies tell one another and their applications.
const ENVOY: &str = "x-envoy-";

/// Removes what the sender must not say by itself, whoever it is. `x-envoy-*` stays: as with Istio, an application hands on what
/// it was told (`x-envoy-external-address`), in its own name.
pub fn strip(headers: &mut HeaderMap) {
    for name in &OURS {
        headers.remove(name);
    }
    strip_prefixes(headers, &[MESH]);
}

/// Removes what nobody may say who is no verified peer: everything that a proxy of the mesh, or an application that knows it is
/// behind one, might believe. `x-forwarded-*` stays: a gateway writes its own, and behind a sidecar they count for nothing.
pub fn strip_outsider(headers: &mut HeaderMap) {
    for name in &OURS {
        headers.remove(name);
    }
    strip_prefixes(headers, &[MESH, ENVOY]);
}

/// Nothing is allocated where there is nothing to remove.
fn strip_prefixes(headers: &mut HeaderMap, prefixes: &[&str]) {
    let ours = |name: &HeaderName| prefixes.iter().any(|prefix| name.as_str().starts_with(prefix));
    if headers.keys().any(ours) {
        let bad: Vec<HeaderName> = headers.keys().filter(|name| ours(name)).cloned().collect();
        for name in bad {
            headers.remove(name);
        }
    }
}

/// Removes from an application's own answer what only proxies of the mesh answer.
pub fn strip_answer(headers: &mut HeaderMap) {
    strip_prefixes(headers, &[MESH]);
}

/// Sets what a request carries from the first proxy on; returns its id.
pub fn complete(worker: &Worker, headers: &mut HeaderMap, scheme: &'static str) {
    if !headers.contains_key(&REQUEST_ID) {
        headers.insert(REQUEST_ID, request_id(worker));
    }
    if !headers.contains_key(&FORWARDED_PROTO) {
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static(scheme));
    }
}

/// Which attempt this is, from 1.
pub fn attempt(headers: &mut HeaderMap, number: u32) {
    let value = if number == 1 { HeaderValue::from_static("1") } else { HeaderValue::from(number) };
    headers.insert(ATTEMPT, value);
}

/// Sets what an answer carries when it leaves a proxy.
pub fn answered(headers: &mut HeaderMap, took: Duration) {
    headers.remove(&PEER);
    // An application, or a server outside, that says so does not know what it means.
    headers.remove(&UNREACHED);
    let millis = took.as_millis();
    let value = if millis == 0 {
        HeaderValue::from_static("0")
    } else {
        HeaderValue::from(u64::try_from(millis).unwrap_or(u64::MAX))
    };
    headers.insert(UPSTREAM_TIME, value);
    headers.insert(SERVER, ISTIO);
}

/// A random (version 4) UUID.
fn request_id(worker: &Worker) -> HeaderValue {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut bits: [u8; 16] = worker.random(|rng| rng.random());
    bits[6] = (bits[6] & 0x0f) | 0x40;
    bits[8] = (bits[8] & 0x3f) | 0x80;
    let mut text = [b'-'; 36];
    let places = (0..36).filter(|at| !matches!(at, 8 | 13 | 18 | 23));
    let digits = bits.iter().flat_map(|b| [HEX[usize::from(b >> 4)], HEX[usize::from(b & 15)]]);
    for (at, digit) in places.zip(digits) {
        text[at] = digit;
    }
    // Hexadecimal digits and dashes are always a value.
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("-"))
}
