//! HTTP/2 byte by byte: what no library would send. Rows of the advisories by their name.

use super::*;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

/// RFC 9113 §7: what a connection or stream ends with.
const PROTOCOL_ERROR: u32 = 1;
const ENHANCE_YOUR_CALM: u32 = 11;

/// What a client's side begins with.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// RFC 7541 §6.2.2: a literal, its name too; nothing is remembered.
fn field(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        match text.len() {
            short @ 0..127 => bytes.push(u8::try_from(short).unwrap()),
            long => {
                bytes.push(127);
                let mut left = long - 127;
                while left >= 128 {
                    bytes.push(u8::try_from(left % 128 + 128).unwrap());
                    left /= 128;
                }
                bytes.push(u8::try_from(left).unwrap());
            }
        }
        bytes.extend(text);
    }
    bytes
}

pub(super) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| field(name.as_bytes(), value.as_bytes())).collect()
}

pub(super) const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")];

/// GET with another field in the place of one with the same name, or behind.
fn with(name: &str, value: &str) -> Vec<u8> {
    let mut fields = GET.to_vec();
    match fields.iter_mut().find(|(known, _)| *known == name) {
        Some(known) => known.1 = value,
        None => fields.push((name, value)),
    }
    block(&fields)
}

fn without(name: &str) -> Vec<u8> {
    block(&GET.into_iter().filter(|(known, _)| *known != name).collect::<Vec<_>>())
}

/// What came back.
#[derive(Debug, Default)]
struct Got {
    /// By stream: the first byte of its head, or what it was reset with.
    answers: Vec<(u32, Result<u8, u32>)>,
    /// What the connection ended with.
    goaway: Option<u32>,
    closed: bool,
}

impl Got {
    /// Takes the whole frames out of what was read.
    fn take(&mut self, bytes: &mut Vec<u8>) {
        let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
        while bytes.len() >= 9 {
            let end = 9 + (number(&bytes[..4]) >> 8) as usize;
            if bytes.len() < end {
                return;
            }
            let frame: Vec<u8> = bytes.drain(..end).collect();
            let (stream, payload) = (number(&frame[5..9]), &frame[9..]);
            match frame[3] {
                HEADERS => self.answers.push((stream, Ok(payload[0]))),
                RST_STREAM => self.answers.push((stream, Err(number(payload)))),
                GOAWAY => self.goaway = Some(number(&payload[4..8])),
                _ => {}
            }
        }
    }

    /// Of the first request, or the end of all.
    fn is_answered(&self) -> bool {
        !self.answers.is_empty() || self.goaway.is_some()
    }

    /// RFC 7541, appendix A: indexed.
    fn is_400(&self) -> bool {
        self.answers.contains(&(1, Ok(0x8c)))
    }

    fn is_200(&self) -> bool {
        self.answers.contains(&(1, Ok(0x88)))
    }

    fn is_refused(&self) -> bool {
        let reset = self.answers.iter().any(|(stream, answer)| *stream == 1 && answer.is_err());
        !self.is_200() && (self.is_400() || reset || self.goaway.is_some_and(|reason| reason != 0))
    }
}

/// Sends all that there is, and reads until `enough`, until the server closes or has said nothing for a while.
async fn exchange(address: SocketAddr, sent: &[u8], enough: impl Fn(&Got) -> bool) -> Got {
    let tcp = TcpStream::connect(address).await.unwrap();
    let (mut read, mut write) = tcp.into_split();
    let mut all = PREFACE.to_vec();
    all.extend(frame(SETTINGS, 0, 0, &[]));
    all.extend(sent);
    let writing = tokio::task::spawn_local(async move {
        // The server may have closed by now.
        let _ = write.write_all(&all).await;
        write
    });
    let (mut bytes, mut got) = (Vec::new(), Got::default());
    while !enough(&got) {
        match tokio::time::timeout(Duration::from_secs(3), read.read_buf(&mut bytes)).await {
            Ok(Ok(n)) if n > 0 => got.take(&mut bytes),
            Ok(_) => {
                got.closed = true;
                break;
            }
            Err(_) => break,
        }
    }
    writing.abort();
    got
}

/// One request on stream 1.
async fn ask(address: SocketAddr, head: &[u8]) -> Got {
    exchange(address, &frame(HEADERS, END_HEADERS | END_STREAM, 1, head), Got::is_answered).await
}

async fn served(answer: Answer) -> (Rc<Recorder>, SocketAddr) {
    let service = Recorder::new(answer);
    let address = serve_as(Protocol::Http2, service.clone(), settings(), &Drain::new()).await;
    (service, address)
}

