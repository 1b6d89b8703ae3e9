//! gRPC over TLS on loopback: who calls, reconnecting, draining, bad neighbours.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tonic::{Request, Response, Status};

use super::id;
use crate::model::SpiffeId;
use crate::runtime::drain;
use crate::runtime::grpc::{PeerAddress, PeerIdentity, ServeSettings, channel, serve_with};
use crate::runtime::identity::Identity;
use crate::runtime::testing::TestCa;
use crate::runtime::tls::{ClientAuth, ClientIdentity, Expect, client_config, server_config};
use crate::wire::istio::v1::auth::istio_certificate_service_client::IstioCertificateServiceClient;
use crate::wire::istio::v1::auth::istio_certificate_service_server::{
    IstioCertificateService, IstioCertificateServiceServer,
};
use crate::wire::istio::v1::auth::{IstioCertificateRequest, IstioCertificateResponse};

/// Answers who is calling, after `gate` opens.
#[derive(Clone, Default)]
struct WhoAmI {
    gate: Option<Arc<tokio::sync::Semaphore>>,
    called: Arc<Mutex<u32>>,
}

#[tonic::async_trait]
impl IstioCertificateService for WhoAmI {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        *self.called.lock() += 1;
        if let Some(gate) = &self.gate {
            gate.acquire().await.unwrap().forget();
        }
        assert!(request.extensions().get::<PeerAddress>().unwrap().0.ip().is_loopback());
        let PeerIdentity(peer) = request.extensions().get::<PeerIdentity>().unwrap();
        let name = peer.as_ref().map_or("nobody", SpiffeId::as_str).to_owned();
        Ok(Response::new(IstioCertificateResponse { cert_chain: vec![name] }))
    }
}

struct Running {
    address: String,
    drain: drain::Drain,
    server: tokio::task::JoinHandle<()>,
}

async fn start(identity: &Identity, service: WhoAmI, settings: ServeSettings) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (drain, watch) = drain::channel();
    let routes = tonic::service::Routes::new(IstioCertificateServiceServer::new(service));
    let config = server_config(identity, ClientAuth::Optional, &[b"h2"]);
    let server = tokio::spawn(serve_with(settings, listener, config, routes, watch));
    Running { address, drain, server }
}

async fn call(address: &str, show: ClientIdentity<'_>, ca: &TestCa, expect: &str) -> Result<String, Status> {
    let config = client_config(show, ca.roots_handle(), Expect::Exactly(id(expect)), &[b"h2"]);
    let mut client = IstioCertificateServiceClient::new(channel(address, config).unwrap());
    let answer = client.create_certificate(IstioCertificateRequest::default()).await?;
    Ok(answer.into_inner().cert_chain.remove(0))
}

fn sources(status: &Status) -> String {
    let mut text = status.to_string();
    let mut next = std::error::Error::source(status);
    while let Some(error) = next {
        text.push_str(&format!(" / {error}"));
        next = error.source();
    }
    text
}

#[tokio::test]
async fn says_who_calls() {
    let ca = TestCa::new();
    let (a, b) = (ca.identity("default", "a"), ca.identity("default", "b"));
    let running = start(&b, WhoAmI::default(), ServeSettings::default()).await;
    let named = call(&running.address, ClientIdentity::Mesh(&a), &ca, "b").await.unwrap();
    assert_eq!(named, id("a").as_str());
    assert_eq!(call(&running.address, ClientIdentity::None, &ca, "b").await.unwrap(), "nobody");
    let wrong = call(&running.address, ClientIdentity::Mesh(&a), &ca, "c").await.unwrap_err();
    let story = sources(&wrong);
    assert!(story.contains(&format!("peer is {}, expected {}", id("b"), id("c"))), "{story}");
}

