//! Well-formed exchanges of the HTTP/1 server.

use super::*;

const GET: &[u8] = b"GET /a?b=c HTTP/1.1\r\nHost: a\r\n\r\n";

async fn served(answer: Answer) -> (Rc<Recorder>, SocketAddr) {
    let service = Recorder::new(answer);
    let address = serve(service.clone(), settings(), &Drain::new()).await;
    (service, address)
}

#[test]
fn keeps_the_connection_and_answers_in_order() {
    run(async {
        let (service, address) = served(Answer::After("ok")).await;
        let pipelined = [GET, b"POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", GET].concat();
        let (got, closed) = talk(address, &pipelined).await;
        assert!(!closed);
        assert_eq!(got, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".repeat(3));
        let seen = service.seen.borrow();
        assert_eq!(seen.iter().map(|s| s.uri.as_str()).collect::<Vec<_>>(), ["/a?b=c", "/b", "/a?b=c"]);
        assert_eq!(seen[1].body, b"abc");
    });
}

#[test]
fn a_request_in_single_bytes_is_the_same_request() {
    run(async {
        let (service, address) = served(Answer::After("ok")).await;
        let text = b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=\"y\"\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 1\r\nHost: b\r\n\r\n";
        for whole in [true, false] {
            let mut tcp = TcpStream::connect(address).await.unwrap();
            tcp.set_nodelay(true).unwrap();
            for piece in text.chunks(if whole { text.len() } else { 1 }) {
                tcp.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            let (got, _) = read_all(&mut tcp).await;
            assert!(got.ends_with("\r\n\r\nok"), "{got:?}");
        }
        let seen = service.seen.borrow();
        assert_eq!(seen[0], seen[1]);
        assert_eq!(seen[0].body, b"abcde");
        assert_eq!(seen[0].trailers.len(), 1, "F16: forbidden trailer fields are dropped");
        assert_eq!(seen[0].trailers["x-sum"], "1");
    });
}

#[test]
fn http_1_0_is_answered_and_closed_unless_it_asks() {
    run(async {
        let (_, address) = served(Answer::After("ok")).await;
        let (got, closed) = talk(address, b"GET / HTTP/1.0\r\n\r\n").await;
        assert_eq!(got, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
        assert!(closed);
        let (got, closed) = talk(address, b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
        assert!(got.contains("\r\nconnection: keep-alive\r\n") && !closed, "{got:?}");
    });
}

#[test]
fn connection_close_is_obeyed() {
    run(async {
        let (_, address) = served(Answer::After("ok")).await;
        let sent = [b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", GET].concat();
        let (got, closed) = talk(address, &sent).await;
        assert!(closed && got.contains("\r\nconnection: close\r\n"), "{got:?}");
        assert_eq!(got.matches("HTTP/1.1").count(), 1, "{got:?}");
    });
}

#[test]
fn head_has_no_body() {
    run(async {
        let (_, address) = served(Answer::After("ok")).await;
        let (got, closed) = talk(address, &[b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", GET].concat()).await;
        assert!(!closed);
        assert_eq!(got, "HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    });
}

#[test]
fn absolute_form_is_served_as_its_path() {
    run(async {
        let (service, address) = served(Answer::After("ok")).await;
        for (target, uri) in [("http://a/x?y", "/x?y"), ("HTTP://A", "/"), ("http://a:80?q", "/?q")] {
            talk(
                address,
                format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes(),
            )
            .await;
            assert_eq!(service.seen.borrow().last().unwrap().uri, uri);
        }
    });
}

/// F15: `Connection` cannot strip what identity and policy rest on. F8: h2c is never offered. F14: aliases are dropped.
#[test]
fn hop_by_hop_fields_go_and_trusted_ones_stay() {
    run(async {
        let (service, address) = served(Answer::After("ok")).await;
        let sent = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close, authorization, X-Forwarded-Client-Cert, x-hop, upgrade, http2-settings\r\nAuthorization: b\r\nX-Forwarded-Client-Cert: c\r\nX-Hop: d\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nTE: trailers\r\nX_Forwarded_Client_Cert: spoof\r\nmy_own: kept\r\n\r\n";
        let (got, _) = talk(address, sent).await;
        assert!(got.starts_with("HTTP/1.1 200 "), "{got:?}");
        let seen = service.seen.borrow();
        let names: Vec<&str> = seen[0].headers.keys().map(|n| n.as_str()).collect();
        assert_eq!(names, ["host", "authorization", "x-forwarded-client-cert", "my_own", "te"]);
        assert_eq!(seen[0].headers["x-forwarded-client-cert"], "c");
    });
}

#[test]
fn bytes_above_ascii_pass_in_values() {
    run(async {
        let (service, address) = served(Answer::After("ok")).await;
        talk(address, b"GET / HTTP/1.1\r\nHost: a\r\nX: \xe9\xff\t\x80\r\n\r\n").await;
        assert_eq!(service.seen.borrow()[0].headers["x"].as_bytes(), b"\xe9\xff\t\x80");
    });
}

/// F5: the body of a GET that the service does not read is no request.
#[test]
fn a_body_that_nobody_reads_is_drained() {
    run(async {
        let (service, address) = served(Answer::AtOnce(StatusCode::FORBIDDEN)).await;
        let body = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n".repeat(300);
        for head in ["GET", "DELETE", "POST"] {
            service.seen.borrow_mut().clear();
            let mut tcp = TcpStream::connect(address).await.unwrap();
            let text = format!("{head} /one HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
            tcp.write_all(text.as_bytes()).await.unwrap();
            tcp.write_all(body.as_bytes()).await.unwrap();
            tcp.write_all(b"GET /two HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
            let (got, closed) = read_all(&mut tcp).await;
            assert!(closed);
            assert_eq!(got.matches("HTTP/1.1 403 ").count(), 2, "{got:?}");
            let seen = service.seen.borrow();
            assert_eq!(seen.iter().map(|s| s.uri.as_str()).collect::<Vec<_>>(), ["/one", "/two"]);
        }
    });
}

/// F6: more than is drained is closed instead, and the answer says so and arrives.
#[test]
fn an_early_answer_to_a_long_body_closes() {
    run(async {
        let (service, address) = served(Answer::AtOnce(StatusCode::FORBIDDEN)).await;
        let mut tcp = TcpStream::connect(address).await.unwrap();
        tcp.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1048576\r\n\r\n").await.unwrap();
        let (mut read, mut write) = tcp.into_split();
        let writer = tokio::task::spawn_local(async move {
            let chunk = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n".repeat(100);
            while write.write_all(&chunk).await.is_ok() {}
        });
        let mut got = Vec::new();
        // It ends in a reset or an end; the answer came first.
        let _ = read.read_to_end(&mut got).await;
        writer.await.unwrap();
        let got = String::from_utf8_lossy(&got);
        assert!(got.starts_with("HTTP/1.1 403 ") && got.contains("connection: close"), "{got:?}");
        assert_eq!(got.matches("HTTP/1.1").count(), 1);
        assert_eq!(service.seen.borrow().len(), 1);
    });
}

/// F11: a client that waits for 100 and gets a final answer may or may not send its body.
#[test]
fn expect_without_continue_closes() {
    run(async {
        let (_, address) = served(Answer::AtOnce(StatusCode::FORBIDDEN)).await;
        let (got, closed) = talk(
            address,
            b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 10\r\n\r\n",
        )
        .await;
        assert!(got.starts_with("HTTP/1.1 403 ") && closed, "{got:?}");
    });
}

#[test]
fn the_record_learns_how_it_went() {
    run(async {
        let (service, address) = served(Answer::After("ok")).await;
        talk(address, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc").await;
        let outcome = &service.outcomes.borrow()[0];
        assert_eq!((outcome.bytes_received, outcome.bytes_sent), (3, 2));
        assert_eq!(outcome.end, crate::http::End::Complete);
    });
}

#[test]
fn draining_ends_idle_connections_and_closes_after_the_answer() {
    run(async {
        let service = Recorder::new(Answer::After("ok"));
        let drain = Drain::new();
        let short = ServerSettings { drain_linger: Duration::from_millis(100), ..settings() };
        let address = serve(service, short, &drain).await;
        let mut idle = TcpStream::connect(address).await.unwrap();
        idle.write_all(GET).await.unwrap();
        let mut got = [0; 40];
        idle.read_exact(&mut got).await.unwrap();
        let mut late = TcpStream::connect(address).await.unwrap();
        tokio::time::timeout(Duration::from_millis(50), late.read_u8()).await.unwrap_err();
        drain.begin();
        // A request that was on its way is answered, as the last one.
        late.write_all(GET).await.unwrap();
        let (answer, closed) = read_all(&mut late).await;
        assert!(answer.contains("connection: close") && closed, "{answer:?}");
        let (answer, closed) = read_all(&mut idle).await;
        assert!(closed && answer.is_empty(), "{answer:?}");
    });
}

/// A connection that policy does not allow any more ends at once: neither is a request waited for, nor one served that has
/// come meanwhile.
#[test]
fn what_is_revoked_begins_nothing_new() {
    run(async {
        let service = Recorder::new(Answer::After("ok"));
        let settings = ServerSettings { drain_linger: Duration::from_secs(3600), ..settings() };
        let drain = Drain::new();
        let (closer, watch) = drain.watch().for_connection();
        let (mut client, server) = tokio::io::duplex(1 << 16);
        let serving = tokio::task::spawn_local(async move {
            let io = Io::Memory(server);
            serve_connection(io, Bytes::new(), Protocol::Http1, &settings, service, watch).await;
        });
        client.write_all(GET).await.unwrap();
        let mut got = [0; 40];
        client.read_exact(&mut got).await.unwrap();
        closer.revoke();
        client.write_all(GET).await.unwrap();
        serving.await.unwrap();
        let mut rest = String::new();
        client.read_to_string(&mut rest).await.unwrap();
        assert!(!rest.contains("HTTP/1.1"), "{rest:?}");
    });
}

/// In memory, with paused time: what a slow client gets.
async fn in_memory(answer: Answer, sent: &[u8]) -> (String, Duration) {
    let (mut client, server) = tokio::io::duplex(1 << 20);
    let service = Recorder::new(answer);
    let drain = Drain::new();
    tokio::task::spawn_local(async move {
        let settings = ServerSettings::default();
        let watch = drain.watch();
        serve_connection(Io::Memory(server), Bytes::new(), Protocol::Http1, &settings, service, watch).await;
    });
    client.write_all(sent).await.unwrap();
    let start = tokio::time::Instant::now();
    let mut got = Vec::new();
    client.read_to_end(&mut got).await.unwrap();
    (String::from_utf8(got).unwrap(), start.elapsed())
}

fn run_paused(test: impl Future<Output = ()>) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    LocalSet::new().block_on(&runtime, test);
}

/// H13: heads, bodies and idleness end at their own limits.
#[test]
fn silence_is_bounded() {
    run_paused(async {
        let (got, after) = in_memory(Answer::After("ok"), b"GET / HTTP/1.1\r\nHost").await;
        assert!(got.starts_with("HTTP/1.1 408 ") && after.as_secs() <= 12, "{got:?} {after:?}");
        let (got, after) = in_memory(Answer::After("ok"), b"").await;
        assert_eq!((got.as_str(), after.as_secs() / 60), ("", 60));
        let sent = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab";
        let (got, after) = in_memory(Answer::After("ok"), sent).await;
        assert!(got.contains("connection: close") && after.as_secs() / 60 == 5, "{got:?} {after:?}");
    });
}

/// A body that its maker says is unknown in length goes to HTTP/1.0 up to the end of the connection.
#[test]
fn http_1_0_has_no_chunks() {
    run(async {
        let (upstream, _) = scripted(vec![vec![
            ("\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n"),
            ("", b"0\r\n\r\n"),
        ]])
        .await;
        let (service, _pool) = forwarder(upstream);
        let address = serve(service, settings(), &Drain::new()).await;
        let (got, closed) =
            talk(address, b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n").await;
        assert!(closed && got.ends_with("\r\n\r\nhi") && !got.contains("hunked"), "{got:?}");
    });
}

/// A client that goes away stops the upstream's work.
#[test]
fn a_client_that_leaves_cancels() {
    run(async {
        let (upstream, got) = scripted(vec![vec![("\r\n\r\n", b"")]]).await;
        let (service, pool) = forwarder(upstream);
        let address = serve(service.clone(), settings(), &Drain::new()).await;
        let mut tcp = TcpStream::connect(address).await.unwrap();
        tcp.write_all(GET).await.unwrap();
        while got.borrow().first().is_none_or(Vec::is_empty) {
            tokio::task::yield_now().await;
        }
        drop(tcp);
        tokio::time::timeout(Duration::from_millis(50), std::future::pending::<()>()).await.unwrap_err();
        assert_eq!((service.outcomes.borrow().len(), pool.idle()), (0, 0));
    });
}

/// A large answer to a client that does not read stays in the sockets, and arrives whole when it does.
#[test]
fn a_slow_reader_holds_the_upstream_back() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = listener.local_addr().unwrap();
        let written = Rc::new(std::cell::Cell::new(0_usize));
        let counted = written.clone();
        let total = 64 << 20;
        tokio::task::spawn_local(async move {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let mut head = [0; 1024];
            assert!(tcp.read(&mut head).await.unwrap() > 0);
            tcp.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {total}\r\n\r\n").as_bytes())
                .await
                .unwrap();
            let chunk = vec![b'x'; 64 << 10];
            while counted.get() < total {
                let n = chunk.len().min(total - counted.get());
                tcp.write_all(&chunk[..n]).await.unwrap();
                counted.set(counted.get() + n);
            }
        });
        let (service, _pool) = forwarder(upstream);
        let address = serve(service, settings(), &Drain::new()).await;
        let mut tcp = TcpStream::connect(address).await.unwrap();
        tcp.write_all(GET).await.unwrap();
        tokio::time::timeout(Duration::from_millis(300), std::future::pending::<()>()).await.unwrap_err();
        assert!(written.get() < total / 2, "{} bytes left the upstream", written.get());
        let mut all = 0;
        let mut chunk = vec![0; 256 << 10];
        while all < total {
            let n = tcp.read(&mut chunk).await.unwrap();
            assert!(n > 0);
            all += n;
        }
        assert!(all < total + 200);
    });
}
