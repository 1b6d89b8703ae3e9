//! Both codecs over real sockets: a recording service behind [`serve_connection`], and a client that writes raw bytes.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use mesh_proto::model::HostPort;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use crate::cluster::ConnectionSettings;
use crate::drain::Drain;
use crate::http::{
    BadRequest, Body, Frame, Outcome, Protocol, Record, Reply, ServerSettings, Service, Then,
    serve_connection,
};
use crate::io::Io;
use crate::pool::{Pool, PoolKey, Target};

mod differential;
mod exchange;
mod hostile;
mod http2;
mod raw_http2;
mod refused;
mod upstream;

/// What the service saw of one request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Seen {
    pub(super) method: String,
    pub(super) uri: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    pub(super) trailers: HeaderMap,
    pub(super) failed: bool,
}

/// How the recording service answers.
#[derive(Clone)]
pub(super) enum Answer {
    /// 200 with this body, after the request's body was read.
    After(&'static str),
    /// This status at once, without reading the body.
    AtOnce(StatusCode),
    /// Sent on to an upstream.
    Forward(Rc<(Pool, Target)>),
}

/// Records what it sees.
pub(super) struct Recorder {
    answer: Answer,
    pub(super) seen: RefCell<Vec<Seen>>,
    pub(super) refused: RefCell<Vec<BadRequest>>,
    pub(super) outcomes: Rc<RefCell<Vec<Outcome>>>,
}

struct Tell(Rc<RefCell<Vec<Outcome>>>);

impl Record for Tell {
    fn finish(self: Box<Self>, outcome: &Outcome) {
        self.0.borrow_mut().push(outcome.clone());
    }
}

impl Recorder {
    pub(super) fn new(answer: Answer) -> Rc<Self> {
        Rc::new(Self {
            answer,
            seen: RefCell::default(),
            refused: RefCell::default(),
            outcomes: Rc::default(),
        })
    }

    fn reply(&self, response: Response<Body>) -> Reply {
        let (parts, body) = response.into_parts();
        let record: Option<Box<dyn Record>> = Some(Box::new(Tell(self.outcomes.clone())));
        match body.into_upgraded() {
            Err(body) => Reply { response: Response::from_parts(parts, body), then: Then::KeepAlive, record },
            Ok((mut upstream, read)) => Reply {
                response: Response::from_parts(parts, Body::empty()),
                then: Then::Tunnel(Box::new(move |mut client, sent| {
                    Box::pin(async move {
                        client.write_all(&read).await.unwrap();
                        upstream.write_all(&sent).await.unwrap();
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut upstream).await;
                    })
                })),
                record,
            },
        }
    }
}

impl Service for Recorder {
    async fn call(&self, request: Request<Body>) -> Reply {
        let mut seen = Seen {
            method: request.method().to_string(),
            uri: request.uri().to_string(),
            headers: request.headers().clone(),
            ..Seen::default()
        };
        let mut response = Response::new(Body::empty());
        match &self.answer {
            Answer::After(text) => {
                let mut body = request.into_body();
                while let Some(frame) = body.frame().await {
                    match frame {
                        Ok(Frame::Data(data)) => seen.body.extend_from_slice(&data),
                        Ok(Frame::Trailers(trailers)) => seen.trailers = trailers,
                        Err(_) => {
                            seen.failed = true;
                            break;
                        }
                    }
                }
                *response.body_mut() = Body::full(*text);
                self.seen.borrow_mut().push(seen);
            }
            Answer::AtOnce(status) => {
                *response.status_mut() = *status;
                self.seen.borrow_mut().push(seen);
            }
            Answer::Forward(upstream) => {
                self.seen.borrow_mut().push(seen);
                match upstream.0.send(&upstream.1, request).await {
                    Ok(answer) => response = answer,
                    Err(error) => {
                        *response.status_mut() = StatusCode::BAD_GATEWAY;
                        *response.body_mut() = Body::full(error.to_string());
                    }
                }
            }
        }
        self.reply(response)
    }

    fn refused(&self, why: &BadRequest) {
        self.refused.borrow_mut().push(*why);
    }
}

/// Runs a test on one thread, bounded in time.
pub(super) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(Duration::from_secs(20), test).await.expect("the test hangs");
    });
}