#[tokio::test]
async fn a_silent_neighbour_and_garbage_cost_nobody_else() {
    let ca = TestCa::new();
    let b = ca.identity("default", "b");
    let settings = ServeSettings { handshake: Duration::from_secs(1), ..ServeSettings::default() };
    let running = start(&b, WhoAmI::default(), settings).await;
    let mut silent = TcpStream::connect(&running.address).await.unwrap();
    let mut garbage = TcpStream::connect(&running.address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut garbage, b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert_eq!(call(&running.address, ClientIdentity::None, &ca, "b").await.unwrap(), "nobody");
    // The handshake that never begins ends by its own limit.
    assert_eq!(silent.read(&mut [0; 16]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn a_stranger_holds_a_connection_only_for_a_while() {
    let ca = TestCa::new();
    let settings = ServeSettings {
        anonymous: Duration::from_millis(100),
        grace: Duration::from_millis(100),
        ..ServeSettings::default()
    };
    let running = start(&ca.identity("default", "b"), WhoAmI::default(), settings).await;
    let connect = async |show: ClientIdentity<'_>| {
        let config = client_config(show, ca.roots_handle(), Expect::Exactly(id("b")), &[b"h2"]);
        let stream = TcpStream::connect(&running.address).await.unwrap();
        let name = crate::runtime::tls::server_name(&running.address);
        tokio_rustls::TlsConnector::from(config).connect(name, stream).await.unwrap()
    };
    // Neither says a word after the handshake.
    let a = ca.identity("default", "a");
    let (mut stranger, mut known) =
        (connect(ClientIdentity::None).await, connect(ClientIdentity::Mesh(&a)).await);
    let mut text = Vec::new();
    let _ = stranger.read_to_end(&mut text).await;
    let more =
        tokio::time::timeout(Duration::from_millis(50), async { while known.read_u8().await.is_ok() {} });
    assert!(more.await.is_err(), "who showed a certificate is still connected");
}

#[tokio::test]
async fn open_requests_end_before_the_drain_does() {
    let ca = TestCa::new();
    let (gate, called) = (Arc::new(tokio::sync::Semaphore::new(0)), Arc::new(Mutex::new(0)));
    let service = WhoAmI { gate: Some(gate.clone()), called: called.clone() };
    let running = start(&ca.identity("default", "b"), service, ServeSettings::default()).await;
    let (address, roots) = (running.address.clone(), ca.clone());
    let request = tokio::spawn(async move { call(&address, ClientIdentity::None, &roots, "b").await });
    while *called.lock() == 0 {
        tokio::task::yield_now().await;
    }
    running.drain.start();
    // The listener is gone, the request is not.
    while TcpStream::connect(&running.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(!running.server.is_finished());
    gate.add_permits(1);
    assert_eq!(request.await.unwrap().unwrap(), "nobody");
    running.server.await.unwrap();
}

#[tokio::test]
async fn a_connection_ends_with_its_certificate_and_the_channel_opens_another() {
    let ca = TestCa::new();
    let b = ca.identity("default", "b");
    let a = Identity::new(ca.leaf_for(&id("a"), Duration::from_secs(2)), ca.roots_handle());
    let running = start(&b, WhoAmI::default(), ServeSettings::default()).await;
    let config =
        client_config(ClientIdentity::Mesh(&a), ca.roots_handle(), Expect::Exactly(id("b")), &[b"h2"]);
    let mut client = IstioCertificateServiceClient::new(channel(&running.address, config).unwrap());
    client.create_certificate(IstioCertificateRequest::default()).await.unwrap();
    let expiry = a.leaf().not_after;
    a.swap_leaf(ca.leaf("default", "a")).unwrap();
    while std::time::SystemTime::now() < expiry {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // The old connection is closed, which a client may see as one failed call at most.
    let mut answers = Vec::new();
    for _ in 0..3 {
        answers.push(client.create_certificate(IstioCertificateRequest::default()).await.is_ok());
    }
    assert_eq!(answers.last(), Some(&true), "{answers:?}");
}

#[test]
fn an_address_without_port_is_refused() {
    let ca = TestCa::new();
    let config = client_config(ClientIdentity::None, ca.roots_handle(), Expect::OneOf(vec![]), &[]);
    for bad in ["", "ca", "ca:", ":1", "ca:x", "ca:99999"] {
        assert!(channel(bad, config.clone()).is_err(), "{bad}");
    }
}
