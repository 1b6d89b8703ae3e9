//! Names of hosts.

/// A DNS name (short or full, any case, one trailing dot allowed) or an IP address.
#[must_use]
pub fn is_host(host: &str) -> bool {
    if host.parse::<std::net::IpAddr>().is_ok() {
        return true;
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    let label = |label: &str| {
        let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
        (1..=63).contains(&label.len())
            && edge(label.bytes().next())
            && edge(label.bytes().next_back())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    name.len() <= 253 && name.split('.').all(label)
}

/// A host, `*`, or `*.` and a host.
#[must_use]
pub fn is_wildcard_host(host: &str) -> bool {
    host == "*" || is_host(host.strip_prefix("*.").unwrap_or(host))
}
