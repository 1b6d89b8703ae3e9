//! What is parsed, what is told, and what answers mean, as values.

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, response};
use mesh_proto::wire::mesh::v1 as wire;
use wire::external_authorization::Protocol as By;

use super::answer::{Answer, Change, Changes, How, NoAnswer};
use super::call::Received;
use super::fields::is_framing;
use super::{External, InvalidExternal, grpc, http as by_http};

fn wire() -> wire::ExternalAuthorization {
    wire::ExternalAuthorization {
        provider: "p".into(),
        cluster: Some(wire::HostPort { host: "authz".into(), port: 9000 }),
        timeout: Some(prost_types::Duration { seconds: 600, nanos: 0 }),
        status_on_error: 403,
        protocol: Some(By::Grpc(wire::Empty {})),
        ..Default::default()
    }
}

fn http(settings: wire::HttpAuthorization) -> wire::ExternalAuthorization {
    wire::ExternalAuthorization { protocol: Some(By::Http(settings)), ..wire() }
}

#[test]
fn what_means_nothing_is_refused() {
    assert!(External::parse(&wire()).is_ok());
    let with = |change: &dyn Fn(&mut wire::ExternalAuthorization)| {
        let mut wire = wire();
        change(&mut wire);
        External::parse(&wire).map(|_| ())
    };
    assert_eq!(with(&|w| w.cluster = None), Err(InvalidExternal::Field("cluster is missing")));
    assert_eq!(with(&|w| w.timeout = None), Err(InvalidExternal::Field("timeout is no time")));
    assert_eq!(with(&|w| w.protocol = None), Err(InvalidExternal::Field("protocol is missing")));
    for status in [0, 101, 600, 70_000] {
        let wrong = Err(InvalidExternal::Field("status_on_error is no final status"));
        assert_eq!(with(&|w| w.status_on_error = status), wrong);
    }
    assert!(with(&|w| w.body = Some(wire::CheckedBody::default())).is_err());
    assert!(with(&|w| w.cluster = Some(wire::HostPort { host: "a".into(), port: 0 })).is_err());
    assert!(
        with(&|w| w.policies = vec![wire::AuthorizationPolicy { action: 77, ..Default::default() }]).is_err()
    );
    // Where it cannot be asked, nothing else is needed.
    let trouble = wire::ExternalAuthorization { trouble: "none".into(), ..Default::default() };
    assert!(External::parse(&trouble).is_ok_and(|external| external.cluster().is_none()));
    let of_http = |settings: wire::HttpAuthorization| External::parse(&http(settings)).is_ok();
    assert!(of_http(wire::HttpAuthorization { path_prefix: "/a".into(), ..Default::default() }));
    assert!(!of_http(wire::HttpAuthorization { path_prefix: "a".into(), ..Default::default() }));
    assert!(!of_http(wire::HttpAuthorization { path_prefix: "/a b".into(), ..Default::default() }));
    assert!(!of_http(wire::HttpAuthorization { request_headers: vec!["a*b".into()], ..Default::default() }));
    for (name, value) in [("content-length", "1"), ("a b", "1"), ("a", "b\r\nc")] {
        let additional_headers = [(name.to_owned(), value.to_owned())].into();
        assert!(!of_http(wire::HttpAuthorization { additional_headers, ..Default::default() }), "{name}");
    }
}

#[test]
fn equal_settings_are_equal_whatever_cell_they_use() {
    let (a, b) = (External::parse(&wire()).unwrap(), External::parse(&wire()).unwrap());
    assert_eq!(a, b);
    let other = External::parse(&wire::ExternalAuthorization { fail_open: true, ..wire() }).unwrap();
    assert_ne!(a, other);
}

