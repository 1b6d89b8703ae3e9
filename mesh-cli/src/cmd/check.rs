//! `meshctl internal check`: what `helm test` runs in a pod. Addresses in; out comes success as soon as each has answered.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use url::Url;

use crate::args::CheckArgs;

/// One attempt.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between attempts.
const PAUSE: Duration = Duration::from_secs(1);

/// Asks until all have answered.
///
/// # Errors
/// When one has not in time: which, and what happened last.
pub async fn run(args: CheckArgs) -> anyhow::Result<ExitCode> {
    let deadline = Instant::now() + Duration::from_secs(args.timeout);
    for url in &args.urls {
        loop {
            let failed = match timeout(PATIENCE, ask(url)).await {
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

/// `tcp://host:port` takes a connection; `http://host:port/path` answers with 2xx.
async fn ask(url: &Url) -> anyhow::Result<()> {
    let host = url.host_str().context("no host")?;
    let port = url.port_or_known_default().context("no port")?;
    let stream = TcpStream::connect((host, port)).await.context("cannot connect")?;
    match url.scheme() {
        "tcp" => Ok(()),
        "http" => {
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            let request = Request::get(url.path()).header("host", format!("{host}:{port}"));
            let answer = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
            anyhow::ensure!(answer.status().is_success(), "answered {}", answer.status());
            Ok(())
        }
        other => bail!("{other} is neither tcp nor http"),
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
        let args = CheckArgs { urls: vec![url.clone()], timeout: 30 };
        assert_eq!(run(args).await.unwrap(), ExitCode::SUCCESS);
        server.await.unwrap();
        let error = run(CheckArgs { urls: vec![url], timeout: 0 }).await.unwrap_err();
        assert!(format!("{error:#}").contains("cannot connect"), "{error:#}");
    }
}