#[test]
fn f9_what_http_1_would_read_as_framing_goes_no_further() {
    run(async {
        let (service, address) = served(Answer::After("ok")).await;
        assert!(ask(address, &block(&GET)).await.is_200());
        service.seen.borrow_mut().clear();
        let cases = [
            with("transfer-encoding", "chunked"),
            with("connection", "close"),
            with("keep-alive", "1"),
            with("proxy-connection", "close"),
            with("upgrade", "h2c"),
            with("te", "gzip"),
            with("x", "a\r\nb: c"),
            with("x", "a\nb"),
            with("x", "a\0b"),
            with("X", "upper case"),
            with("x y", "space"),
            with("x\r\ny", "line"),
            with("", "nothing"),
            with("x:", "colon"),
            with(":path", "/a b"),
            with(":path", "/a\r\nHost: b"),
            with(":path", "a"),
            with(":path", ""),
            with(":path", "*"),
            with(":method", "GET / HTTP/1.1\r\nHost: b\r\n\r\n"),
            with(":method", "G T"),
            with(":method", ""),
            with(":authority", "a\r\nx: y"),
            with(":authority", "a/b"),
            with(":status", "200"),
            with(":unknown", "x"),
            with(":protocol", "websocket"),
            with("content-length", "+3"),
            with("content-length", "3"),
            [block(&GET), block(&[("content-length", "0"), ("content-length", "1")])].concat(),
            [block(&GET), block(&[(":path", "/b")])].concat(),
            [block(&GET), block(&[("x", "y"), (":path", "/b")])].concat(),
            [block(&GET), block(&[("host", "a"), ("host", "a")])].concat(),
        ];
        for head in cases {
            let got = ask(address, &head).await;
            let told = String::from_utf8_lossy(&head).into_owned();
            assert!(got.is_refused(), "{told:?}: {got:?}");
            assert!(service.seen.borrow().is_empty(), "{told:?}: the service was called");
        }
    });
}

#[test]
fn p10_a_scheme_is_one_of_two() {
    run(async {
        let (service, address) = served(Answer::After("ok")).await;
        for scheme in ["https", "http"] {
            assert!(ask(address, &with(":scheme", scheme)).await.is_200(), "{scheme}");
        }
        let before = service.seen.borrow().len();
        for scheme in ["ftp", "", "http:", "ht tp", "javascript", "https,http"] {
            let got = ask(address, &with(":scheme", scheme)).await;
            assert!(got.is_refused(), "{scheme}: {got:?}");
        }
        assert_eq!(service.seen.borrow().len(), before);
        // Nobody above looks at it: in another case it is the same one, or refused, never a third.
        for scheme in ["HTTPS", "Http"] {
            let got = ask(address, &with(":scheme", scheme)).await;
            assert!(got.is_200() || got.is_refused(), "{scheme}: {got:?}");
        }
        assert!(service.seen.borrow().iter().all(|seen| seen.uri == "/"));
    });
}

#[test]
fn p11_nothing_is_missing_that_others_rely_on() {
    run(async {
        let (service, address) = served(Answer::After("ok")).await;
        for name in [":method", ":scheme", ":path", ":authority"] {
            let got = ask(address, &without(name)).await;
            assert!(got.is_refused(), "{name}: {got:?}");
        }
        let connect = [(":method", "CONNECT"), (":authority", "a:443")];
        assert!(ask(address, &block(&connect[..1])).await.is_refused(), "CONNECT to nobody");
        let with_path = [&connect[..], &[(":path", "/"), (":scheme", "http")]].concat();
        assert!(ask(address, &block(&with_path)).await.is_refused(), "CONNECT with a path");
        assert!(service.seen.borrow().is_empty());
        // This is what CONNECT looks like; the service has no path to look at.
        ask(address, &block(&connect)).await;
        assert!(service.seen.borrow().iter().all(|seen| seen.uri == "a:443"), "{:?}", service.seen.borrow());
        let options = [(":method", "OPTIONS"), (":scheme", "http"), (":authority", "a"), (":path", "*")];
        assert!(ask(address, &block(&options)).await.is_200());
    });
}

#[test]
fn f16_trailers_end_their_stream_and_name_no_request() {
    run(async {
        let (service, address) = served(Answer::After("ok")).await;
        let head = frame(HEADERS, END_HEADERS, 1, &with(":method", "POST"));
        let trailers = |flags, fields: &[(&str, &str)]| {
            [head.clone(), frame(HEADERS, END_HEADERS | flags, 1, &block(fields))].concat()
        };
        let open = exchange(address, &trailers(0, &[("x-t", "1")]), Got::is_answered).await;
        assert!(open.is_refused(), "{open:?}");
        let pseudo = exchange(address, &trailers(END_STREAM, &[(":path", "/b")]), Got::is_answered).await;
        // Not of a request that has begun already.
        let other = |seen: &Seen| seen.uri != "/" || !seen.trailers.is_empty();
        assert!(!service.seen.borrow().iter().any(other), "{pseudo:?}: {:?}", service.seen.borrow());
        service.seen.borrow_mut().clear();
        let forbidden = [
            ("x-t", "1"),
            ("host", "b"),
            ("authorization", "x"),
            ("content-length", "7"),
            ("x-forwarded-client-cert", "y"),
        ];
        assert!(exchange(address, &trailers(END_STREAM, &forbidden), Got::is_answered).await.is_200());
        let seen = service.seen.borrow();
        let names: Vec<_> = seen[0].trailers.keys().map(http::HeaderName::as_str).collect();
        assert_eq!((names, seen[0].headers.len()), (vec!["x-t"], 1));
    });
}

