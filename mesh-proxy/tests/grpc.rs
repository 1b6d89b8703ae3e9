//! HTTP/2 end to end: streaming both ways, trailers, and failures in gRPC's way.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use mesh_proto::wire::mesh::v1::{MtlsMode, Protocol};
use tokio::net::{TcpListener, TcpStream};

use crate::support::mesh::{Pair, ServiceSpec};

/// Echoes each DATA frame as it comes, then sends trailers.
pub async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    tokio::spawn(async move {
                        let peer = request.headers().get("x-forwarded-client-cert").cloned();
                        let mut body = request.into_body();
                        let mut response = Response::new(());
                        if let Some(peer) = peer {
                            response.headers_mut().insert("x-peer", peer);
                        }
                        let mut send = respond.send_response(response, false).unwrap();
                        while let Some(Ok(data)) = body.data().await {
                            let _ = body.flow_control().release_capacity(data.len());
                            send.send_data(data, false).unwrap();
                        }
                        let mut trailers = HeaderMap::new();
                        trailers.insert("grpc-status", "0".parse().unwrap());
                        let _ = send.send_trailers(trailers);
                    });
                }
            });
        }
    });
    address
}

pub async fn client(at: SocketAddr) -> h2::client::SendRequest<Bytes> {
    let stream = TcpStream::connect(at).await.unwrap();
    let (send, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    send.ready().await.unwrap()
}

pub fn call(authority: &str) -> Request<()> {
    Request::post(format!("http://{authority}/echo.Echo/Stream"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_goes_both_ways_and_ends_with_trailers() {
    let pair = Pair::start(echo().await, Protocol::Grpc, MtlsMode::MtlsStrict).await;
    let mut client = client(pair.vip()).await;
    let (response, mut send) = client.send_request(call("ratings:9080"), false).unwrap();
    send.send_data(Bytes::from_static(b"one"), false).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), 200);
    let peer = response.headers()["x-peer"].to_str().unwrap().to_owned();
    assert!(peer.contains("URI=spiffe://cluster.local/ns/default/sa/reviews"), "{peer}");
    let mut body = response.into_body();
    for message in ["one", "two", "three"] {
        // Each message comes back while the request is still open.
        if message != "one" {
            send.send_data(Bytes::from(message), false).unwrap();
        }
        let data = body.data().await.unwrap().unwrap();
        assert_eq!(data, message.as_bytes());
        body.flow_control().release_capacity(data.len()).unwrap();
    }
    send.send_data(Bytes::new(), true).unwrap();
    assert!(body.data().await.is_none());
    let trailers = body.trailers().await.unwrap().unwrap();
    assert_eq!(trailers["grpc-status"], "0");
    let at = pair.reviews.metrics();
    crate::support::eventually("the call is counted as gRPC", || async move {
        let text = crate::support::client::get(at, "metrics", "/stats/prometheus").await.unwrap().body;
        text.lines().any(|l| {
            l.starts_with("istio_requests_total{")
                && l.contains("request_protocol=\"grpc\"")
                && l.contains("grpc_response_status=\"0\"")
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_is_a_trailers_only_answer() {
    let pair = Pair::start(echo().await, Protocol::Grpc, MtlsMode::MtlsStrict).await;
    let empty = ServiceSpec { name: "empty", port: 9080, vip: 3, protocol: Protocol::Grpc, pods: vec![] };
    pair.mesh.service(&empty);
    let vip = pair.reviews.vip(3, 9080);
    crate::support::eventually("the listener opens", || async move { TcpStream::connect(vip).await.is_ok() })
        .await;
    let mut client = client(vip).await;
    let (response, _) = client.send_request(call("empty:9080"), true).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["grpc-status"], "14");
    assert!(response.headers()["grpc-message"].to_str().unwrap().contains("no_healthy_upstream"));
}
