//! Each form with what fits and what does not.

use std::net::IpAddr;

use super::*;

mod edges;

#[test]
fn texts() {
    let fits = |pattern: &str, text: &str| TextPattern::parse(pattern).unwrap().matches(text.as_bytes());
    assert!(fits("a", "a") && !fits("a", "A") && !fits("a", "ab") && !fits("a", ""));
    assert!(fits("a*", "abc") && fits("a*", "a") && !fits("a*", "ba"));
    assert!(fits("*c", "abc") && fits("*c", "c") && !fits("*c", "cb"));
    assert!(fits("*", "x") && !fits("*", ""), "present means not empty");
    assert!(fits("a.b", "a.b") && !fits("a.b", "axb"), "a dot is a dot");
    for wrong in ["a*b", "*a*", "**"] {
        assert_eq!(TextPattern::parse(wrong), Err(InvalidPattern::Star(wrong.into())), "{wrong}");
    }
    let any_case =
        |pattern: &str, text: &str| TextPattern::parse(pattern).unwrap().matches_any_case(text.as_bytes());
    assert!(any_case("Ab.c", "aB.C") && any_case("*.C", "x.c") && any_case("X*", "xyz"));
    assert!(!any_case("abc*", "ab") && !any_case("*abc", "bc"));
    assert!(TextPattern::parse("é*").unwrap().matches_any_case("éa".as_bytes()));
}

#[test]
fn namespaces_have_stars_anywhere() {
    let fits = |pattern: &str, text: &str| Glob::new(pattern).matches(text);
    assert!(fits("prod", "prod") && !fits("prod", "prod-1") && !fits("prod", "aprod"));
    assert!(fits("*", "a") && fits("*", ""));
    assert!(fits("p*d", "prod") && fits("p*d", "pd") && !fits("p*d", "p") && !fits("p*d", "prods"));
    assert!(fits("*a*b*", "xxaybz") && !fits("*a*b*", "ba"));
    assert!(!fits("a*a", "a"), "a text is not used twice");
    assert!(fits("a*bc", "abcbc"));
}

