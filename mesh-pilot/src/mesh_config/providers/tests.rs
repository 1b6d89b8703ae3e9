//! What each field means, and what is wrong by itself.

use serde_json::json;

use super::*;

fn one(value: Value) -> (Provider, Vec<String>) {
    let mut told = Vec::new();
    let mut providers = read(&json!([value]), &mut told).unwrap();
    (
        providers.remove(0).is,
        told.into_iter().map(|told| format!("{}: {}", told.path, told.message)).collect(),
    )
}

#[test]
fn defaults_are_istios() {
    let (provider, told) =
        one(json!({"name": "a", "envoyExtAuthzGrpc": {"service": "x.y.svc", "port": 9000}}));
    let authorizer = Authorizer {
        service: "x.y.svc".into(),
        port: 9000,
        timeout: Duration::from_secs(600),
        fail_open: false,
        status_on_error: 403,
        body: None,
        clear_route_cache: false,
        speaks: Speaks::Grpc,
    };
    assert_eq!((provider, told.len()), (Provider::Authorizer(Box::new(authorizer)), 0));
}

#[test]
fn every_field_is_read() {
    let (provider, told) = one(json!({"name": "a", "envoyExtAuthzHttp": {
        "service": "ns/x.y", "port": 8000, "timeout": "0.5s", "failOpen": true, "statusOnError": "503",
        "clearRouteCache": true, "pathPrefix": "/check", "includeHeadersInCheck": ["A"],
        "includeRequestHeadersInCheck": ["X-A", "x-*", "*-id"], "includeAdditionalHeadersInCheck": {"X-Static": "1"},
        "includeRequestBodyInCheck": {"maxRequestBytes": 10, "allowPartialMessage": true, "packAsBytes": true},
        "headersToUpstreamOnAllow": ["x-user"], "headersToDownstreamOnDeny": ["set-cookie"],
        "headersToDownstreamOnAllow": ["x-ok"],
    }}));
    let Provider::Authorizer(authorizer) = provider else { panic!("{provider:?}") };
    assert_eq!(authorizer.timeout, Duration::from_millis(500));
    assert_eq!(
        (authorizer.fail_open, authorizer.clear_route_cache, authorizer.status_on_error),
        (true, true, 503)
    );
    assert_eq!(authorizer.body, Some(CheckedBody { max_bytes: 10, allow_partial: true, as_bytes: true }));
    let http = HttpAuthorization {
        path_prefix: "/check".into(),
        request_headers: vec!["x-a".into(), "x-*".into(), "*-id".into()],
        additional_headers: [("x-static".to_owned(), "1".to_owned())].into(),
        to_upstream_on_allow: vec!["x-user".into()],
        to_downstream_on_allow: vec!["x-ok".into()],
        to_downstream_on_deny: vec!["set-cookie".into()],
    };
    assert_eq!(authorizer.speaks, Speaks::Http(http));
    assert_eq!(
        told,
        [
            "extensionProviders[0] (a): includeHeadersInCheck is deprecated (expected includeRequestHeadersInCheck)"
        ]
    );
    let (older, _) = one(
        json!({"name": "a", "envoyExtAuthzHttp": {"service": "x", "port": 1, "includeHeadersInCheck": ["A"]}}),
    );
    let Provider::Authorizer(older) = older else { panic!("{older:?}") };
    assert!(matches!(older.speaks, Speaks::Http(http) if http.request_headers == ["a"]));
}

