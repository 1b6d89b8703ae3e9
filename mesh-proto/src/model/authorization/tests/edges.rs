//! Where a bound lies, and what a matter of the connection is: what no other test would miss.

use super::*;

#[test]
fn bounds_are_where_they_are_said_to_be() {
    let value = |length: usize| Pattern::parse(&Attribute::RequestPath, &"a".repeat(length), "n");
    assert!(value(MAX_VALUE).is_ok() && value(MAX_VALUE + 1).is_err() && value(0).is_err());
    let claim = |length: usize| {
        let around = "request.auth.claims[]".len();
        format!("request.auth.claims[{}]", "a".repeat(length - around)).parse::<Attribute>()
    };
    assert!(claim(MAX_VALUE).is_ok() && claim(MAX_VALUE + 1).is_err());
    for odd in ["[]", "[a][]", "[a[b]", "[[a]", "a", "[a]b", "", "[a"] {
        assert!(format!("request.auth.claims{odd}").parse::<Attribute>().is_err(), "{odd}");
    }
}

/// Whoever takes one for the other decides without having asked.
#[test]
fn each_attribute_is_of_a_connection_or_of_a_request() {
    let of = |name: &str| {
        let attribute: Attribute = name.parse().unwrap();
        (attribute.is_of_connection(), attribute.is_of_request())
    };
    for name in
        ["principal", "namespace", "serviceAccount", "trustDomain", "ip"].map(|name| format!("source.{name}"))
    {
        assert_eq!(of(&name), (true, false), "{name}");
    }
    for name in ["destination.ip", "destination.port", "connection.sni"] {
        assert_eq!(of(name), (true, false), "{name}");
    }
    assert_eq!(
        of("remote.ip"),
        (false, false),
        "a request may tell of another client; bytes have one all the same"
    );
    for name in [
        "host",
        "method",
        "path",
        "headers[a]",
        "auth.principal",
        "auth.audiences",
        "auth.presenter",
        "auth.claims[a]",
    ] {
        assert_eq!(of(&format!("request.{name}")), (false, true), "{name}");
    }
}

/// IPv4 written as IPv6 is IPv4, as long as all of it that is not IPv4's is fixed.
#[test]
fn blocks_of_ipv4_inside_of_ipv6() {
    let contains = |block: &str, address: &str| {
        block.parse::<AddressBlock>().unwrap().contains(address.parse::<IpAddr>().unwrap())
    };
    assert!(contains("::ffff:10.0.0.0/104", "10.9.9.9") && !contains("::ffff:10.0.0.0/104", "64.0.0.1"));
    assert!(
        !contains("::ffff:10.0.0.0/104", "11.0.0.1") && contains("::ffff:10.0.0.0/104", "::ffff:10.1.1.1")
    );
    assert!(contains("::ffff:0.0.0.0/96", "8.8.8.8") && !contains("::ffff:0.0.0.0/96", "fd00::1"));
    assert!(!contains("::ffff:10.0.0.0/95", "fd00::1"));
}

#[test]
fn stars_take_no_character_twice() {
    let fits = |pattern: &str, text: &str| Glob::new(pattern).matches(text);
    assert!(fits("*a*a*", "aa") && fits("*a*a*", "bab-a") && !fits("*a*a*", "a") && !fits("*ab*b*", "ab"));
    let any_case = |text: &str| TextPattern::Present.matches_any_case(text.as_bytes());
    assert!(any_case("x") && !any_case(""), "absent is not present, in any case");
}
