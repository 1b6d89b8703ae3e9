//! Who has the first word: a client that says nothing may wait for its server to speak (MySQL, SMTP, SSH).
//!
//! In: the client's socket, and how to reach the server. Out: an end when the silent client is to be taken for one that waits
//! for bytes; the connection to the server is left behind, for whoever may use it. Nothing is taken from either socket.

use std::future::{Future, pending};
use std::io;
use std::mem::MaybeUninit;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use crate::io::Io;

#[cfg(test)]
mod tests;

/// So long a client may be silent before its server is asked: who speaks first at all does so at once, and never makes the
/// server see a connection that is not its own.
pub const GRACE: Duration = Duration::from_millis(100);
/// So long after a client has come its server's word is held back where the client's own could still be a handshake: the first
/// segment of a hello may be lost once, and comes again after 200 ms at the least (RFC 8985 §7.3).
pub const HOLD: Duration = Duration::from_millis(300);
/// RFC 9113 §4.1: length, type, flags and stream of a frame.
const FRAME: usize = 9;
const SETTINGS: u8 = 4;

/// How long a client is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// From when on.
    pub since: Instant,
    /// Until the server's word is passed on, at the least.
    pub hold: Duration,
    /// Where there is no server that could speak.
    pub limit: Duration,
}

/// What a server has said.
enum Word {
    /// Bytes.
    Bytes,
    /// What servers of HTTP say unasked: their settings, or that they have waited long enough.
    Http,
    /// It has ended.
    Nothing,
}

/// Ends when `client` has been silent for as long as it takes to be no client of HTTP or TLS: the server that `open` reaches has
/// spoken, or there is none. As long as both are silent it does not: what neither has begun is nothing yet, and who waits for
/// a time to pass gains nothing by it. `early` is the connection.
pub async fn waits_for_bytes(
    client: &TcpStream,
    wait: Wait,
    open: impl Future<Output = Option<Io>>,
    early: &mut Option<Io>,
) {
    sleep_until(wait.since + GRACE.min(wait.limit)).await;
    if !is_silent(client) {
        return pending().await;
    }
    *early = open.await;
    let word = match early.as_ref().and_then(Io::tcp) {
        Some(server) => word(server).await,
        None => Word::Nothing,
    };
    let until = match word {
        Word::Bytes => wait.hold,
        Word::Nothing => wait.limit,
        Word::Http => {
            *early = None;
            return pending().await;
        }
    };
    if matches!(word, Word::Nothing) {
        *early = None;
    }
    sleep_until(wait.since + until).await;
    // Whoever is in the middle of a hello has begun to speak.
    if !is_silent(client) {
        pending::<()>().await;
    }
}

/// Waits for the first bytes of a server.
async fn word(server: &TcpStream) -> Word {
    let mut buffer = [0; FRAME];
    loop {
        match server.peek(&mut buffer).await {
            Ok(0) | Err(_) => return Word::Nothing,
            Ok(n) => match is_http(&buffer[..n]) {
                Some(true) => return Word::Http,
                Some(false) => return Word::Bytes,
                // So few that they could be either.
                None => {
                    let forget = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
                    let _ = server.try_io(Interest::READABLE, forget);
                }
            },
        }
    }
}

/// Whether these are the first bytes of a server of HTTP; `None` when more of them may tell.
fn is_http(bytes: &[u8]) -> Option<bool> {
    const ANSWER: &[u8] = b"HTTP/";
    let known = bytes.len().min(ANSWER.len());
    if bytes[..known] == ANSWER[..known] {
        return (known == ANSWER.len()).then_some(true);
    }
    // A frame of settings that is not longer than any may be at first: at most 16 KiB, on stream 0.
    let settings = |(at, byte): (usize, &u8)| match at {
        0 => *byte == 0,
        1 => *byte <= 0x40,
        3 => *byte == SETTINGS,
        4..=8 => *byte == 0,
        _ => true,
    };
    match bytes.iter().take(FRAME).enumerate().all(settings) {
        true => (bytes.len() >= FRAME).then_some(true),
        false => Some(false),
    }
}

/// Whether nothing has come, not even an end. Asked of the system: what the runtime knows may be older.
fn is_silent(client: &TcpStream) -> bool {
    let seen = SockRef::from(client).peek(&mut [MaybeUninit::uninit()]);
    seen.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}
