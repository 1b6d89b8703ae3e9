//! Classes of advisories, by the names of their rows.

use super::*;

/// What a policy compares is the path without its query; a code for `#` is no fragment, and no end.
#[test]
fn p3_a_query_or_a_fragment_makes_no_other_path() {
    let profile = deny(vec![rule(&[], &[&[("request.path", &["/user/profile"], &[])]], &[])]);
    let passes = |path: &str| {
        decide(std::slice::from_ref(&profile), &connection(None), &head("GET", path, &[])) == Verdict::Allowed
    };
    for path in ["/user/profile", "/user/profile?", "/user/profile?x=/", "/user/profile?a#b"] {
        assert!(!passes(path), "{path}");
    }
    for path in ["/user/profile%23x", "/user/profile%3Fx", "/user/profile/"] {
        assert!(passes(path), "another one for the application, too: {path}");
    }
}

/// What elsewhere would be the operator of a pattern is a character of a name, or no name.
#[test]
fn j10_names_are_literal() {
    let wanted = |attribute: &str, value: &str| {
        Policies::parse(&[allow(vec![rule(&[&[(attribute, &[value], &[])]], &[], &[])])])
    };
    let lets_in = |attribute: &str, value: &str, peer: &str| {
        let policies = wanted(attribute, value).unwrap();
        policies.of_bytes(&connection(Some(peer))) == Verdict::Allowed
    };
    let peer = |namespace: &str, account: &str| format!("cluster.local/ns/{namespace}/sa/{account}");
    assert!(lets_in("source.serviceAccount", "w.b", &peer("shop", "w.b")));
    assert!(!lets_in("source.serviceAccount", "w.b", &peer("shop", "web")));
    assert!(wanted("source.namespace", "s.op").is_err(), "no namespace has a dot");
    assert!(!lets_in("source.principal", "cluster.local/ns/shop/sa/w.b", &peer("shop", "web")));
    assert!(!lets_in("source.trustDomain", "cluster-local", &peer("shop", "a")));
    for odd in ["[", "(", "+", "a|b", ".*", "\\w", "^shop$", "sho[p]"] {
        // A principal or a namespace of that name is nobody's; an account of that name is refused.
        for attribute in ["source.principal", "source.namespace", "source.trustDomain"] {
            let lets_in = wanted(attribute, odd).is_ok_and(|policies| {
                policies.of_bytes(&connection(Some(&peer("shop", "web")))) == Verdict::Allowed
            });
            assert!(!lets_in, "{attribute} {odd}");
        }
        assert!(wanted("source.serviceAccount", odd).is_err(), "{odd}");
    }
}

/// An address in brackets is the same one with a port behind them, and without them.
#[test]
fn p8_addresses_in_brackets() {
    let denied = |value: &str, host: &str| {
        let policy = deny(vec![rule(&[], &[&[("request.host", &[value], &[])]], &[])]);
        decide(&[policy], &connection(None), &head("GET", "/", &[("host", host)])) != Verdict::Allowed
    };
    for value in ["[fd00::1]", "fd00::1", "[FD00::1]"] {
        for host in ["[fd00::1]", "[fd00::1]:80", "[FD00::1]:8080"] {
            assert!(denied(value, host), "{value} {host}");
        }
        assert!(!denied(value, "[fd00::2]:80"), "{value}");
    }
}

/// When there is nothing to decide, and when it is decided before anything is asked for: what ends a waiting connection.
#[test]
fn what_is_decided_for_all_requests() {
    let web: Match<'_> = ("source.namespace", &["shop"], &[]);
    let other: Match<'_> = ("source.namespace", &["other"], &[]);
    let get: Match<'_> = ("request.method", &["GET"], &[]);
    let when = |matches: &[Match<'_>]| vec![rule(&[], &[], matches)];
    let cases = [
        (vec![], true, Some(Verdict::Allowed)),
        (vec![deny(vec![])], true, Some(Verdict::Allowed)),
        (vec![allow(vec![])], false, Some(Verdict::Denied(None))),
        (vec![deny(when(&[web]))], false, Some(denied_by("ns[shop]-policy[deny]-rule[0]"))),
        (vec![deny(when(&[other]))], false, Some(Verdict::Allowed)),
        (vec![deny(when(&[web, get]))], false, None),
        (vec![allow(when(&[web]))], false, Some(Verdict::Allowed)),
        (vec![allow(when(&[other]))], false, Some(Verdict::Denied(None))),
        (vec![allow(when(&[web, get]))], false, None),
        (vec![allow(when(&[web])), deny(when(&[get]))], false, None),
        (vec![allow(when(&[other])), deny(when(&[get]))], false, Some(Verdict::Denied(None))),
    ];
    for (policies, nothing, whole) in cases {
        let parsed = Policies::parse(&policies).unwrap();
        assert_eq!(parsed.is_empty(), nothing, "{policies:?}");
        let told = Guard::of_requests(&parsed, &connection(WEB)).whole();
        assert_eq!(told, whole, "{policies:?}");
    }
}

/// What a pilot of a later version could say and this build cannot mean refuses the policies whole: they are neither read in part nor
/// left away. (What a policy compares travels as its name, and its action as a number: nothing new is an unknown field.)
#[test]
fn p12_what_only_a_newer_pilot_says_is_refused_whole() {
    let known = || deny(vec![rule(&[], &[&[("request.path", &["/admin"], &[])]], &[])]);
    assert!(Policies::parse(&[known()]).is_ok());
    let newer = [
        deny(vec![rule(&[], &[&[("request.body", &["x"], &[])]], &[])]),
        deny(vec![rule(
            &[&[("source.attestation", &["tpm"], &[])]],
            &[&[("request.path", &["/b"], &[])]],
            &[],
        )]),
        allow(vec![rule(&[], &[], &[("request.auth.claims", &["x"], &[])])]),
        deny(vec![rule(&[], &[&[("request.path", &["/{a=*}"], &[])]], &[])]),
        deny(vec![rule(&[], &[&[("source.ip", &["10.0.0.0/8@now"], &[])]], &[])]),
        wire::AuthorizationPolicy { action: 77, ..known() },
        wire::AuthorizationPolicy { ports: vec![65_536], ..known() },
    ];
    for policy in newer {
        let refused = Policies::parse(&[known(), policy.clone()]);
        assert!(refused.is_err(), "{policy:?}");
    }
}
