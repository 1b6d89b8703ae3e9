//! What a connection speaks, from its first bytes, without taking them.
//!
//! In: a fresh socket and how long its client may stay silent. Out: [`First`]. Only ports whose protocol is not declared, and
//! inbound ports that take both plaintext and TLS, are asked; a declared server-first port never waits here.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, Interest};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout_at};

use crate::drain::DrainWatch;

pub mod first_word;
#[cfg(test)]
mod tests;

/// RFC 9113 §3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The longest method that detection believes in; anything longer is not HTTP (registered ones have at most 17 letters).
const LONGEST_METHOD: usize = 24;
/// How many bytes decide.
const ENOUGH: usize = 64;
/// How long a client that has begun may take to send what decides.
const BEGUN: Duration = Duration::from_secs(10);

/// What the first bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum First {
    /// A TLS handshake record.
    Tls,
    /// An HTTP/1 request line.
    Http1,
    /// The HTTP/2 preface.
    Http2,
    /// Something else: opaque.
    Other,
    /// The client said nothing in time (it may wait for the server to speak).
    Silent,
    /// The client closed without a byte.
    Closed,
}

/// Classifies a prefix; `None` when more bytes may change the answer.
#[must_use]
pub fn classify(bytes: &[u8]) -> Option<First> {
    let first = *bytes.first()?;
    if first == 0x16 {
        // Handshake record, version 3.x.
        return match bytes.get(1) {
            None => None,
            Some(3) => Some(First::Tls),
            Some(_) => Some(First::Other),
        };
    }
    let known = bytes.len().min(PREFACE.len());
    if bytes[..known] == PREFACE[..known] {
        return (known == PREFACE.len()).then_some(First::Http2);
    }
    http1(bytes)
}

/// A token, one space, and the start of a request target.
fn http1(bytes: &[u8]) -> Option<First> {
    let token = |b: &u8| b.is_ascii_uppercase() || matches!(b, b'-' | b'_');
    let end = bytes.iter().take(LONGEST_METHOD + 1).position(|b| !token(b));
    match end {
        None if bytes.len() > LONGEST_METHOD => Some(First::Other),
        None => None,
        Some(0) => Some(First::Other),
        Some(end) if bytes[end] != b' ' => Some(First::Other),
        // The target: origin-form, absolute-form, authority-form or *.
        Some(end) => {
            bytes.get(end + 1).map(|b| if b.is_ascii_graphic() { First::Http1 } else { First::Other })
        }
    }
}

/// Looks at the first bytes of `stream` until they decide, at most until `limit` has passed.
///
/// # Errors
/// When the socket fails.
pub async fn detect(stream: &TcpStream, limit: Duration) -> io::Result<First> {
    let mut deadline = Instant::now() + limit;
    let mut buffer = [0u8; ENOUGH];
    let mut seen = 0;
    loop {
        let Ok(peeked) = timeout_at(deadline, stream.peek(&mut buffer)).await else {
            return Ok(First::Silent);
        };
        let peeked = peeked?;
        if peeked == 0 {
            return Ok(First::Closed);
        }
        if let Some(first) = classify(&buffer[..peeked]) {
            return Ok(first);
        }
        if seen == 0 {
            deadline = deadline.min(Instant::now() + BEGUN);
        }
        // It spoke, but not enough to be any protocol that we know: bytes.
        let (ended, grown) = (more(stream, deadline).await?, peeked > seen);
        if Instant::now() >= deadline || ended && !grown {
            return Ok(First::Other);
        }
        seen = peeked;
    }
}

/// Waits for more than what was peeked, at most until `deadline`. Whether the client has ended its side: then what is
/// there now is all.
///
/// # Errors
/// When the socket fails.
pub async fn more(stream: &TcpStream, deadline: Instant) -> io::Result<bool> {
    // What was only peeked leaves the socket readable: forgotten here, so that nothing but news wakes us.
    let _ = stream.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
    match timeout_at(deadline, stream.ready(Interest::READABLE)).await {
        Ok(ready) => Ok(ready?.is_read_closed()),
        Err(_) => Ok(false),
    }
}

/// Like [`detect`]; once a drain has begun, for `linger` more: what was accepted may have a request on its way.
/// `None`: the drain ends it.
///
/// # Errors
/// When the socket fails.
pub async fn detect_until(
    stream: &TcpStream,
    limit: Duration,
    drain: &DrainWatch,
    linger: Duration,
) -> io::Result<Option<First>> {
    let over = async {
        drain.draining().await;
        if !drain.is_revoked() {
            sleep(linger).await;
        }
    };
    tokio::select! {
        biased;
        first = detect(stream, limit) => first.map(Some),
        () = over => Ok(None),
    }
}

/// Like [`detect`], for a stream that cannot be peeked (the inside of TLS or of a tunnel): `first` was read already, and
/// what is read here is given back with it.
///
/// # Errors
/// When the stream fails.
pub async fn detect_read<S: AsyncRead + Unpin>(
    stream: &mut S,
    first: Bytes,
    limit: Duration,
) -> io::Result<(First, Bytes)> {
    let deadline = Instant::now() + limit;
    let mut seen = BytesMut::from(&first[..]);
    loop {
        if let Some(first) = classify(&seen) {
            return Ok((first, seen.freeze()));
        }
        match timeout_at(deadline, stream.read_buf(&mut seen)).await {
            Ok(Ok(0)) if seen.is_empty() => return Ok((First::Closed, Bytes::new())),
            Ok(Ok(0)) => return Ok((First::Other, seen.freeze())),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error),
            Err(_) if seen.is_empty() => return Ok((First::Silent, Bytes::new())),
            Err(_) => return Ok((First::Other, seen.freeze())),
        }
    }
}