#[test]
fn what_is_wrong_is_wrong_by_itself() {
    let grpc = |mut fields: Value| {
        let mut all = json!({"service": "x", "port": 1});
        all.as_object_mut().unwrap().append(fields.as_object_mut().unwrap());
        all
    };
    let cases = [
        (json!({"envoyExtAuthzGrpc": {"port": 1}}), "missing field `service`"),
        (json!({"envoyExtAuthzGrpc": {"service": "", "port": 1}}), "service is empty"),
        (json!({"envoyExtAuthzGrpc": {"service": "x", "port": 0}}), "port 0"),
        (json!({"envoyExtAuthzGrpc": {"service": "x", "port": 70000}}), "port 70000"),
        (json!({"envoyExtAuthzGrpc": grpc(json!({"timeout": "0s"}))}), "timeout"),
        (json!({"envoyExtAuthzGrpc": grpc(json!({"timeout": "2h"}))}), "timeout"),
        (json!({"envoyExtAuthzGrpc": grpc(json!({"statusOnError": "soon"}))}), "statusOnError"),
        (json!({"envoyExtAuthzGrpc": grpc(json!({"statusOnError": "99"}))}), "statusOnError"),
        (json!({"envoyExtAuthzGrpc": grpc(json!({"failopen": true}))}), "unknown field `failopen`"),
        (
            json!({"envoyExtAuthzGrpc": grpc(json!({"pathPrefix": "/a"}))}),
            "pathPrefix is a field of envoyExtAuthzHttp",
        ),
        (json!({"envoyExtAuthzGrpc": grpc(json!({"includeRequestBodyInCheck": {}}))}), "maxRequestBytes 0"),
        (json!({"envoyExtAuthzHttp": grpc(json!({"pathPrefix": "a"}))}), "pathPrefix"),
        (json!({"envoyExtAuthzHttp": grpc(json!({"pathPrefix": "/a b"}))}), "pathPrefix"),
        (json!({"envoyExtAuthzHttp": grpc(json!({"includeRequestHeadersInCheck": ["*"]}))}), "alone"),
        (
            json!({"envoyExtAuthzHttp": grpc(json!({"headersToUpstreamOnAllow": ["a*b"]}))}),
            "headersToUpstreamOnAllow",
        ),
        (
            json!({"envoyExtAuthzHttp": grpc(json!({"headersToDownstreamOnDeny": ["a b"]}))}),
            "no name of a header",
        ),
        (
            json!({"envoyExtAuthzHttp": grpc(json!({"includeAdditionalHeadersInCheck": {"Content-Length": "1"}}))}),
            "cannot be set",
        ),
        (
            json!({"envoyExtAuthzHttp": grpc(json!({"includeAdditionalHeadersInCheck": {"a": "b\r\nc: d"}}))}),
            "cannot be set",
        ),
        (json!({"envoyExtAuthzHttp": grpc(json!({})), "zipkin": {}}), "exactly one kind"),
        (json!({"envoyExtAuthz": {}}), "is no kind of provider"),
        (json!({}), "exactly one kind"),
    ];
    for (mut value, expected) in cases {
        value["name"] = "a".into();
        let (provider, told) = one(value);
        assert!(
            matches!(&provider, Provider::Wrong(why) if why.contains(expected)),
            "{expected}: {provider:?}"
        );
        assert!(told[0].contains("what asks for it is denied"), "{told:?}");
    }
}

/// A proxy refuses these with the whole configuration of a workload: the pilot refuses the provider alone.
#[test]
fn what_frames_a_message_is_nobodys_to_set() {
    for name in
        ["Connection", "Keep-Alive", "HTTP2-Settings", "Proxy-Connection", "Transfer-Encoding", "Host"]
            .into_iter()
            .chain(["Content-Length", "TE", "Trailer", "Upgrade", "Expect"])
    {
        let (provider, _) = one(json!({"name": "a", "envoyExtAuthzHttp": {
            "service": "x", "port": 1, "includeAdditionalHeadersInCheck": {name: "1"},
        }}));
        assert!(matches!(&provider, Provider::Wrong(why) if why.contains("cannot be set")), "{name}");
    }
}

#[test]
fn names_are_unique_and_other_kinds_are_told() {
    let mut told = Vec::new();
    let good = json!({"service": "x", "port": 1});
    let list = json!([
        {"name": "a", "envoyExtAuthzGrpc": good}, {"name": "b", "zipkin": {}}, {"name": "a", "envoyExtAuthzHttp": good},
        {"envoyExtAuthzGrpc": good}, {"name": "c", "envoyExtAuthzGrpc": good},
    ]);
    let providers = read(&list, &mut told).unwrap();
    let kinds: Vec<(&str, &str)> = providers
        .iter()
        .map(|provider| {
            let kind = match &provider.is {
                Provider::Authorizer(_) => "authorizer",
                Provider::Other(_) => "other",
                Provider::Wrong(_) => "wrong",
            };
            (provider.name.as_str(), kind)
        })
        .collect();
    assert_eq!(kinds, [("b", "other"), ("a", "wrong"), ("c", "authorizer")]);
    let told: Vec<(&str, bool)> = told.iter().map(|told| (told.path.as_str(), told.is_error)).collect();
    let expected = [
        ("extensionProviders[1] (b)", false),
        ("extensionProviders[2] (a)", true),
        ("extensionProviders[3]", true),
    ];
    assert_eq!(told, expected);
    assert!(read(&json!({}), &mut Vec::new()).is_err());
}