/// Whoever floods is told to calm down; a good client beside it is served.
async fn is_stopped(flood: &[u8], reasons: &[u32], calls: usize) {
    let (service, address) = served(Answer::After("ok")).await;
    let got = exchange(address, flood, |_| false).await;
    assert!(got.closed && got.goaway.is_some_and(|reason| reasons.contains(&reason)), "{:?}", got.goaway);
    assert!(service.seen.borrow().len() <= calls, "{} calls", service.seen.borrow().len());
    assert!(ask(address, &block(&GET)).await.is_200());
}

#[test]
fn h1_streams_that_are_reset_at_once_are_counted() {
    run(async {
        let streams = (0..5000).flat_map(|n| {
            let stream = 2 * n + 1;
            let head = frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&GET));
            [head, frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat()
        });
        is_stopped(&streams.collect::<Vec<_>>(), &[ENHANCE_YOUR_CALM], 1000).await;
    });
}

#[test]
fn h2_a_client_that_makes_us_reset_is_stopped() {
    run(async {
        let streams = (0..5000).flat_map(|n| {
            let stream = 2 * n + 1;
            let head = frame(HEADERS, END_HEADERS, stream, &with(":method", "POST"));
            // A window that grows by nothing is an error of the stream (RFC 9113 §6.9).
            [head, frame(WINDOW_UPDATE, 0, stream, &0_u32.to_be_bytes())].concat()
        });
        is_stopped(&streams.collect::<Vec<_>>(), &[ENHANCE_YOUR_CALM, PROTOCOL_ERROR], 2000).await;
    });
}

#[test]
fn h3_a_head_that_never_ends_is_stopped() {
    run(async {
        let mut flood = frame(HEADERS, END_STREAM, 1, &block(&GET));
        for n in 0..20_000 {
            flood.extend(frame(CONTINUATION, 0, 1, &block(&[("x", &n.to_string())])));
        }
        is_stopped(&flood, &[ENHANCE_YOUR_CALM, PROTOCOL_ERROR], 0).await;
        // Empty ones, too.
        let mut flood = frame(HEADERS, END_STREAM, 1, &block(&GET));
        flood.extend((0..20_000).flat_map(|_| frame(CONTINUATION, 0, 1, &[])));
        is_stopped(&flood, &[ENHANCE_YOUR_CALM, PROTOCOL_ERROR], 0).await;
    });
}

#[test]
fn h4_pieces_of_nothing_are_counted() {
    run(async {
        let mut flood = frame(HEADERS, END_HEADERS, 1, &with(":method", "POST"));
        flood.extend((0..200_000).flat_map(|_| frame(DATA, 0, 1, &[])));
        is_stopped(&flood, &[ENHANCE_YOUR_CALM], 1).await;
    });
}

/// A field that is sent once and then named again and again: what counts is its length decoded.
#[test]
fn h5_the_decoded_size_of_a_head_is_bounded() {
    run(async {
        let (service, address) = served(Answer::After("ok")).await;
        // RFC 7541 §6.2.1: a literal that is remembered, as 62 from then on.
        let value = "v".repeat(3000);
        let mut head = block(&GET);
        let mut remembered = field(b"cookie", value.as_bytes());
        remembered[0] = 0x40;
        head.extend(remembered);
        head.extend([0x80 | 62; 2000]);
        let got = ask(address, &head).await;
        assert!(!got.is_200() && service.seen.borrow().is_empty(), "{got:?}");
        // The same in crumbs, and in a field that goes no further.
        for name in ["cookie", "host"] {
            let mut head = block(&GET);
            head.extend((0..300).flat_map(|_| field(name.as_bytes(), &[b'a'; 100])));
            let got = ask(address, &head).await;
            assert!(!got.is_200() && service.seen.borrow().is_empty(), "{name}: {got:?}");
        }
        assert!(ask(address, &block(&GET)).await.is_200());
    });
}

/// Answers that nobody reads are not collected without end.
#[test]
fn h6_questions_without_a_reader_are_bounded() {
    run(async {
        let (_, address) = served(Answer::After("ok")).await;
        let floods = [frame(PING, 0, 0, &[0; 8]), frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 9])];
        for one in floods {
            let mut tcp = TcpStream::connect(address).await.unwrap();
            tcp.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
            tcp.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
            let many = one.repeat(4096);
            let mut sent = 0_usize;
            // It stops reading once its answers do not leave, or closes; it must not take everything for ever.
            while sent < 256 << 20 {
                match tokio::time::timeout(Duration::from_millis(500), tcp.write_all(&many)).await {
                    Ok(Ok(())) => sent += many.len(),
                    Ok(Err(_)) | Err(_) => break,
                }
            }
            assert!(sent < 256 << 20, "{} MiB were taken", sent >> 20);
            assert!(ask(address, &block(&GET)).await.is_200());
        }
    });
}
