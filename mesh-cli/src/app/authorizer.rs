//! The sample application as somebody who is asked (AuthorizationPolicy CUSTOM), on the same port by HTTP and by gRPC
//! (`envoy.service.auth.v3`), as Istio's sample `ext-authz` has it: a request with `x-ext-authz: allow` may pass.
//!
//! In: what a proxy tells of a request. Out: yes or no, and fields that say which: `x-ext-authz-check-result`, and
//! `x-ext-authz-check-received` with what was told.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use mesh_proto::wire::envoy::config::core::v3::{HeaderValue as Field, HeaderValueOption};
use mesh_proto::wire::envoy::service::auth::v3 as auth;
use mesh_proto::wire::envoy::r#type::v3::HttpStatus;
use mesh_proto::wire::google::rpc::Status;

use super::answer;
use super::http::{Body, text};

const CHECK: &str = "x-ext-authz";
const ALLOW: &str = "allow";
const RESULT: &str = "x-ext-authz-check-result";
const RECEIVED: &str = "x-ext-authz-check-received";
const OVERRIDE: &str = "x-ext-authz-additional-header-override";
const OVERRIDE_BY_GRPC: &str = "grpc-additional-header-override-value";
const DENIED: &str = "denied by ext_authz for not found header `x-ext-authz: allow` in the request";
/// `PERMISSION_DENIED`.
const PERMISSION_DENIED: i32 = 7;
/// Of what was told, so much is told back.
const MAX_TOLD: usize = 4 << 10;
/// A longer body is not looked at.
const MAX_BODY: usize = 1 << 20;

/// Answers a question by HTTP: it is the request itself.
pub async fn by_http<B>(request: Request<B>) -> http::Response<Body>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (head, body) = request.into_parts();
    let body = Limited::new(body, MAX_BODY).collect().await.map(http_body_util::Collected::to_bytes);
    let body = String::from_utf8_lossy(&body.unwrap_or_default()).into_owned();
    let allowed = head.headers.get(CHECK).is_some_and(|value| value == ALLOW);
    let host = head.headers.get("host").map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned());
    let told = format!(
        "{} {}{}, headers: {:?}, body: [{body}]",
        head.method,
        host.unwrap_or_default(),
        head.uri,
        answer::headers(&head.headers)
    );
    let mut response = if allowed { text(StatusCode::OK, "") } else { text(StatusCode::FORBIDDEN, DENIED) };
    let headers = response.headers_mut();
    put(headers, RESULT, result(allowed));
    put(headers, RECEIVED, &told);
    if let Some(value) = head.headers.get(OVERRIDE) {
        headers.insert(OVERRIDE, value.clone());
    }
    response
}

fn put(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(&shortened(value)) {
        headers.insert(name, value);
    }
}

fn result(allowed: bool) -> &'static str {
    if allowed { "allowed" } else { "denied" }
}

/// A value of a field: no control characters, not too long.
fn shortened(text: &str) -> String {
    text.chars().map(|c| if matches!(c, ' '..='~') { c } else { '.' }).take(MAX_TOLD).collect()
}

/// Answers questions by gRPC.
#[derive(Debug, Clone, Copy)]
pub struct ByGrpc;

#[tonic::async_trait]
impl auth::authorization_server::Authorization for ByGrpc {
    async fn check(
        &self,
        request: tonic::Request<auth::CheckRequest>,
    ) -> Result<tonic::Response<auth::CheckResponse>, tonic::Status> {
        let attributes = request.into_inner().attributes.unwrap_or_default();
        let http = attributes.request.clone().and_then(|request| request.http);
        let said = http.as_ref().and_then(|http| http.headers.get(CHECK));
        let allowed = said.is_some_and(|said| said == ALLOW);
        let told = shortened(&format!("{attributes:?}"));
        let headers = [(RESULT, result(allowed)), (RECEIVED, told.as_str()), (OVERRIDE, OVERRIDE_BY_GRPC)];
        let headers = headers.map(|(key, value)| HeaderValueOption {
            header: Some(Field { key: key.to_owned(), value: value.to_owned(), ..Field::default() }),
            ..HeaderValueOption::default()
        });
        let headers = headers.to_vec();
        let (code, answer) = if allowed {
            (
                0,
                auth::check_response::HttpResponse::OkResponse(auth::OkHttpResponse {
                    headers,
                    ..auth::OkHttpResponse::default()
                }),
            )
        } else {
            let denied = auth::DeniedHttpResponse {
                status: Some(HttpStatus { code: 403 }),
                headers,
                body: DENIED.to_owned(),
            };
            (PERMISSION_DENIED, auth::check_response::HttpResponse::DeniedResponse(denied))
        };
        Ok(tonic::Response::new(auth::CheckResponse {
            status: Some(Status { code, ..Status::default() }),
            http_response: Some(answer),
            ..auth::CheckResponse::default()
        }))
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;

    #[tokio::test]
    async fn by_http_the_request_is_the_question() {
        for (said, status, result) in
            [(Some("allow"), 200, "allowed"), (Some("deny"), 403, "denied"), (None, 403, "denied")]
        {
            let mut request = Request::post("/a?b").header("host", "web");
            if let Some(said) = said {
                request = request.header(CHECK, said).header(OVERRIDE, "x");
            }
            let response = by_http(request.body(Full::new(Bytes::from_static(b"one\ntwo"))).unwrap()).await;
            assert_eq!(
                (response.status().as_u16(), response.headers()[RESULT].to_str().unwrap()),
                (status, result)
            );
            let told = response.headers()[RECEIVED].to_str().unwrap();
            assert!(
                told.starts_with("POST web/a?b, headers:") && told.ends_with("body: [one.two]"),
                "{told}"
            );
            assert_eq!(response.headers().contains_key(OVERRIDE), said.is_some());
        }
    }

    #[tokio::test]
    async fn by_grpc_it_is_told_of() {
        use auth::authorization_server::Authorization as _;
        for (said, code) in [("allow", 0), ("deny", PERMISSION_DENIED)] {
            let http = auth::attribute_context::HttpRequest {
                headers: [(CHECK.to_owned(), said.to_owned())].into(),
                ..Default::default()
            };
            let request = auth::attribute_context::Request { http: Some(http), ..Default::default() };
            let attributes = auth::AttributeContext { request: Some(request), ..Default::default() };
            let request = tonic::Request::new(auth::CheckRequest { attributes: Some(attributes) });
            let response = ByGrpc.check(request).await.unwrap().into_inner();
            assert_eq!(response.status.unwrap().code, code);
        }
    }
}
