//! Each order of events, with time that stands still: sockets are real, and what was written to them is there.

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::*;

const LIMIT: Duration = Duration::from_secs(2);
/// What a server of HTTP/2 says before it has heard anything: settings without any, and a window.
const SETTINGS_FRAME: &[u8] = b"\0\0\0\x04\0\0\0\0\0\0\0\x04\x08\0\0\0\0\0\0\0\xff\xff";

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (ours, listener.accept().await.unwrap().0)
}

fn wait() -> Wait {
    Wait { since: Instant::now(), hold: HOLD, limit: LIMIT }
}

/// After how many milliseconds a client that said `before` is taken for one that waits for bytes, from a server that says
/// `greeting` while the client says `meanwhile`; whether the server was dialled, and whether there is a connection then.
async fn outcome(before: &[u8], meanwhile: &[u8], greeting: &[u8]) -> (Option<u128>, bool, bool) {
    let ((mut client, accepted), (to_server, mut server)) = (pair().await, pair().await);
    client.write_all(before).await.unwrap();
    server.write_all(greeting).await.unwrap();
    let (mut early, mut dialled, wait) = (None, false, wait());
    let open = async {
        dialled = true;
        client.write_all(meanwhile).await.unwrap();
        Some(Io::Plain(to_server))
    };
    // Paused: a minute passes as soon as nothing else can happen.
    let waits = waits_for_bytes(&accepted, wait, open, &mut early);
    let waits = tokio::time::timeout(Duration::from_secs(60), waits).await.is_ok();
    (waits.then(|| wait.since.elapsed().as_millis()), dialled, early.is_some())
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_hears_the_server() {
    let (after, dialled, there) = outcome(b"", b"", b"220 ready\r\n").await;
    assert!(after.is_some_and(|after| after >= HOLD.as_millis()) && dialled && there, "{after:?}");
}

/// A hello that was late, or of which one byte has come, is waited for: the server's word would break its handshake.
#[tokio::test(start_paused = true)]
async fn a_client_that_speaks_is_never_overruled() {
    assert_eq!(outcome(b"\x16", b"", b"220 ready\r\n").await, (None, false, false), "nobody is dialled");
    let late = outcome(b"", b"\x16", b"220 ready\r\n").await;
    assert_eq!(late, (None, true, true), "while the word is held back");
}

/// Where neither speaks nothing has begun: to wait makes nobody a client of bytes.
#[tokio::test(start_paused = true)]
async fn silence_on_both_sides_is_no_word() {
    assert_eq!(outcome(b"", b"", b"").await, (None, true, true));
}

/// A server of HTTP waits for requests, whatever it says before the first.
#[tokio::test(start_paused = true)]
async fn what_servers_of_http_say_unasked_is_no_word() {
    assert_eq!(outcome(b"", b"", SETTINGS_FRAME).await, (None, true, false));
    assert_eq!(outcome(b"", b"", b"HTTP/1.1 408 Request Timeout\r\n\r\n").await, (None, true, false));
}

#[test]
fn what_is_http() {
    for (bytes, expected) in [
        (&b"H"[..], None),
        (b"HTTP", None),
        (b"HTTP/1.0 400 x", Some(true)),
        (b"HELO", Some(false)),
        (b"\0", None),
        (b"\0\0\x12\x04\0\0\0\0", None),
        (b"\0\0\x12\x04\0\0\0\0\0", Some(true)),
        (SETTINGS_FRAME, Some(true)),
        (b"\0\0\x12\x04\0\0\0\0\x01", Some(false)),
        (b"\0\0\x12\x04\x01\0\0\0\0", Some(false)),
        (b"\0\0\x12\x06\0", Some(false)),
        (b"\0\x41", Some(false)),
        // MySQL: length, number 0, version 10.
        (b"\x4a\0\0\0\x0a8.0.36", Some(false)),
        (b"\0\x01\0\0\x0a8.0.36", Some(false)),
        (b"SSH-2.0-x", Some(false)),
    ] {
        assert_eq!(is_http(bytes), expected, "{bytes:?}");
    }
}

/// Where there is no server to speak the client's time is what it was.
#[tokio::test(start_paused = true)]
async fn without_a_server_time_decides() {
    let (client, accepted) = pair().await;
    for limit in [LIMIT, Duration::from_millis(1)] {
        let (mut early, wait) = (None, Wait { limit, ..wait() });
        waits_for_bytes(&accepted, wait, async { None }, &mut early).await;
        assert_eq!((wait.since.elapsed(), early.is_none()), (limit, true));
    }
    // A server that closes is none.
    let (to_server, server) = pair().await;
    drop(server);
    let (mut early, wait) = (None, wait());
    waits_for_bytes(&accepted, wait, async { Some(Io::Plain(to_server)) }, &mut early).await;
    assert!(wait.since.elapsed() >= LIMIT && early.is_none());
    // Nor is a client that is gone one that waits.
    drop(client);
    let gone = waits_for_bytes(&accepted, self::wait(), pending(), &mut early);
    assert!(tokio::time::timeout(Duration::from_secs(60), gone).await.is_err());
}
