//! The request command against the sample application: each tests the other.

use std::net::Ipv4Addr;

use bytes::Bytes;
use http::{HeaderMap, Method};
use serde_json::{Value, json};

use super::plan::{Entry, Plan, Scheme};
use super::{Answer, one};
use crate::app::testing;

fn plan(scheme: Scheme, port: u16, path: &str) -> Plan {
    Plan {
        scheme,
        authority: format!("reviews:{port}"),
        host: "reviews:9080".to_owned(),
        server_name: "reviews".to_owned(),
        path: path.to_owned(),
        method: Method::GET,
        headers: HeaderMap::new(),
        data: None,
        timeout: 10.0,
        entry: Entry::Gateway { ip: Ipv4Addr::LOCALHOST, port, offset: 0 },
        tls: None,
    }
}

async fn ask(plan: &Plan) -> Answer {
    one(plan, &mut None).await
}

fn body(answer: &Answer) -> Value {
    serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

#[tokio::test]
async fn answers_what_it_saw() {
    let app = testing::start(None).await;
    let mut plan = plan(Scheme::Http, app.http, "/a/b?x=1&y=2");
    plan.headers.append("X-Twice", "1".parse().unwrap());
    plan.headers.append("x-twice", "2".parse().unwrap());
    let xfcc = r#"By=spiffe://cluster.local/ns/default/sa/reviews;Hash=00;Subject="";URI=spiffe://cluster.local/ns/default/sa/client"#;
    plan.headers.append("x-forwarded-client-cert", xfcc.parse().unwrap());
    let answer = ask(&plan).await;
    assert_eq!((answer.status, answer.protocol), (200, "HTTP/1.1"));
    assert_eq!((answer.instance.as_deref(), answer.version.as_deref()), (Some("reviews-v2-0"), Some("v2")));
    let seen = body(&answer);
    let expected = json!({
        "instance": "reviews-v2-0", "workload": "reviews-v2", "version": "v2", "namespace": "default", "method": "GET",
        "host": "reviews:9080", "path": "/a/b", "query": "x=1&y=2", "client": "127.0.0.1", "protocol": "HTTP/1.1",
        "headers": {"host": "reviews:9080", "x-twice": "1, 2", "x-forwarded-client-cert": xfcc},
        "peer": "spiffe://cluster.local/ns/default/sa/client",
    });
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn speaks_http2_and_keeps_connections() {
    let app = testing::start(None).await;
    let plan = plan(Scheme::H2c, app.http, "/");
    let mut connection = None;
    for _ in 0..3 {
        let answer = one(&plan, &mut connection).await;
        assert_eq!((answer.status, answer.protocol), (200, "HTTP/2"), "{answer:?}");
        assert_eq!((&body(&answer)["protocol"], &body(&answer)["peer"]), (&json!("HTTP/2"), &Value::Null));
    }
    assert!(connection.is_some());
}

#[tokio::test]
async fn numbered_answers() {
    let app = testing::start(None).await;
    assert_eq!(ask(&plan(Scheme::Http, app.http, "/status/418")).await.status, 418);
    assert_eq!(ask(&plan(Scheme::Http, app.http, "/status/x")).await.status, 400);
    let bytes = ask(&plan(Scheme::Http, app.http, "/bytes/40000")).await;
    assert_eq!((bytes.body.len(), bytes.headers["content-length"].as_str()), (40000, "40000"));
    let delayed = ask(&plan(Scheme::Http, app.http, "/delay/0.05")).await;
    assert!(delayed.status == 200 && delayed.millis >= 50.0, "{delayed:?}");
}

#[tokio::test]
async fn grpc_echo_reflection_and_health() {
    let app = testing::start(None).await;
    let mut plan = plan(Scheme::Grpc, app.http, "/");
    plan.data = Some(Bytes::from("hi"));
    plan.headers.append("x-user", "jason".parse().unwrap());
    let answer = ask(&plan).await;
    assert_eq!((answer.status, answer.headers["grpc-status"].as_str()), (200, "0"), "{answer:?}");
    let seen = body(&answer);
    assert_eq!((&seen["message"], &seen["instance"]), (&json!("hi"), &json!("reviews-v2-0")));
    assert_eq!(seen["headers"]["x-user"], "jason");
    plan.path = "/grpc.health.v1.Health/Check".to_owned();
    assert_eq!(ask(&plan).await.headers["grpc-status"], "0");
    plan.path = "/no.Such/Method".to_owned();
    assert_eq!(ask(&plan).await.headers["grpc-status"], "12");
    assert!(services(app.http).await.contains(&"mesh.app.v1.Echo".to_owned()));
}

/// What the reflection service lists.
async fn services(port: u16) -> Vec<String> {
    use tonic_reflection::pb::v1 as pb;
    let channel = tonic::transport::Endpoint::from_shared(format!("http://127.0.0.1:{port}"))
        .unwrap()
        .connect()
        .await
        .unwrap();
    let request = pb::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(pb::server_reflection_request::MessageRequest::ListServices(String::new())),
    };
    let mut client = pb::server_reflection_client::ServerReflectionClient::new(channel);
    let mut answers =
        client.server_reflection_info(tokio_stream::iter([request])).await.unwrap().into_inner();
    match answers.message().await.unwrap().unwrap().message_response {
        Some(pb::server_reflection_response::MessageResponse::ListServicesResponse(list)) => {
            list.service.into_iter().map(|service| service.name).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn websocket_and_tcp_echo() {
    let app = testing::start(None).await;
    let mut ws = plan(Scheme::Ws, app.http, "/chat");
    ws.data = Some(Bytes::from("over a socket"));
    let answer = ask(&ws).await;
    assert_eq!((answer.status, answer.body.as_str()), (101, "over a socket"), "{answer:?}");
    assert_eq!(answer.instance.as_deref(), Some("reviews-v2-0"));
    let mut tcp = plan(Scheme::Tcp, app.tcp, "/");
    tcp.data = Some(Bytes::from("bytes"));
    let answer = ask(&tcp).await;
    assert_eq!((answer.status, answer.body.as_str(), answer.protocol), (200, "bytes", "TCP"));
}

#[tokio::test]
async fn greets_first_when_told_to() {
    let app = testing::start(Some("220 ready")).await;
    assert_eq!(ask(&plan(Scheme::Tcp, app.tcp, "/")).await.body, "220 ready\nhello");
}

#[tokio::test]
async fn the_fault_switch() {
    let app = testing::start(None).await;
    let fault = |json: &str| {
        let mut plan = plan(Scheme::Http, app.http, "/fault");
        (plan.method, plan.data) = (Method::POST, Some(Bytes::from(json.to_owned())));
        plan.headers.insert("content-type", "application/json; charset=utf-8".parse().unwrap());
        plan
    };
    // C6: as a web page beside it could post it.
    for (name, value) in
        [("content-type", "text/plain"), ("origin", "https://evil.example"), ("x", "no type")]
    {
        let mut of_a_page = fault(r#"{"status":503}"#);
        if name == "x" {
            of_a_page.headers.clear();
        }
        of_a_page.headers.insert(name, value.parse().unwrap());
        let refused = ask(&of_a_page).await;
        assert!(refused.status == 403 && refused.body.contains("add content-type"), "{refused:?}");
    }
    let plain = plan(Scheme::Http, app.http, "/");
    assert_eq!(ask(&fault(r#"{"status":503}"#)).await.status, 200);
    let failing = ask(&plain).await;
    assert_eq!((failing.status, failing.instance.as_deref()), (503, Some("reviews-v2-0")));
    assert_eq!(ask(&fault(r#"{"close":true}"#)).await.status, 200);
    assert!(ask(&plain).await.error.is_some());
    assert_eq!(ask(&fault(r#"{"hang":true}"#)).await.status, 200);
    let mut hasty = plain.clone();
    hasty.timeout = 0.1;
    assert_eq!(ask(&hasty).await.error.as_deref(), Some("no answer within 0.1 s"));
    let refused = ask(&fault(r#"{"statsu":503}"#)).await;
    assert!(refused.status == 400 && refused.body.contains("unknown field"), "{refused:?}");
    assert_eq!(ask(&fault("{}")).await.status, 200);
    assert_eq!(ask(&plain).await.status, 200);
}
