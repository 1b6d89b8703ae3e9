//! Applications: HTTP/1 on raw sockets (they show exactly what reached them), and TCP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// An application that answers every request with its own name and the request's head.
#[derive(Clone)]
pub struct Origin {
    pub address: SocketAddr,
    /// Bytes that reached it, of any connection.
    pub seen: Arc<Mutex<Vec<u8>>>,
    /// Requests that it has answered.
    pub answered: Arc<AtomicUsize>,
    /// Connections that it has accepted.
    pub connections: Arc<AtomicUsize>,
    statuses: Arc<Mutex<Vec<u16>>>,
    hang: Arc<AtomicUsize>,
}

impl Origin {
    pub async fn start(name: &'static str) -> Self {
        Self::start_at(name, SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    pub async fn start_at(name: &'static str, at: SocketAddr) -> Self {
        let listener = TcpListener::bind(at).await.unwrap();
        let origin = Self {
            address: listener.local_addr().unwrap(),
            seen: Arc::default(),
            answered: Arc::default(),
            connections: Arc::default(),
            statuses: Arc::default(),
            hang: Arc::default(),
        };
        let serving = origin.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serving.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serving.clone().serve(stream, name));
            }
        });
        origin
    }

    /// The next answers have these statuses.
    pub fn answer_with(&self, statuses: &[u16]) {
        *self.statuses.lock() = statuses.to_vec();
    }

    /// The next `n` requests get no answer.
    pub fn hang(&self, n: usize) {
        self.hang.store(n, Ordering::SeqCst);
    }

    /// The request lines that reached it. A count may rise after its request was refused: what was on its way when a policy
    /// came is decided again, and refused, while it is here.
    pub fn lines(&self) -> Vec<String> {
        let seen = String::from_utf8_lossy(&self.seen.lock()).into_owned();
        seen.lines().filter(|line| line.ends_with(" HTTP/1.1")).map(str::to_owned).collect()
    }

    pub fn count(&self) -> usize {
        self.answered.load(Ordering::SeqCst)
    }

    async fn serve(self, mut stream: TcpStream, name: &'static str) {
        let mut buffer = Vec::new();
        loop {
            let end = loop {
                if let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                    break end + 4;
                }
                let before = buffer.len();
                match stream.read_buf(&mut buffer).await {
                    Ok(n) if n > 0 => self.seen.lock().extend_from_slice(&buffer[before..]),
                    _ => return,
                }
            };
            let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
            let length = head.to_lowercase().split("content-length: ").nth(1).map(str::to_owned);
            let length: usize = length.and_then(|l| l.lines().next()?.trim().parse().ok()).unwrap_or(0);
            while buffer.len() < end + length {
                if !matches!(stream.read_buf(&mut buffer).await, Ok(n) if n > 0) {
                    return;
                }
            }
            buffer.drain(..end + length);
            if self.hang.load(Ordering::SeqCst) > 0 {
                self.hang.fetch_sub(1, Ordering::SeqCst);
                std::future::pending::<()>().await;
            }
            let next = self.statuses.lock().pop();
            let status = next.unwrap_or(200);
            let text = format!("{name}\n{head}");
            let answer = format!(
                "HTTP/1.1 {status} x\r\ncontent-length: {}\r\nx-instance: {name}\r\n\r\n{text}",
                text.len()
            );
            self.answered.fetch_add(1, Ordering::SeqCst);
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}
