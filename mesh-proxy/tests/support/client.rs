//! HTTP/1 clients on raw sockets: they never retry.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    /// A header field's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// One GET on a connection of its own.
pub async fn get(at: SocketAddr, host: &str, path: &str) -> io::Result<Answer> {
    send(at, &format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")).await
}

/// One GET through an HTTP proxy port.
pub async fn proxied(proxy: SocketAddr, url: &str) -> io::Result<Answer> {
    let authority = url.trim_start_matches("http://").split('/').next().unwrap_or_default();
    send(proxy, &format!("GET {url} HTTP/1.1\r\nhost: {authority}\r\nconnection: close\r\n\r\n")).await
}

/// Sends bytes and reads until the other side closes.
pub async fn send(at: SocketAddr, request: &str) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(at).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await?;
    parse(&all)
}

/// A connection that is kept.
pub struct Connection(pub TcpStream);

impl Connection {
    pub async fn open(at: SocketAddr) -> Self {
        Self(TcpStream::connect(at).await.unwrap())
    }

    pub async fn get(&mut self, host: &str, path: &str) -> io::Result<Answer> {
        self.0.write_all(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes()).await?;
        self.answer().await
    }

    /// Reads one answer with a content-length.
    pub async fn answer(&mut self) -> io::Result<Answer> {
        let mut all = Vec::new();
        loop {
            if let Some(end) = find(&all, b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&all[..end]).to_lowercase();
                let length = head.split("content-length: ").nth(1).and_then(|l| l.lines().next());
                let length: usize = length.and_then(|l| l.trim().parse().ok()).unwrap_or(0);
                if all.len() >= end + 4 + length {
                    return parse(&all);
                }
            }
            if self.0.read_buf(&mut all).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

fn find(all: &[u8], what: &[u8]) -> Option<usize> {
    all.windows(what.len()).position(|w| w == what)
}

/// Takes an answer apart.
pub fn parse(all: &[u8]) -> io::Result<Answer> {
    let bad = || io::Error::new(io::ErrorKind::UnexpectedEof, String::from_utf8_lossy(all).into_owned());
    let end = find(all, b"\r\n\r\n").ok_or_else(bad)?;
    let head = String::from_utf8_lossy(&all[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(bad)?;
    let mut body = all[end + 4..].to_vec();
    if head.to_lowercase().contains("transfer-encoding: chunked") {
        body = unchunk(&body);
    }
    Ok(Answer { status, head, body: String::from_utf8_lossy(&body).into_owned() })
}

fn unchunk(mut rest: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(end) = find(rest, b"\r\n") {
        let size = usize::from_str_radix(&String::from_utf8_lossy(&rest[..end]), 16).unwrap_or(0);
        if size == 0 || rest.len() < end + 2 + size {
            break;
        }
        out.extend_from_slice(&rest[end + 2..end + 2 + size]);
        rest = &rest[(end + 4 + size).min(rest.len())..];
    }
    out
}
