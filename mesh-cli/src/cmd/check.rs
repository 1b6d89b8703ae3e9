//! `meshctl internal check`: what `helm test` runs in a pod. Addresses in; out comes success as soon as each has answered.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use mesh_proto::model::SpiffeId;
use mesh_proto::runtime::certificates::{CaConfig, obtain_once};
use mesh_proto::runtime::identity::Identity;
use mesh_proto::runtime::tls::{self, ClientIdentity, Expect};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;
use url::Url;

use crate::args::CheckArgs;

/// One attempt.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between attempts.
const PAUSE: Duration = Duration::from_secs(1);
/// The projected token, and the roots, where a pod of the mesh has them.
const TOKEN: &str = "/var/run/secrets/tokens/istio-token";
const ROOTS: &str = "/var/run/secrets/istio/root-cert.pem";
/// HTTP/2's preface and an empty SETTINGS frame.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Asks until all have answered.
///
/// # Errors
/// When one has not in time: which, and what happened last.
pub async fn run(args: CheckArgs) -> anyhow::Result<ExitCode> {
    mesh_proto::runtime::crypto::install_provider();
    let deadline = Instant::now() + Duration::from_secs(args.timeout);
    let mut pod = Pod { id: args.identity, control_plane: args.control_plane, certificate: None };
    for url in &args.urls {
        loop {
            let failed = match timeout(PATIENCE, ask(url, &mut pod)).await {
                Ok(Ok(())) => break,
                Ok(Err(error)) => error,
                Err(_) => anyhow::anyhow!("no answer within {} s", PATIENCE.as_secs()),
            };
            if Instant::now() >= deadline {
                return Err(failed.context(url.to_string()));
            }
            sleep(PAUSE).await;
        }
        println!("{url}: ok");
    }
    Ok(ExitCode::SUCCESS)
}

/// Who asks.
struct Pod {
    id: Option<String>,
    control_plane: String,
    /// From the authority, once it was asked.
    certificate: Option<Identity>,
}

impl Pod {
    fn id(&self) -> anyhow::Result<SpiffeId> {
        let id = self.id.as_deref().context("--identity says who this pod is")?;
        id.parse().with_context(|| format!("--identity {id}"))
    }

    /// A server of the control plane, by its account.
    fn server(&self, account: &str) -> anyhow::Result<SpiffeId> {
        Ok(SpiffeId::new(self.id()?.trust_domain(), &self.control_plane, account)?)
    }

    /// A certificate for our token.
    async fn obtain(&mut self, address: String) -> anyhow::Result<()> {
        let config = CaConfig {
            address,
            roots: ROOTS.into(),
            token: Some(TOKEN.into()),
            identity: self.id()?,
            authority: self.server("mesh-ca")?,
            state_dir: std::env::temp_dir(),
            ttl: None,
        };
        self.certificate = Some(obtain_once(&config).await?);
        Ok(())
    }

    /// The pilot has its own certificate, and takes ours: it says something of its own after the handshake.
    async fn greet(&self, address: &str, stream: TcpStream) -> anyhow::Result<()> {
        let ours = self.certificate.as_ref().context("ca:// comes before pilot://")?;
        let expect = Expect::Exactly(self.server("mesh-pilot")?);
        let config =
            tls::client_config(ClientIdentity::Mesh(ours), ours.roots_handle().clone(), expect, &[b"h2"]);
        let connected = TlsConnector::from(config).connect(tls::server_name(address), stream).await;
        let mut stream = connected.map_err(|error| anyhow::anyhow!("{}", tls::explain(&error)))?;
        stream.write_all(PREFACE).await?;
        stream.flush().await?;
        stream.read_u8().await.map_err(|error| anyhow::anyhow!("not let in: {}", tls::explain(&error)))?;
        Ok(())
    }
}

async fn ask(url: &Url, pod: &mut Pod) -> anyhow::Result<()> {
    let host = url.host_str().context("no host")?;
    let port = url.port_or_known_default().context("no port")?;
    let address = format!("{host}:{port}");
    if url.scheme() == "ca" {
        return pod.obtain(address).await;
    }
    let stream = TcpStream::connect(&address).await.context("cannot connect")?;
    match url.scheme() {
        "tcp" => Ok(()),
        "pilot" => pod.greet(&address, stream).await,
        "http" => {
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            let request = Request::get(url.path()).header("host", address);
            let answer = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
            anyhow::ensure!(answer.status().is_success(), "answered {}", answer.status());
            Ok(())
        }
        other => bail!("{other} is none of http, tcp, ca and pilot"),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// A server that first says that it is not ready, then that it is.
    #[tokio::test]
    async fn waits_until_it_is_ready_and_fails_in_the_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            for status in ["503 Service Unavailable", "200 OK"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = [0; 256];
                let _ = stream.read(&mut head).await.unwrap();
                stream
                    .write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes())
                    .await
                    .unwrap();
            }
        });
        let url: Url = format!("http://127.0.0.1:{port}/ready").parse().unwrap();
        let of = |timeout| CheckArgs {
            urls: vec![url.clone()],
            identity: None,
            control_plane: String::new(),
            timeout,
        };
        assert_eq!(run(of(30)).await.unwrap(), ExitCode::SUCCESS);
        server.await.unwrap();
        let error = run(of(0)).await.unwrap_err();
        assert!(format!("{error:#}").contains("cannot connect"), "{error:#}");
    }
}