#[test]
fn paths() {
    let fits = |pattern: &str, path: &str| PathPattern::parse(pattern).unwrap().matches(path.as_bytes());
    assert!(fits("/a", "/a") && !fits("/a", "/a/") && fits("/a*", "/a/b") && fits("*/b", "/a/b"));
    assert!(fits("/a/{*}", "/a/b") && !fits("/a/{*}", "/a/") && !fits("/a/{*}", "/a/b/c"));
    assert!(!fits("/a/{*}", "/a") && fits("/{*}/c", "/b/c") && !fits("/{*}/c", "/b/c/"));
    assert!(fits("/a/{**}", "/a/") && fits("/a/{**}", "/a/b/c") && !fits("/a/{**}", "/a"));
    assert!(fits("/{**}", "/") && fits("/{*}/x/{**}", "/b/x/") && !fits("/{*}/x/{**}", "//x/"));
    // Istio's own example of a valid one, and others with literals behind.
    assert!(fits("/foo/{**}/", "/foo/a/") && fits("/foo/{**}/", "/foo/a/b/") && fits("/foo/{**}/", "/foo//"));
    assert!(!fits("/foo/{**}/", "/foo/") && !fits("/foo/{**}/", "/foo/a") && !fits("/foo/{**}/", "/foo"));
    assert!(
        fits("/{**}/a", "/x/a")
            && fits("/{**}/a", "/x/a/a")
            && fits("/{**}/a", "//a")
            && !fits("/{**}/a", "/a")
    );
    assert!(fits("/{*}/{**}/b/c", "/x/y/b/c") && fits("/{*}/{**}/b/c", "/x/b/c/b/c"));
    assert!(
        !fits("/{*}/{**}/b/c", "/x/b/c") && !fits("/{*}/{**}/b/c", "//y/b/c"),
        "no segment is used twice"
    );
    for wrong in [
        "/{**}/{*}",
        "/{**}/{**}",
        "/{**}/a/{*}",
        "/{**}/a*",
        "/{**}{*}",
        "/a{*}",
        "/{*}*",
        "{*}",
        "/{a}",
        "/{*}/b*",
        "/{",
        "/}",
    ] {
        assert!(PathPattern::parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn what_an_index_can_look_for() {
    let of = |attribute: &str, text: &str| {
        Pattern::parse(&attribute.parse().unwrap(), text, "n").unwrap().literal()
    };
    let path = |text: &str| of("request.path", text);
    let (whole, begin) = (|t: &str| Some(Literal::Whole(t.into())), |t: &str| Some(Literal::Begin(t.into())));
    assert_eq!((path("/a"), path("/a*"), path("*/a"), path("*")), (whole("/a"), begin("/a"), None, None));
    assert_eq!(path("/a/{*}/b"), begin("/a/"));
    assert_eq!(path("/a/{**}/b"), begin("/a/"));
    assert_eq!((path("/a/{**}"), path("/{*}"), path("/{**}")), (begin("/a/"), begin("/"), begin("/")));
    assert_eq!(of("request.host", "A.com").map(|l| l.to_ascii_lowercase()), whole("a.com"));
    assert_eq!((of("source.ip", "10.0.0.1"), of("source.namespace", "a")), (None, None));
}

#[test]
fn claims_that_are_routed_on() {
    let of = |name: &str| routed_claim(name).map(|claim| claim.map(|names| names.join("/")));
    assert_eq!(of("x-role"), Ok(None));
    assert_eq!(of("@request.auth.claims.sub"), Ok(Some("sub".into())));
    assert_eq!(of("@request.auth.claims.a.B"), Ok(Some("a/B".into())));
    assert_eq!(of("@request.auth.claims[a.b][c]"), Ok(Some("a.b/c".into())));
    assert_eq!(of("@Request.Auth.Claims.sub"), Ok(Some("sub".into())));
    for wrong in [
        "@request.auth.claims",
        "@request.auth.claims.",
        "@request.auth.claims.a..b",
        "@request.auth.claims.a[b]",
        "@request.auth.claims[a]b",
        "@request.auth.claims[]",
        "@request.auth.claimsx",
        "@request.auth.principal",
        "@request.auth.claimz.sub",
        "@request-auth.claims[sub]",
        "@",
    ] {
        assert!(of(wrong).is_err(), "{wrong}");
    }
    let long = |length: usize| {
        of(&format!("@request.auth.claims.{:a>1$}", "", length - "@request.auth.claims.".len()))
    };
    assert!(long(MAX_VALUE).is_ok() && long(MAX_VALUE + 1).is_err());
}

#[test]
fn addresses() {
    let has = |block: &str, address: &str| {
        block.parse::<AddressBlock>().unwrap().contains(address.parse::<IpAddr>().unwrap())
    };
    assert!(has("10.0.0.0/8", "10.255.0.1") && !has("10.0.0.0/8", "11.0.0.1"));
    assert!(has("10.1.2.3", "10.1.2.3") && !has("10.1.2.3", "10.1.2.4"));
    assert!(has("10.1.2.3/8", "10.9.9.9"), "bits behind the length are ignored");
    assert!(has("0.0.0.0/0", "255.1.1.1") && !has("0.0.0.0/0", "::1"));
    assert!(has("::/0", "2001:db8::1") && !has("::/0", "1.1.1.1"));
    assert!(has("2001:db8::/32", "2001:db8:1::") && !has("2001:db8::/32", "2001:db9::"));
    assert!(has("10.0.0.0/8", "::ffff:10.0.0.1") && has("::ffff:10.0.0.0/104", "10.9.0.1"));
    for wrong in ["", "10.0.0.0/33", "::/129", "a", "10.0.0/8", "10.0.0.0/+8", "10.0.0.0/", "10.0.0.0/8/8"] {
        assert!(wrong.parse::<AddressBlock>().is_err(), "{wrong}");
    }
}

#[test]
fn attributes_have_istios_names() {
    for text in [
        "source.principal",
        "source.namespace",
        "source.serviceAccount",
        "source.trustDomain",
        "source.ip",
        "remote.ip",
        "destination.ip",
        "destination.port",
        "connection.sni",
        "request.headers[x-role]",
        "request.auth.principal",
        "request.auth.audiences",
        "request.auth.presenter",
        "request.auth.claims[iss]",
        "request.auth.claims[a][b]",
    ] {
        assert_eq!(text.parse::<Attribute>().unwrap().to_string(), text);
    }
    let header: Attribute = "request.headers[X-Role]".parse().unwrap();
    assert_eq!(header, Attribute::RequestHeader("x-role".into()));
    for wrong in [
        "",
        "source",
        "source.user",
        "request.headers",
        "request.headers[]",
        "request.headers[a][b]",
        "request.headers[:path]",
        "request.headers[a",
        "request.auth.claims",
        "request.auth.claims[a]b",
        "experimental.envoy.filters.network.mysql_proxy[a]",
    ] {
        assert!(wrong.parse::<Attribute>().is_err(), "{wrong}");
    }
}

#[test]
fn values_by_what_they_are_compared_with() {
    let parse = |attribute: &Attribute, text: &str| Pattern::parse(attribute, text, "shop");
    assert_eq!(parse(&Attribute::DestinationPort, "80").unwrap(), Pattern::Port(80));
    for wrong in ["0", "65536", "http", "", "8*"] {
        assert!(parse(&Attribute::DestinationPort, wrong).is_err(), "{wrong}");
    }
    let account = |text: &str| parse(&Attribute::SourceServiceAccount, text);
    assert_eq!(account("web").unwrap(), Pattern::ServiceAccount("shop/web".into()));
    assert_eq!(account("other/web").unwrap(), Pattern::ServiceAccount("other/web".into()));
    for wrong in ["*", "a/b/c", "/a", "a/", "A"] {
        assert!(account(wrong).is_err(), "{wrong}");
    }
    assert!(parse(&Attribute::SourceNamespace, "Prod").is_err());
    assert!(parse(&Attribute::SourcePrincipal, &"a".repeat(MAX_VALUE + 1)).is_err());
    assert!(parse(&Attribute::SourcePrincipal, "").is_err());
}
