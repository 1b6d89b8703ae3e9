//! `extensionProviders`: who may be asked about requests (AuthorizationPolicy CUSTOM).
//!
//! In: the list as it is written. Out: each provider by its name. One that is wrong spoils no other one: what asks for it is
//! denied. Fields and defaults are Istio's (`MeshConfig.ExtensionProvider`).

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use mesh_proto::model::authorization::TextPattern;
use mesh_proto::wire::mesh::v1::{CheckedBody, HttpAuthorization};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::Told;
use crate::snapshot::{Authorizer, ExtensionProvider, Provider, Speaks};

/// Istio's default.
const TIMEOUT: Duration = Duration::from_secs(600);
/// A client that waits for longer has gone.
const MAX_TIMEOUT: Duration = Duration::from_secs(3600);
/// Proxies keep that much of a request in memory, for each that is asked about.
const MAX_BODY: u32 = 16 << 20;
/// More are a mistake.
const MAX_PROVIDERS: usize = 1000;
/// Envoy's default.
const FORBIDDEN: u16 = 403;
/// What a provider may be for beside authorization.
const OTHERS: [&str; 13] = [
    "zipkin",
    "lightstep",
    "datadog",
    "stackdriver",
    "skywalking",
    "opentelemetry",
    "opencensus",
    "prometheus",
    "envoyFileAccessLog",
    "envoyHttpAls",
    "envoyTcpAls",
    "envoyOtelAls",
    "sds",
];
/// Fields that say how long a message is, or what the connection does: nobody sets them from outside. All that a proxy
/// refuses: it would refuse the whole configuration of its workload.
const FRAMING: [&str; 11] = [
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "upgrade",
    "host",
    "expect",
    "http2-settings",
];

/// Reads the list.
///
/// # Errors
/// When it is no list of maps.
pub(super) fn read(value: &Value, told: &mut Vec<Told>) -> Result<Vec<ExtensionProvider>, String> {
    let list = value.as_array().ok_or("is no list")?;
    if list.len() > MAX_PROVIDERS {
        return Err(format!("{} providers (at most {MAX_PROVIDERS})", list.len()));
    }
    let mut providers: Vec<ExtensionProvider> = Vec::new();
    for (index, value) in list.iter().enumerate() {
        let path = format!("extensionProviders[{index}]");
        let fields = value.as_object().ok_or_else(|| format!("[{index}] is no map of fields"))?;
        let name = fields.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut tell = |message: String, is_error| {
            let path = if name.is_empty() { path.clone() } else { format!("{path} ({name})") };
            told.push(Told { path, message, is_error });
        };
        if name.is_empty() {
            tell("has no name, so nothing can mean it".to_owned(), true);
            continue;
        }
        let mut is = provider(fields, &mut |message| tell(message, false));
        if providers.iter().any(|provider| provider.name == name) {
            // Which of them a policy means is anybody's guess.
            is = Provider::Wrong("there are two of that name".to_owned());
        }
        match &is {
            Provider::Wrong(why) => tell(format!("{why}; what asks for it is denied"), true),
            Provider::Other(kind) => tell(format!("{kind} has no effect here"), false),
            Provider::Authorizer(_) => {}
        }
        providers.retain(|provider| provider.name != name);
        providers.push(ExtensionProvider { name, is });
    }
    Ok(providers)
}

fn provider(fields: &Map<String, Value>, warn: &mut dyn FnMut(String)) -> Provider {
    let kinds: Vec<&String> = fields.keys().filter(|field| *field != "name").collect();
    let [kind] = kinds[..] else {
        return Provider::Wrong(format!("exactly one kind of provider is needed, not {}", kinds.len()));
    };
    let (http, value) = match kind.as_str() {
        "envoyExtAuthzHttp" => (true, &fields[kind]),
        "envoyExtAuthzGrpc" => (false, &fields[kind]),
        other if OTHERS.contains(&other) => return Provider::Other(other.to_owned()),
        other => return Provider::Wrong(format!("{other} is no kind of provider")),
    };
    let read = serde_json::from_value::<Written>(value.clone()).map_err(|error| error.to_string());
    match read.and_then(|written| written.authorizer(http, warn)) {
        Ok(authorizer) => Provider::Authorizer(Box::new(authorizer)),
        Err(why) => Provider::Wrong(format!("{kind}: {why}")),
    }
}

/// Both kinds, as they are written.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    service: String,
    port: u32,
    timeout: Option<mesh_proto::crd::Duration>,
    #[serde(default)]
    fail_open: bool,
    #[serde(default)]
    clear_route_cache: bool,
    status_on_error: Option<Value>,
    include_request_body_in_check: Option<WrittenBody>,
    path_prefix: Option<String>,
    /// The older name.
    include_headers_in_check: Option<Vec<String>>,
    include_request_headers_in_check: Option<Vec<String>>,
    include_additional_headers_in_check: Option<std::collections::BTreeMap<String, String>>,
    headers_to_upstream_on_allow: Option<Vec<String>>,
    headers_to_downstream_on_deny: Option<Vec<String>>,
    headers_to_downstream_on_allow: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenBody {
    #[serde(default)]
    max_request_bytes: u32,
    #[serde(default)]
    allow_partial_message: bool,
    #[serde(default)]
    pack_as_bytes: bool,
}

