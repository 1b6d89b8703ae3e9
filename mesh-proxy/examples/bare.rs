//! The bare loop on our codec: what a hop costs before routing, policy and telemetry are added.
//!
//! `bare [LISTEN UPSTREAM]` forwards 127.0.0.1:9101 to 127.0.0.1:9000, or what it is told. `bare pair DIR client [h2]` and
//! `bare pair DIR server [h2]` are two of them with mutual TLS in between (9101 to 9201 to 9000; LISTEN and UPSTREAM may be
//! given at the end); DIR holds `ca.pem`, `leaf.pem` and `leaf.key`.

use mesh_proxy::cluster::ConnectionSettings;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use mesh_proto::model::HostPort;
use mesh_proxy::drain::Drain;
use mesh_proxy::http::{BadRequest, Body, Protocol, Reply, ServerSettings, Service, Then, serve_connection};
use mesh_proxy::io::Io;
use mesh_proxy::pool::{Pool, PoolKey, Target};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;

const REQUEST_ID: http::HeaderName = http::HeaderName::from_static("x-request-id");

/// Sends everything to one place.
struct Forward {
    pool: Pool,
    target: Target,
}

impl Service for Forward {
    async fn call(&self, mut request: Request<Body>) -> Reply {
        request.headers_mut().insert(REQUEST_ID, http::HeaderValue::from_static("0123456789abcdef"));
        match self.pool.send(&self.target, request).await {
            Ok(response) => forward(response),
            Err(error) => {
                eprintln!("{error}");
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::BAD_GATEWAY;
                Reply::new(response)
            }
        }
    }

    fn refused(&self, why: &BadRequest) {
        eprintln!("refused: {why}");
    }
}

/// Hands an answer on, with the stream behind it where it switched protocols.
fn forward(response: Response<Body>) -> Reply {
    let (parts, body) = response.into_parts();
    match body.into_upgraded() {
        Ok((mut upstream, read)) => Reply {
            response: Response::from_parts(parts, Body::empty()),
            then: Then::Tunnel(Box::new(move |mut client, sent| {
                Box::pin(async move {
                    use tokio::io::AsyncWriteExt;
                    let started = async {
                        client.write_all(&read).await?;
                        upstream.write_all(&sent).await
                    };
                    if started.await.is_ok() {
                        // Either side's end is the tunnel's.
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut upstream).await;
                    }
                })
            })),
            record: None,
        },
        Err(body) => Reply::new(Response::from_parts(parts, body)),
    }
}

/// How a run is wired.
struct Wiring {
    listen: SocketAddr,
    upstream: SocketAddr,
    upstream_protocol: Protocol,
    accept: Option<tokio_rustls::TlsAcceptor>,
    connect: Option<Arc<rustls::ClientConfig>>,
}

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let wiring = match words[..] {
        [] => Wiring {
            listen: "127.0.0.1:9101".parse()?,
            upstream: "127.0.0.1:9000".parse()?,
            upstream_protocol: Protocol::Http1,
            accept: None,
            connect: None,
        },
        ["pair", dir, side, ref rest @ ..] => {
            let mut wiring = pair(Path::new(dir), side, rest.contains(&"h2"))?;
            if let [.., listen, upstream] = rest
                && listen.contains(':')
            {
                (wiring.listen, wiring.upstream) = (listen.parse()?, upstream.parse()?);
            }
            wiring
        }
        [listen, upstream] => Wiring {
            listen: listen.parse()?,
            upstream: upstream.parse()?,
            upstream_protocol: Protocol::Http1,
            accept: None,
            connect: None,
        },
        _ => anyhow::bail!("usage: bare [pair DIR client|server [h2]] [LISTEN UPSTREAM]"),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, run(wiring))
}

async fn run(wiring: Wiring) -> anyhow::Result<()> {
    let name: HostPort = "bench.local:80".parse()?;
    let key = PoolKey::new(name, Arc::from("backend"), wiring.upstream_protocol, 0, &[]);
    let tls =
        wiring.connect.clone().map(|config| Ok::<_, anyhow::Error>((config, "bench.local".try_into()?)));
    let target = Target {
        mesh: wiring.connect.is_some(),
        key,
        address: wiring.upstream,
        tls: tls.transpose()?,
        source: None,
        connect_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(60),
        max_requests: None,
        connections: ConnectionSettings::default(),
        limits: None,
        greeting: None,
    };
    let service = Rc::new(Forward { pool: Pool::new(), target });
    let settings = Rc::new(ServerSettings::default());
    let drain = Drain::new();
    let listener = TcpListener::bind(wiring.listen).await?;
    loop {
        let (tcp, _) = listener.accept().await?;
        tcp.set_nodelay(true)?;
        let (service, settings, watch) = (service.clone(), settings.clone(), drain.watch());
        let accept = wiring.accept.clone();
        tokio::task::spawn_local(async move {
            let (io, protocol) = match accept {
                None => (Io::Plain(tcp), Protocol::Http1),
                Some(accept) => {
                    let Ok(tls) = accept.accept(tcp).await else { return };
                    let h2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
                    (Io::Server(Box::new(tls)), if h2 { Protocol::Http2 } else { Protocol::Http1 })
                }
            };
            serve_connection(io, Bytes::new(), protocol, &settings, service, watch).await;
        });
    }
}

fn pair(dir: &Path, side: &str, h2: bool) -> anyhow::Result<Wiring> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_file_iter(dir.join("leaf.pem"))?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(dir.join("leaf.key")).context("leaf.key")?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(dir.join("ca.pem"))?)?;
    let alpn = vec![if h2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    let mut wiring = Wiring {
        listen: "127.0.0.1:9101".parse()?,
        upstream: "127.0.0.1:9201".parse()?,
        upstream_protocol: if h2 { Protocol::Http2 } else { Protocol::Http1 },
        accept: None,
        connect: None,
    };
    if side == "client" {
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        config.alpn_protocols = alpn;
        wiring.connect = Some(Arc::new(config));
    } else {
        let verifier =
            rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .build()?;
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)?;
        config.alpn_protocols = alpn;
        wiring.accept = Some(tokio_rustls::TlsAcceptor::from(Arc::new(config)));
        wiring.listen = "127.0.0.1:9201".parse()?;
        wiring.upstream = "127.0.0.1:9000".parse()?;
        wiring.upstream_protocol = Protocol::Http1;
    }
    Ok(wiring)
}
