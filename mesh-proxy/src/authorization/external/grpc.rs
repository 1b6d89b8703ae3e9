//! A provider that speaks `envoy.service.auth.v3`: what it is told of a request, and what its answer means.
//!
//! Fields as Envoy fills them in; gRPC over HTTP/2 ("PROTOCOL-HTTP2") framed by hand, as it is one message each way.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HOST, HeaderValue, TE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, Method, Request, StatusCode, Version};
use mesh_proto::model::SpiffeId;
use mesh_proto::wire::envoy::config::core::v3 as core;
use mesh_proto::wire::envoy::service::auth::v3 as auth;
use prost::Message as _;

use super::answer::{Answer, Change, Changes, How, NoAnswer};
use super::ask::Whom;
use super::body::Beginning;
use super::call::Received;
use super::fields::is_framing;
use crate::http::service::grpc_status;
use crate::respond::Denial;

/// Whether all of a body is shown, in Envoy's words.
pub(super) const PARTIAL: HeaderName = HeaderName::from_static("x-envoy-auth-partial-body");
/// Of gRPC: what was sent is too much, for one.
const RESOURCE_EXHAUSTED: u32 = 8;

/// What is told about a connection.
pub(super) fn attributes(whom: &Whom<'_>, own: &SpiffeId) -> auth::AttributeContext {
    use auth::attribute_context::{Peer, TlsSession};
    let connection = whom.connection;
    let address = |at: std::net::SocketAddr| core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address: at.ip().to_string(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(at.port().into())),
        })),
    };
    let source = Peer {
        address: Some(address(whom.source)),
        principal: connection.peer.as_ref().map(ToString::to_string).unwrap_or_default(),
        ..Peer::default()
    };
    let destination = Peer {
        address: Some(address(connection.destination)),
        principal: own.to_string(),
        ..Peer::default()
    };
    let sni = connection.sni.to_string();
    auth::AttributeContext {
        source: Some(source),
        destination: Some(destination),
        tls_session: (!sni.is_empty()).then_some(TlsSession { sni }),
        ..auth::AttributeContext::default()
    }
}

/// What is told about a request: everything.
pub(super) fn request(
    head: &Parts,
    size: Option<u64>,
    body: Option<&Beginning>,
    as_bytes: bool,
) -> auth::attribute_context::Request {
    let host = head.headers.get(HOST).map(text).unwrap_or_default();
    let path = head.uri.path_and_query().map_or_else(|| head.uri.to_string(), ToString::to_string);
    let scheme = scheme(&head.headers);
    let mut headers = headers(&head.headers);
    for (name, value) in
        [(":authority", &*host), (":method", head.method.as_str()), (":path", &path), (":scheme", scheme)]
    {
        headers.insert(name.to_owned(), value.to_owned());
    }
    let mut http = auth::attribute_context::HttpRequest {
        id: head.headers.get(&crate::exchange::REQUEST_ID).map(text).unwrap_or_default(),
        method: head.method.to_string(),
        path,
        host,
        scheme: scheme.to_owned(),
        size: size.and_then(|size| i64::try_from(size).ok()).unwrap_or(-1),
        protocol: match head.version {
            Version::HTTP_10 => "HTTP/1.0",
            Version::HTTP_2 => "HTTP/2",
            _ => "HTTP/1.1",
        }
        .to_owned(),
        ..auth::attribute_context::HttpRequest::default()
    };
    if let Some(beginning) = body {
        headers.insert(PARTIAL.to_string(), beginning.partial.to_string());
        if as_bytes {
            http.raw_body = beginning.bytes.clone();
        } else {
            // A text is UTF-8 there: a receiver would refuse another one.
            http.body = utf8(&beginning.bytes);
        }
    }
    http.headers = headers;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let time = prost_types::Timestamp {
        seconds: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(now.subsec_nanos()).unwrap_or(0),
    };
    auth::attribute_context::Request { time: Some(time), http: Some(http) }
}

/// `x-forwarded-proto`, where it is one of the two.
fn scheme(headers: &HeaderMap) -> &'static str {
    match headers.get("x-forwarded-proto").map(HeaderValue::as_bytes) {
        Some(b"https") => "https",
        _ => "http",
    }
}

/// Lines of a name are joined; what is no UTF-8 is made so, as it must be there.
fn headers(map: &HeaderMap) -> BTreeMap<String, String> {
    let joined = |name: &HeaderName| {
        let lines: Vec<String> = map.get_all(name).iter().map(text).collect();
        (name.as_str().to_owned(), lines.join(","))
    };
    map.keys().filter(|name| **name != HOST && **name != PARTIAL).map(joined).collect()
}

fn text(value: &HeaderValue) -> String {
    utf8(value.as_bytes())
}

/// As Envoy: `!` for each byte that is no UTF-8. Never longer than what came: a client must not make the message one that
/// the provider finds too long.
fn utf8(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(std::iter::repeat_n('!', chunk.invalid().len()));
    }
    text
}

/// The request of gRPC.
pub(super) fn framed(attributes: auth::AttributeContext) -> Bytes {
    let message = auth::CheckRequest { attributes: Some(attributes) };
    let len = message.encoded_len();
    let mut frame = BytesMut::with_capacity(5 + len);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
    message.encode(&mut frame).expect("a BytesMut grows");
    frame.freeze()
}

/// Its head.
pub(super) fn head(authority: &str, timeout: Duration) -> Parts {
    let (mut head, ()) = Request::new(()).into_parts();
    head.method = Method::POST;
    head.uri = http::Uri::from_static("/envoy.service.auth.v3.Authorization/Check");
    head.version = Version::HTTP_2;
    // Names of hosts and digits are values.
    if let Ok(authority) = HeaderValue::from_str(authority) {
        head.headers.insert(HOST, authority);
    }
    if let Ok(millis) = HeaderValue::from_str(&format!("{}m", timeout.as_millis())) {
        head.headers.insert("grpc-timeout", millis);
    }
    head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    head.headers.insert(TE, HeaderValue::from_static("trailers"));
    head
}