/// Short limits where a test waits for them.
pub(super) fn settings() -> ServerSettings {
    ServerSettings { header_timeout: Duration::from_millis(300), ..ServerSettings::default() }
}

/// Serves every connection with `service`.
pub(super) async fn serve(service: Rc<Recorder>, settings: ServerSettings, drain: &Drain) -> SocketAddr {
    serve_as(Protocol::Http1, service, settings, drain).await
}

pub(super) async fn serve_as(
    protocol: Protocol,
    service: Rc<Recorder>,
    settings: ServerSettings,
    drain: &Drain,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let watch = drain.watch();
    tokio::task::spawn_local(async move {
        let settings = Rc::new(settings);
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            tcp.set_nodelay(true).unwrap();
            let (service, settings, watch) = (service.clone(), settings.clone(), watch.clone());
            tokio::task::spawn_local(async move {
                serve_connection(Io::Plain(tcp), Bytes::new(), protocol, &settings, service, watch).await;
            });
        }
    });
    address
}

/// Writes `sent`, then reads until the server closes or answers no more for a while. Text of what came, and whether it
/// closed.
pub(super) async fn talk(address: SocketAddr, sent: &[u8]) -> (String, bool) {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    tcp.write_all(sent).await.unwrap();
    read_all(&mut tcp).await
}

pub(super) async fn read_all(tcp: &mut TcpStream) -> (String, bool) {
    let mut got = Vec::new();
    let closed = loop {
        match tokio::time::timeout(Duration::from_millis(700), tcp.read_buf(&mut got)).await {
            Ok(Ok(n)) if n > 0 => {}
            Ok(_) => break true,
            Err(_) => break false,
        }
    };
    (String::from_utf8_lossy(&got).into_owned(), closed)
}

/// An upstream that answers each connection's bytes with a script: wait for the text, then write.
pub(super) async fn scripted(
    script: Vec<Vec<(&'static str, &'static [u8])>>,
) -> (SocketAddr, Rc<RefCell<Vec<Vec<u8>>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let got: Rc<RefCell<Vec<Vec<u8>>>> = Rc::default();
    let told = got.clone();
    tokio::task::spawn_local(async move {
        for (index, steps) in script.into_iter().enumerate() {
            let (mut tcp, _) = listener.accept().await.unwrap();
            told.borrow_mut().push(Vec::new());
            let told = told.clone();
            tokio::task::spawn_local(async move {
                let mut from = 0;
                for (until, answer) in steps {
                    loop {
                        let found = {
                            let told = told.borrow();
                            let bytes = &told[index][from..];
                            match until.len() {
                                0 => Some(0),
                                n => bytes.windows(n).position(|w| w == until.as_bytes()).map(|at| at + n),
                            }
                        };
                        if let Some(found) = found {
                            from += found;
                            break;
                        }
                        let mut chunk = vec![0; 4096];
                        let n = tcp.read(&mut chunk).await.unwrap_or(0);
                        if n == 0 {
                            return;
                        }
                        told.borrow_mut()[index].extend_from_slice(&chunk[..n]);
                    }
                    if answer == b"CLOSE" {
                        return;
                    }
                    tcp.write_all(answer).await.unwrap();
                }
                // Whatever comes now is kept until the peer closes.
                loop {
                    let mut chunk = vec![0; 4096];
                    let n = tcp.read(&mut chunk).await.unwrap_or(0);
                    if n == 0 {
                        return;
                    }
                    told.borrow_mut()[index].extend_from_slice(&chunk[..n]);
                }
            });
        }
    });
    (address, got)
}

pub(super) fn target(address: SocketAddr, protocol: Protocol) -> Target {
    let cluster: HostPort = "up.test:80".parse().unwrap();
    Target {
        key: PoolKey::new(cluster, Arc::from(address.to_string()), protocol, 0, &[]),
        address,
        tls: None,
        source: None,
        mesh: false,
        connect_timeout: Duration::from_secs(2),
        idle_timeout: Duration::from_secs(60),
        max_requests: None,
        connections: ConnectionSettings::default(),
        limits: None,
        greeting: None,
    }
}

/// A service that forwards to `address`.
pub(super) fn forwarder(address: SocketAddr) -> (Rc<Recorder>, Pool) {
    let pool = Pool::new();
    (Recorder::new(Answer::Forward(Rc::new((pool.clone(), target(address, Protocol::Http1))))), pool)
}
