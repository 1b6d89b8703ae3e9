//! Istio's default access log line (TEXT). Source: istio-features §5.
//!
//! What comes from outside cannot start a new line or leave its quotes: control characters, quotes, backslashes and all
//! bytes above ASCII are written as `\xNN`, spaces outside of quotes as `_`.

use std::fmt::Display;
use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, UNIX_EPOCH};

use super::LogEntry;

/// A worker's last second as text: formatting a date costs more than all the rest of a line.
#[derive(Debug, Default)]
pub(super) struct Clock {
    second: u64,
    text: String,
}

impl Clock {
    /// `2026-11-22T16:21:30` of a time since 1970.
    fn text(&mut self, second: u64) -> &str {
        if self.second != second || self.text.is_empty() {
            self.second = second;
            let time = i64::try_from(second).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
            self.text = time.map_or_else(|| "-".to_owned(), |t| t.strftime("%Y-%m-%dT%H:%M:%S").to_string());
        }
        &self.text
    }
}

/// Appends one line.
pub(super) fn write(entry: &LogEntry<'_>, clock: &mut Clock, line: &mut Vec<u8>) {
    let start = entry.start.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    put(line, format_args!("[{}.{:03}Z] \"", clock.text(start.as_secs()), start.subsec_millis()));
    plain(line, entry.method.as_bytes());
    line.push(b' ');
    plain(line, entry.path.as_bytes());
    line.push(b' ');
    plain(line, entry.protocol.as_bytes());
    put(line, format_args!("\" {} {} ", entry.status, entry.flags));
    plain(line, entry.details.as_bytes());
    line.push(b' ');
    plain(line, entry.termination.as_bytes());
    line.push(b' ');
    quoted(line, Some(entry.transport_failure.as_bytes()));
    let millis = entry.duration.as_millis();
    put(line, format_args!("{} {} {millis} ", entry.bytes_received, entry.bytes_sent));
    match entry.upstream_time {
        Some(time) => put(line, format_args!("{} ", time.as_millis())),
        None => line.extend_from_slice(b"- "),
    }
    quoted(line, entry.forwarded_for);
    quoted(line, entry.user_agent);
    quoted(line, entry.request_id);
    quoted(line, Some(entry.authority.as_bytes()));
    line.push(b'"');
    address(line, entry.upstream_host);
    line.extend_from_slice(b"\" ");
    plain(line, entry.upstream_cluster.as_bytes());
    for end in [entry.upstream_local, entry.downstream_local, entry.downstream_remote] {
        line.push(b' ');
        address(line, end);
    }
    line.push(b' ');
    plain(line, entry.server_name.as_bytes());
    line.push(b' ');
    plain(line, entry.route_name.as_bytes());
    if !entry.policies.is_empty() {
        line.push(b' ');
        escaped(line, entry.policies.as_bytes(), |byte| byte);
    }
    line.push(b'\n');
}

/// Writing to a vector does not fail.
fn put(line: &mut Vec<u8>, value: impl Display) {
    let _ = write!(line, "{value}");
}

fn address(line: &mut Vec<u8>, address: Option<SocketAddr>) {
    match address {
        Some(address) => put(line, address),
        None => line.push(b'-'),
    }
}

/// A word that is not quoted.
fn plain(line: &mut Vec<u8>, value: &[u8]) {
    escaped(line, value, |byte| if byte == b' ' { b'_' } else { byte });
}

/// A value in quotes, and a space.
fn quoted(line: &mut Vec<u8>, value: Option<&[u8]>) {
    line.push(b'"');
    escaped(line, value.unwrap_or_default(), |byte| byte);
    line.extend_from_slice(b"\" ");
}

fn escaped(line: &mut Vec<u8>, value: &[u8], map: impl Fn(u8) -> u8) {
    if value.is_empty() {
        line.push(b'-');
    }
    for byte in value {
        match byte {
            b' '..=b'~' if !matches!(byte, b'"' | b'\\') => line.push(map(*byte)),
            byte => put(line, format_args!("\\x{byte:02x}")),
        }
    }
}