/// What came back.
pub(super) fn answer(received: &Received) -> Result<Answer, NoAnswer> {
    let failed = |why: String| Err(NoAnswer::Failed(why));
    if received.head.status != StatusCode::OK {
        return failed(format!("status {} where gRPC was expected", received.head.status.as_u16()));
    }
    let status =
        received.trailers.as_ref().and_then(grpc_status).or_else(|| grpc_status(&received.head.headers));
    match status {
        Some(0) => {}
        // How long a message is is the client's choice: so `failOpen` would be, too.
        Some(RESOURCE_EXHAUSTED) => {
            return Err(NoAnswer::Invalid("it finds the question too long".to_owned()));
        }
        Some(other) => return failed(format!("grpc-status {other}")),
        None => return failed("no grpc-status".to_owned()),
    }
    let Some((prefix, message)) = received.body.split_at_checked(5) else {
        return failed("no message".to_owned());
    };
    let told = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
    if prefix[0] != 0 || usize::try_from(told) != Ok(message.len()) {
        return failed("a message that is compressed or not the only one".to_owned());
    }
    let response = auth::CheckResponse::decode(message);
    meaning(response.map_err(|error| NoAnswer::Failed(format!("no CheckResponse: {error}")))?)
}

fn meaning(response: auth::CheckResponse) -> Result<Answer, NoAnswer> {
    use auth::check_response::HttpResponse;
    let code = match (response.status, &response.http_response) {
        (Some(status), _) => status.code,
        (None, Some(HttpResponse::OkResponse(_))) => 0,
        // Envoy takes nothing at all for a yes.
        (None, _) => return Err(NoAnswer::Failed("no status".to_owned())),
    };
    match (code, response.http_response) {
        (0, None) => Ok(Answer::Allowed(Changes::default())),
        (0, Some(HttpResponse::OkResponse(ok))) => allowed(&ok).map(Answer::Allowed),
        (0, Some(_)) => Err(NoAnswer::Invalid("it allows and denies at once".to_owned())),
        (_, Some(HttpResponse::ErrorResponse(_))) => Err(NoAnswer::Failed("an error_response".to_owned())),
        (_, Some(HttpResponse::DeniedResponse(denied))) => denial(denied).map(Answer::Denied),
        (_, Some(HttpResponse::OkResponse(_)) | None) => {
            denial(auth::DeniedHttpResponse::default()).map(Answer::Denied)
        }
    }
}

fn allowed(ok: &auth::OkHttpResponse) -> Result<Changes, NoAnswer> {
    if !ok.query_parameters_to_set.is_empty() || !ok.query_parameters_to_remove.is_empty() {
        return Err(NoAnswer::Invalid("it changes query parameters, which is not in force".to_owned()));
    }
    let changes =
        |options: &[core::HeaderValueOption]| options.iter().map(change).collect::<Result<Vec<_>, _>>();
    let removed = ok.headers_to_remove.iter().filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok());
    let (request, response) = (changes(&ok.headers)?, changes(&ok.response_headers_to_add)?);
    Changes { taken: Vec::new(), request, removed: removed.collect(), response }.bounded()
}

/// One field. In these messages nothing said means to replace: so a client's own value never stands beside it by chance.
fn change(option: &core::HeaderValueOption) -> Result<Change, NoAnswer> {
    use core::header_value_option::HeaderAppendAction as Action;
    let how = match (option.append, Action::try_from(option.append_action)) {
        (Some(true), _) => How::Append,
        (Some(false), _) | (None, Ok(Action::AppendIfExistsOrAdd | Action::OverwriteIfExistsOrAdd)) => {
            How::Set
        }
        (None, Ok(Action::AddIfAbsent)) => How::AddIfAbsent,
        (None, Ok(Action::OverwriteIfExists)) => How::Replace,
        (None, Err(_)) => return Err(NoAnswer::Invalid("an append_action that is none".to_owned())),
    };
    let header = option.header.clone().unwrap_or_default();
    let value = if header.raw_value.is_empty() { header.value.as_bytes() } else { &header.raw_value };
    Change::new(header.key.as_bytes(), value, how)
}

fn denial(denied: auth::DeniedHttpResponse) -> Result<Denial, NoAnswer> {
    let code = denied.status.map_or(0, |status| status.code);
    let status = match code {
        0 => Some(StatusCode::FORBIDDEN),
        code => u16::try_from(code)
            .ok()
            .filter(|code| (200..600).contains(code))
            .and_then(|c| StatusCode::from_u16(c).ok()),
    };
    let status = status.ok_or_else(|| NoAnswer::Invalid(format!("it denies with the status {code}")))?;
    // The length of its answer to us, where it names it, is not that of ours to the client.
    let is_left_out = |option: &&core::HeaderValueOption| {
        let key = option.header.as_ref().map(|header| header.key.as_bytes()).unwrap_or_default();
        HeaderName::from_bytes(key).is_ok_and(|name| is_framing(&name))
    };
    let named = denied.headers.iter().filter(|option| !is_left_out(option));
    let response = named.map(change).collect::<Result<Vec<_>, _>>()?;
    let Changes { response, .. } = Changes { response, ..Changes::default() }.bounded()?;
    let mut headers = HeaderMap::new();
    // As in Envoy: what it names replaces ours, and several of a name are several lines.
    for change in response {
        headers.append(change.name, change.value);
    }
    Ok(Denial { status, headers, body: Bytes::from(denied.body) })
}