fn received(status: u16, headers: &[(&'static str, &str)], body: &[u8], trailers: Option<u32>) -> Received {
    let (mut head, ()): (response::Parts, ()) = http::Response::new(()).into_parts();
    head.status = StatusCode::from_u16(status).unwrap();
    for (name, value) in headers {
        head.headers.append(*name, value.parse().unwrap());
    }
    let trailers =
        trailers.map(|status| HeaderMap::from_iter([("grpc-status".parse().unwrap(), status.into())]));
    Received { head, body: Bytes::copy_from_slice(body), trailers }
}

/// Row J16: whatever is not a whole answer is none.
#[test]
fn of_grpc_only_a_whole_answer_counts() {
    let allowed = b"\0\0\0\0\x02\x0a\0";
    assert_eq!(grpc::answer(&received(200, &[], allowed, Some(0))), Ok(Answer::Allowed(Changes::default())));
    // Trailers-only has it in the head.
    assert_eq!(
        grpc::answer(&received(200, &[("grpc-status", "0")], allowed, None)),
        Ok(Answer::Allowed(Changes::default()))
    );
    let none = [
        received(200, &[], allowed, None),
        received(200, &[], allowed, Some(13)),
        received(503, &[], allowed, Some(0)),
        received(200, &[], b"", Some(0)),
        // A message that says nothing.
        received(200, &[], b"\0\0\0\0\0", Some(0)),
        received(200, &[], b"\0\0\0\0", Some(0)),
        received(200, &[], b"\x01\0\0\0\x02\x0a\0", Some(0)),
        received(200, &[], b"\0\0\0\0\x03\x0a\0", Some(0)),
        received(200, &[], b"\0\0\0\0\x02\x0a\0\0\0\0\0\x02\x0a\0", Some(0)),
        received(200, &[], b"\0\xff\xff\xff\xff", Some(0)),
        received(200, &[], b"\0\0\0\0\x02\x0a\x09", Some(0)),
    ];
    for received in none {
        let answer = grpc::answer(&received);
        assert!(matches!(answer, Err(NoAnswer::Failed(_))), "{answer:?}");
    }
}

/// How long the question is, the client chooses: `failOpen` is not for that.
#[test]
fn a_question_that_is_too_long_never_passes() {
    let answer = grpc::answer(&received(200, &[("grpc-status", "8")], b"", None));
    assert!(matches!(answer, Err(NoAnswer::Invalid(_))), "{answer:?}");
    let (mut head, ()) = Request::new(()).into_parts();
    head.headers.insert("x-a", http::HeaderValue::from_bytes(b"\xff\xe2\x82a\xc3\xa4").unwrap());
    let told = grpc::request(&head, None, None, false).http.unwrap();
    assert_eq!(told.headers["x-a"], "!!!aä");
}

/// No bytes make it panic, and none before a status that says no make a yes of it.
#[test]
fn noise_allows_nothing() {
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for _ in 0..20_000 {
        let len = u8::try_from(random() % 24).unwrap();
        let mut body = vec![0, 0, 0, 0, len + 4];
        body.extend((0..len).map(|_| u8::try_from(random() & 0xff).unwrap()));
        body.extend_from_slice(&[0x0a, 2, 8, 7]);
        let answer = grpc::answer(&received(200, &[], &body, Some(0)));
        assert!(!matches!(answer, Ok(Answer::Allowed(_))), "{body:?}");
    }
}

#[test]
fn of_http_the_status_says_it() {
    let External { provider, .. } = External::parse(&http(wire::HttpAuthorization::default())).unwrap();
    let super::Protocol::Http(settings) = provider.unwrap().protocol else { panic!("HTTP") };
    let none = HeaderMap::new();
    let answer = |status| by_http::answer(&settings, received(status, &[], b"", None), &none);
    assert!(matches!(answer(200), Ok(Answer::Allowed(_))));
    for status in [201, 204, 302, 401, 403, 404, 429, 499] {
        assert!(
            matches!(answer(status), Ok(Answer::Denied(denial)) if denial.status.as_u16() == status),
            "{status}"
        );
    }
    for status in [101, 500, 503, 599] {
        assert!(matches!(answer(status), Err(NoAnswer::Failed(_))), "{status}");
    }
}

/// Without an answer as with one that says nothing of them.
#[test]
fn what_only_the_provider_says_no_client_says() {
    let to_upstream_on_allow = ["x-user", "x-forwarded-*", "x-request-*"].map(str::to_owned).to_vec();
    let written = wire::HttpAuthorization { to_upstream_on_allow, ..Default::default() };
    let External { provider, .. } = External::parse(&http(written)).unwrap();
    let super::Protocol::Http(settings) = provider.unwrap().protocol else { panic!("HTTP") };
    let of_proxy = ["for", "proto", "host", "port", "client-cert"].map(|name| format!("x-forwarded-{name}"));
    let of_client = ["x-user", "x_user", "x-forwarded-user", "x-forwarded-email", "x_forwarded_groups"];
    let mut client = HeaderMap::new();
    for name in of_proxy.iter().map(String::as_str).chain(["x-request-id", "x-other"]).chain(of_client) {
        client.insert(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), "a".parse().unwrap());
    }
    let none = by_http::unanswered(&settings, &client);
    let mut taken: Vec<&str> = none.taken.iter().map(http::HeaderName::as_str).collect();
    taken.sort_unstable();
    let mut expected = of_client;
    expected.sort_unstable();
    assert_eq!(taken, expected);
    assert_eq!(by_http::answer(&settings, received(200, &[], b"", None), &client), Ok(Answer::Allowed(none)));
}

#[test]
fn connect_cannot_be_asked_about_by_http() {
    let External { provider, .. } = External::parse(&http(wire::HttpAuthorization::default())).unwrap();
    let super::Protocol::Http(settings) = provider.unwrap().protocol else { panic!("HTTP") };
    let (head, ()) = Request::connect("a:1").body(()).unwrap().into_parts();
    assert!(matches!(by_http::request(&settings, &head, None), Err(NoAnswer::Invalid(_))));
}

#[test]
fn changes_and_what_they_must_not_touch() {
    let set = |name: &str, how| Change::new(name.as_bytes(), b"new", how).unwrap();
    let head = |lines: &[(&'static str, &'static str)]| {
        let (mut head, ()) = Request::new(()).into_parts();
        for (name, value) in lines {
            head.headers.append(*name, value.parse().unwrap());
        }
        head
    };
    let of = |how, lines: &[(&'static str, &'static str)]| {
        let mut head = head(lines);
        Changes { request: vec![set("x-a", how)], ..Changes::default() }.to_request(&mut head);
        let values = head.headers.get_all("x-a").iter().map(|value| value.to_str().unwrap().to_owned());
        values.collect::<Vec<_>>().join(",")
    };
    let there = [("x-a", "old"), ("x-a", "older")];
    assert_eq!((of(How::Append, &there), of(How::Append, &[])), ("old,older,new".into(), "new".into()));
    assert_eq!((of(How::Set, &there), of(How::Set, &[])), ("new".into(), "new".into()));
    assert_eq!((of(How::AddIfAbsent, &there), of(How::AddIfAbsent, &[])), ("old,older".into(), "new".into()));
    assert_eq!((of(How::Replace, &there), of(How::Replace, &[])), ("new".into(), String::new()));
    let mut all = head(&[("host", "a"), ("content-length", "3"), ("x_a", "mallory"), ("x-b", "b")]);
    let removed = ["host", "content-length", "x-b"].map(|name| name.parse().unwrap()).to_vec();
    Changes { request: vec![set("x-a", How::Set)], removed, ..Changes::default() }.to_request(&mut all);
    let names: Vec<&str> = all.headers.keys().map(http::HeaderName::as_str).collect();
    assert_eq!(names, ["host", "content-length", "x-a"]);
    for name in [
        "Host",
        "TE",
        "Trailer",
        "Upgrade",
        "Connection",
        "Content-Length",
        "Transfer-Encoding",
        "Keep-Alive",
    ] {
        assert!(is_framing(&name.parse().unwrap()), "{name}");
        assert!(matches!(Change::new(name.as_bytes(), b"a", How::Set), Err(NoAnswer::Invalid(_))), "{name}");
    }
}
