//! Who may change something through a port for operators: whoever types it here, and not whom others make ask for them.
//!
//! In: a request's fields. Out: why it is refused, in words that say what to add. A page in a browser on this machine can post to
//! loopback without being asked whether it may, and a program that fetches addresses for others can be given this one. Neither
//! can add a field of our own, and a page's request also names its origin, or a host that is none of this machine's names.

use std::net::IpAddr;

use http::header::{HOST, ORIGIN};
use http::{HeaderMap, HeaderName};

/// What every change carries, with any value.
pub const HEADER: &str = "x-mesh-admin";
/// What browsers add by themselves.
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Why a request with `headers` may not change anything.
#[must_use]
pub fn refusal(headers: &HeaderMap) -> Option<&'static str> {
    let lacking = (!headers.contains_key(HEADER)).then_some(
        "this changes something, and wants a header that no web page sends: add x-mesh-admin: 1 (curl -H 'x-mesh-admin: 1')\n",
    );
    elsewhere(headers).or(lacking)
}

/// Why `headers` are not of somebody who typed them on this machine.
#[must_use]
pub fn elsewhere(headers: &HeaderMap) -> Option<&'static str> {
    if headers.contains_key(ORIGIN) || headers.contains_key(FETCH_SITE) {
        return Some("web pages change nothing here: ask with curl or meshctl\n");
    }
    (!is_local(headers)).then_some("this is for this machine alone: ask for localhost, 127.0.0.1 or [::1]\n")
}

/// Whether the host asked for is this machine. A browser that was told another name for this address says that name.
#[must_use]
pub fn is_local(headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    host.to_str().is_ok_and(is_loopback)
}

fn is_loopback(host: &str) -> bool {
    let Ok(authority) = host.parse::<http::uri::Authority>() else { return false };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    let address = || name.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback());
    let whole = authority.port_u16().is_some() || authority.host() == host;
    whole && !host.contains('@') && (name.eq_ignore_ascii_case("localhost") || address())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(all: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in all {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    #[test]
    fn a_change_wants_the_header_and_a_host_of_this_machine() {
        for host in [
            "localhost",
            "LOCALHOST:15000",
            "127.0.0.1:15000",
            "127.9.1.1",
            "[::1]:15000",
            "[::ffff:127.0.0.1]",
        ] {
            let typed = [("host", host), (HEADER, "")];
            assert_eq!(refusal(&headers(&typed)), None, "{host}");
            let told = refusal(&headers(&typed[..1])).unwrap();
            assert!(told.contains(&format!("curl -H '{HEADER}: 1'")), "{told}");
            assert_eq!(elsewhere(&headers(&typed[..1])), None, "{host}");
        }
        let hosts = [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "[::2]",
            "0.0.0.0",
            "",
            "localhost@evil.example",
            "evil.example@localhost",
            "a b",
            "localhost/x",
            "localhost:port",
        ];
        for host in hosts {
            let told =
                refusal(&headers(&[("host", host), (HEADER, "1")])).unwrap_or_else(|| panic!("{host}"));
            assert!(told.starts_with("this is for this machine alone"), "{host}: {told}");
        }
        for no_one in [&[(HEADER, "1")][..], &[("host", "localhost"), ("host", "localhost"), (HEADER, "1")]] {
            assert!(refusal(&headers(no_one)).is_some());
        }
    }

    #[test]
    fn a_page_changes_nothing_whatever_it_says() {
        for of_a_page in
            [("origin", "null"), ("origin", "http://localhost:15000"), ("sec-fetch-site", "same-origin")]
        {
            let told = refusal(&headers(&[("host", "localhost"), (HEADER, "1"), of_a_page])).unwrap();
            assert!(told.starts_with("web pages change nothing here"), "{told}");
        }
    }
}
