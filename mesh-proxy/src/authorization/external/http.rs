//! A provider that is asked by HTTP: the request itself, as far as it is shown, and what its answer means.
//!
//! 200 lets a request pass, 5xx is no answer, everything else is what the client is told (Envoy's `http_service`).

use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION, WWW_AUTHENTICATE,
};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Request, StatusCode, Uri, Version};

use super::HttpSettings;
use super::answer::{Answer, Change, Changes, How, NoAnswer, takes};
use super::body::Beginning;
use super::call::Received;
use super::fields::{is_among, is_framing, is_of_mesh};
use super::grpc::PARTIAL;
use crate::respond::Denial;

/// Names, with commas between, that go away before a request goes on.
const REMOVE: HeaderName = HeaderName::from_static("x-envoy-auth-headers-to-remove");

/// The request to the provider.
///
/// # Errors
/// One that cannot be shown in this way.
pub(super) fn request(
    settings: &HttpSettings,
    head: &Parts,
    body: Option<&Beginning>,
) -> Result<(Parts, Bytes), NoAnswer> {
    if head.method == Method::CONNECT {
        return Err(NoAnswer::Invalid("CONNECT cannot be asked about by HTTP".to_owned()));
    }
    let (mut asked, ()) = Request::new(()).into_parts();
    asked.method = head.method.clone();
    asked.version = Version::HTTP_11;
    asked.uri = path(&settings.prefix, &head.uri)?;
    for (name, value) in &head.headers {
        // Once asked, it is asked by us: a client does not say how much of a body is shown.
        let shown = *name == AUTHORIZATION || is_among(&settings.shown, name.as_str());
        if *name == HOST || shown && !is_framing(name) && *name != PARTIAL {
            asked.headers.append(name, value.clone());
        }
    }
    for (name, value) in &settings.additional {
        asked.headers.insert(name, value.clone());
    }
    if let Some(beginning) = body {
        let partial = if beginning.partial { "true" } else { "false" };
        asked.headers.insert(PARTIAL, HeaderValue::from_static(partial));
        if let Some(kind) = head.headers.get(CONTENT_TYPE) {
            asked.headers.insert(CONTENT_TYPE, kind.clone());
        }
    }
    Ok((asked, body.map(|beginning| beginning.bytes.clone()).unwrap_or_default()))
}

fn path(prefix: &str, uri: &Uri) -> Result<Uri, NoAnswer> {
    let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    if prefix.is_empty() {
        return Ok(uri.clone());
    }
    // `OPTIONS *` has no path.
    let path = if path == "*" { "/" } else { path };
    format!("{prefix}{path}")
        .parse()
        .map_err(|_| NoAnswer::Invalid("a path that is too long with its prefix".to_owned()))
}

/// What came back. `client`: what the request that is asked about has.
pub(super) fn answer(
    settings: &HttpSettings,
    received: Received,
    client: &HeaderMap,
) -> Result<Answer, NoAnswer> {
    let status = received.head.status;
    if status.is_server_error() || status.is_informational() {
        return Err(NoAnswer::Failed(format!("status {}", status.as_u16())));
    }
    if status != StatusCode::OK {
        return Ok(Answer::Denied(denial(settings, received)));
    }
    let headers = &received.head.headers;
    let chosen = |is_chosen: &dyn Fn(&str) -> bool, how: How| {
        let named = headers.iter().filter(|(name, _)| is_chosen(name.as_str()) && may_be_set(name));
        named
            .map(|(name, value)| Change::new(name.as_str().as_bytes(), value.as_bytes(), how))
            .collect::<Result<Vec<_>, _>>()
    };
    let upstream = |name: &str| is_among(&settings.upstream, name);
    let lists = headers.get_all(&REMOVE).iter().filter_map(|line| line.to_str().ok());
    let removed = lists.flat_map(|line| line.split(',')).filter_map(|name| name.trim().parse().ok());
    let changes = Changes {
        // What the provider does not say, nobody says.
        taken: takes(client, upstream),
        request: chosen(&upstream, How::Set)?,
        removed: removed.collect(),
        response: chosen(&|name| is_among(&settings.downstream_on_allow, name), How::Append)?,
    };
    changes.bounded().map(Answer::Allowed)
}

/// A request that passes without an answer (`failOpen`): what the provider does not say, nobody says then either.
pub(super) fn unanswered(settings: &HttpSettings, client: &HeaderMap) -> Changes {
    Changes { taken: takes(client, |name| is_among(&settings.upstream, name)), ..Changes::default() }
}

/// The answer's own length and connection are no fields that it has chosen.
fn may_be_set(name: &HeaderName) -> bool {
    !is_framing(name) && !is_of_mesh(name) && *name != REMOVE
}

fn denial(settings: &HttpSettings, received: Received) -> Denial {
    let always = |name: &HeaderName| *name == LOCATION || *name == WWW_AUTHENTICATE;
    let told = |name: &HeaderName| match &settings.downstream_on_deny {
        None => true,
        Some(patterns) => always(name) || is_among(patterns, name.as_str()),
    };
    let mut headers = HeaderMap::new();
    for (name, value) in received.head.headers.iter().filter(|(name, _)| told(name) && may_be_set(name)) {
        headers.append(name, value.clone());
    }
    Denial { status: received.head.status, headers, body: received.body }
}
