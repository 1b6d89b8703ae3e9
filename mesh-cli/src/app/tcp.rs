//! TCP echo: every byte comes back; half-close is answered when everything has been echoed.

use std::sync::Arc;

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::App;

/// Serves until `stopping` turns true.
pub async fn serve(listener: TcpListener, app: Arc<App>, mut stopping: watch::Receiver<bool>) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopping.changed() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                tokio::spawn(echo(stream, app.clone()));
            }
            // Out of descriptors, or a connection reset in the queue: neither ends the loop.
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
        }
    }
}

async fn echo(mut stream: TcpStream, app: Arc<App>) {
    let _ = stream.set_nodelay(true);
    if let Some(greeting) = &app.greeting
        && stream.write_all(format!("{greeting}\n").as_bytes()).await.is_err()
    {
        return;
    }
    let (mut from, mut to) = stream.split();
    // A client that goes away ends its own echo and nothing else.
    if tokio::io::copy(&mut from, &mut to).await.is_ok() {
        let _ = to.shutdown().await;
    }
}