impl Written {
    fn authorizer(self, http: bool, warn: &mut dyn FnMut(String)) -> Result<Authorizer, String> {
        let port = u16::try_from(self.port).ok().filter(|port| *port != 0);
        let port = port.ok_or_else(|| format!("port {} is none (expected 1 to 65535)", self.port))?;
        if self.service.is_empty() {
            return Err("service is empty (expected [NAMESPACE/]HOST)".to_owned());
        }
        let timeout = self.timeout.map_or(TIMEOUT, |timeout| timeout.0);
        if timeout < Duration::from_millis(1) || timeout > MAX_TIMEOUT {
            return Err(format!("timeout {timeout:?} (expected 1ms to {MAX_TIMEOUT:?})"));
        }
        Ok(Authorizer {
            service: self.service.clone(),
            port,
            timeout,
            fail_open: self.fail_open,
            status_on_error: self.status_on_error.as_ref().map_or(Ok(FORBIDDEN), status)?,
            body: self.include_request_body_in_check.as_ref().map(body).transpose()?,
            clear_route_cache: self.clear_route_cache,
            speaks: if http { Speaks::Http(self.http(warn)?) } else { self.grpc()? },
        })
    }

    /// What is of HTTP alone is no field of gRPC.
    fn grpc(&self) -> Result<Speaks, String> {
        let of_http = [
            ("pathPrefix", self.path_prefix.is_some()),
            ("includeHeadersInCheck", self.include_headers_in_check.is_some()),
            ("includeRequestHeadersInCheck", self.include_request_headers_in_check.is_some()),
            ("includeAdditionalHeadersInCheck", self.include_additional_headers_in_check.is_some()),
            ("headersToUpstreamOnAllow", self.headers_to_upstream_on_allow.is_some()),
            ("headersToDownstreamOnDeny", self.headers_to_downstream_on_deny.is_some()),
            ("headersToDownstreamOnAllow", self.headers_to_downstream_on_allow.is_some()),
        ];
        match of_http.into_iter().find(|(_, is_there)| *is_there) {
            Some((field, _)) => {
                Err(format!("{field} is a field of envoyExtAuthzHttp (of gRPC, the answer itself says it)"))
            }
            None => Ok(Speaks::Grpc),
        }
    }

    fn http(self, warn: &mut dyn FnMut(String)) -> Result<HttpAuthorization, String> {
        if self.include_headers_in_check.is_some() {
            warn("includeHeadersInCheck is deprecated (expected includeRequestHeadersInCheck)".to_owned());
        }
        let prefix = self.path_prefix.unwrap_or_default();
        let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#');
        let is_path = prefix.starts_with('/') && prefix.bytes().all(plain);
        if !prefix.is_empty() && !is_path {
            return Err(format!("pathPrefix {prefix:?} (expected a path that begins with /)"));
        }
        let newer = self.include_request_headers_in_check.filter(|list| !list.is_empty());
        let additional = self.include_additional_headers_in_check.unwrap_or_default();
        for (name, value) in &additional {
            let named = header(name).map_err(|why| format!("includeAdditionalHeadersInCheck: {why}"))?;
            if FRAMING.contains(&named.as_str()) || HeaderValue::from_str(value).is_err() {
                return Err(format!("includeAdditionalHeadersInCheck: {name} cannot be set to {value:?}"));
            }
        }
        Ok(HttpAuthorization {
            path_prefix: prefix,
            request_headers: patterns(
                "includeRequestHeadersInCheck",
                newer.or(self.include_headers_in_check),
            )?,
            additional_headers: additional
                .into_iter()
                .map(|(name, value)| (name.to_ascii_lowercase(), value))
                .collect(),
            to_upstream_on_allow: patterns("headersToUpstreamOnAllow", self.headers_to_upstream_on_allow)?,
            to_downstream_on_allow: patterns(
                "headersToDownstreamOnAllow",
                self.headers_to_downstream_on_allow,
            )?,
            to_downstream_on_deny: patterns("headersToDownstreamOnDeny", self.headers_to_downstream_on_deny)?,
        })
    }
}

fn body(written: &WrittenBody) -> Result<CheckedBody, String> {
    let max_bytes = written.max_request_bytes;
    if max_bytes == 0 || max_bytes > MAX_BODY {
        return Err(format!(
            "includeRequestBodyInCheck.maxRequestBytes {max_bytes} (expected 1 to {MAX_BODY})"
        ));
    }
    Ok(CheckedBody {
        max_bytes,
        allow_partial: written.allow_partial_message,
        as_bytes: written.pack_as_bytes,
    })
}

/// A status that an answer can have; Istio has it as a text.
fn status(value: &Value) -> Result<u16, String> {
    let number = match value {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.as_u64(),
        _ => None,
    };
    let status =
        number.and_then(|number| u16::try_from(number).ok()).filter(|status| (200..600).contains(status));
    status.ok_or_else(|| format!("statusOnError {value} is none (expected 200 to 599)"))
}

/// Names with at most one star, at the beginning or the end; in lower case.
fn patterns(field: &str, list: Option<Vec<String>>) -> Result<Vec<String>, String> {
    let one = |text: String| {
        if TextPattern::parse(&text) == Ok(TextPattern::Present) {
            return Err(format!(
                "{field}: \"*\" alone is not supported (expected a name, PREFIX* or *SUFFIX)"
            ));
        }
        TextPattern::parse(&text).map_err(|why| format!("{field}: {why}"))?;
        header(text.trim_matches('*')).map_err(|why| format!("{field}: {why}"))?;
        Ok(text.to_ascii_lowercase())
    };
    list.unwrap_or_default().into_iter().map(one).collect()
}

fn header(name: &str) -> Result<HeaderName, String> {
    name.parse().map_err(|_| format!("{name:?} is no name of a header"))
}

#[cfg(test)]
mod tests;
