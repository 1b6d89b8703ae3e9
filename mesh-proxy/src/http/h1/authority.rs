//! Hosts and ports as they come in `Host` and in request targets (RFC 3986 §3.2, narrowed to what is unambiguous).

use std::net::Ipv6Addr;

/// Whether it is a host with an optional port: a DNS-like name, an IPv4 address or a bracketed IPv6 address. No user
/// information, no percent encoding, nothing empty.
#[must_use]
pub fn is_valid(authority: &[u8]) -> bool {
    let (host, port) = split(authority);
    let host_ok = match host.strip_prefix(b"[") {
        Some(rest) => rest
            .strip_suffix(b"]")
            .and_then(|ip| std::str::from_utf8(ip).ok())
            .is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok()),
        None => is_name(host),
    };
    host_ok && port.is_none_or(is_port)
}

/// Labels with dots between, none of them empty; one dot may end it.
fn is_name(host: &[u8]) -> bool {
    let mut before = b'.';
    for byte in host {
        let good = match byte {
            b'.' => before != b'.',
            other => other.is_ascii_alphanumeric() || matches!(other, b'-' | b'_'),
        };
        if !good {
            return false;
        }
        before = *byte;
    }
    !host.is_empty()
}

/// Whether both name the same, where one may leave out the scheme's default port.
#[must_use]
pub fn same(a: &[u8], b: &[u8], default_port: &[u8]) -> bool {
    let ((host_a, port_a), (host_b, port_b)) = (split(a), split(b));
    host_a.eq_ignore_ascii_case(host_b) && port_a.unwrap_or(default_port) == port_b.unwrap_or(default_port)
}

/// The port, where there is one.
#[must_use]
pub fn port(authority: &[u8]) -> Option<&[u8]> {
    split(authority).1
}

fn split(authority: &[u8]) -> (&[u8], Option<&[u8]>) {
    let after = authority.iter().rposition(|b| *b == b']').map_or(0, |at| at + 1);
    match memchr::memchr(b':', &authority[after..]) {
        Some(at) => (&authority[..after + at], Some(&authority[after + at + 1..])),
        None => (authority, None),
    }
}

fn is_port(port: &[u8]) -> bool {
    (1..=5).contains(&port.len())
        && port.iter().all(u8::is_ascii_digit)
        && port.iter().fold(0_u32, |n, d| n * 10 + u32::from(d - b'0')) <= 65535
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_an_authority() {
        for good in ["a", "a.b-c_d", "a:80", "10.0.0.1:8080", "[::1]", "[::1]:80", "[fe80::]:80", "a.", "A.B"]
        {
            assert!(is_valid(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            ":80",
            "a:",
            "a:65536",
            "a:8o",
            "a:+1",
            "a@b",
            "a/b",
            "a?b",
            "a#b",
            "a b",
            "a,b",
            "a:1:2",
            "[::1",
            "::1",
            "[::1]x",
            "[::g]",
            "a%2eb",
            "\u{17f}ecret.com",
            "[a]",
            "a:000080",
            ".",
            "a..",
            ".a",
            "a..b",
            "..:80",
        ] {
            assert!(!is_valid(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn default_ports_are_the_same() {
        assert!(same(b"A.b", b"a.B:80", b"80"));
        assert!(!same(b"a", b"a:81", b"80"));
        assert!(same(b"[::1]", b"[::1]:443", b"443"));
    }
}
