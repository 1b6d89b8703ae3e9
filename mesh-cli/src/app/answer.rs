//! The application's JSON answer: what it saw of a request, and who it is.

use std::collections::BTreeMap;
use std::net::IpAddr;

use http::{HeaderMap, Request, Version};
use serde_json::{Map, Value};

use super::Whoami;

/// Builds the answer to a request: `{instance, workload, version, namespace, method, host, path, query, headers, protocol, peer,
/// client}`: `peer` is what the sidecar has verified, `client` the address that the connection came from.
pub fn describe<B>(whoami: &Whoami, request: &Request<B>) -> Map<String, Value> {
    let authority = request.uri().authority().map(ToString::to_string);
    let host = authority.or_else(|| header(request.headers(), "host")).unwrap_or_default();
    let mut answer = Map::new();
    let mut put = |name: &str, value: String| answer.insert(name.to_owned(), Value::String(value));
    put("instance", whoami.instance.clone());
    put("workload", whoami.workload.clone());
    put("version", whoami.version.clone());
    put("namespace", whoami.namespace.clone());
    put("method", request.method().to_string());
    put("host", host);
    put("path", request.uri().path().to_owned());
    put("query", request.uri().query().unwrap_or_default().to_owned());
    answer.insert("headers".to_owned(), headers_json(request.headers()));
    answer.insert("protocol".to_owned(), Value::String(protocol(request.version()).to_owned()));
    answer.insert("peer".to_owned(), peer(request.headers()).map_or(Value::Null, Value::String));
    if let Some(Client(ip)) = request.extensions().get() {
        answer.insert("client".to_owned(), Value::String(ip.to_string()));
    }
    answer
}

/// The address at the other end of a request's connection.
#[derive(Debug, Clone, Copy)]
pub struct Client(pub IpAddr);

/// Header names are lower case already; repeated values are joined with `, `.
pub fn headers(headers: &HeaderMap) -> BTreeMap<String, String> {
    let mut all = BTreeMap::<String, String>::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        all.entry(name.as_str().to_owned())
            .and_modify(|joined| {
                joined.push_str(", ");
                joined.push_str(&value);
            })
            .or_insert_with(|| value.into_owned());
    }
    all
}

fn headers_json(map: &HeaderMap) -> Value {
    Value::Object(headers(map).into_iter().map(|(name, value)| (name, Value::String(value))).collect())
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

/// The identity in the last element of `x-forwarded-client-cert`: what our own sidecar verified.
pub fn peer(headers: &HeaderMap) -> Option<String> {
    let xfcc = header(headers, "x-forwarded-client-cert")?;
    let last = xfcc.rsplit(',').next()?;
    let uri = last.split(';').find_map(|pair| pair.trim().strip_prefix("URI="))?;
    (!uri.is_empty()).then(|| uri.to_owned())
}

/// `HTTP/1.0`, `HTTP/1.1` or `HTTP/2`.
pub fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 | Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_3 => "HTTP/3",
        _ => "HTTP/1.1",
    }
}
