//! HTTP/1.1 on a raw socket: one request written, one answer read whole. Nothing is ever sent twice.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::request::{Answer, Ask};
use super::target::{Io, Target};

/// The largest answer that is read.
const MAX_ANSWER: usize = 64 << 20;

/// A connection between two requests.
pub struct Connection {
    io: Io,
    buffer: BytesMut,
    open: bool,
}

impl Connection {
    /// Connects.
    pub async fn open(target: &Target) -> anyhow::Result<Self> {
        Ok(Self { io: target.open().await?, buffer: BytesMut::new(), open: true })
    }

    /// Whether another request may be sent: the server neither said nor did that it closes.
    pub async fn is_open(&mut self) -> bool {
        if !self.open || !self.buffer.is_empty() {
            return false;
        }
        let mut byte = [0_u8; 1];
        let read = self.io.read(&mut byte);
        // Nothing to read at once is what an idle connection has.
        tokio::time::timeout(std::time::Duration::ZERO, read).await.is_err()
    }

    /// One exchange.
    pub async fn exchange(&mut self, target: &Target, ask: &Ask) -> anyhow::Result<Answer> {
        let outcome = self.attempt(target, ask).await;
        self.open &= outcome.is_ok();
        outcome
    }

    async fn attempt(&mut self, target: &Target, ask: &Ask) -> anyhow::Result<Answer> {
        let mut text = format!("{} {} HTTP/1.1\r\n", ask.method, target.path);
        if !ask.headers.iter().any(|(name, _)| name == "host") {
            text.push_str(&format!("host: {}\r\n", target.authority));
        }
        for (name, value) in &ask.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if !ask.body.is_empty() || ask.method == "POST" {
            text.push_str(&format!("content-length: {}\r\n", ask.body.len()));
        }
        text.push_str("\r\n");
        text.push_str(&ask.body);
        self.io.write_all(text.as_bytes()).await.context("writing the request")?;
        let (status, headers) = self.head().await?;
        let header = |name: &str| headers.get(name).map(|value| value.to_ascii_lowercase());
        let body = if ask.method == "HEAD" || status == 204 || status == 304 {
            Vec::new()
        } else if header("transfer-encoding").is_some_and(|coding| coding.contains("chunked")) {
            self.chunked().await?
        } else if let Some(length) = header("content-length") {
            self.exactly(length.parse().context("content-length")?).await?
        } else {
            self.open = false;
            self.rest().await?
        };
        self.open &= header("connection").is_none_or(|value| !value.contains("close"));
        Ok(Answer { status, headers, body: String::from_utf8_lossy(&body).into_owned(), ..Answer::default() })
    }

    async fn head(&mut self) -> anyhow::Result<(u16, BTreeMap<String, String>)> {
        loop {
            let mut space = [httparse::EMPTY_HEADER; 128];
            let mut head = httparse::Response::new(&mut space);
            if let httparse::Status::Complete(length) =
                head.parse(&self.buffer).context("the answer's head")?
            {
                let status = head.code.unwrap_or_default();
                let mut headers = BTreeMap::<String, String>::new();
                for header in head.headers.iter() {
                    let value = String::from_utf8_lossy(header.value).into_owned();
                    headers
                        .entry(header.name.to_ascii_lowercase())
                        .and_modify(|all| all.push_str(&format!(", {value}")))
                        .or_insert(value);
                }
                self.buffer.advance(length);
                if (100..200).contains(&status) && status != 101 {
                    continue;
                }
                return Ok((status, headers));
            }
            self.more("the answer's head").await?;
        }
    }

    async fn more(&mut self, what: &str) -> anyhow::Result<()> {
        if self.buffer.len() > MAX_ANSWER {
            bail!("{what}: more than {MAX_ANSWER} bytes");
        }
        if self.io.read_buf(&mut self.buffer).await.with_context(|| format!("reading {what}"))? == 0 {
            bail!("the connection was closed before {what} was whole");
        }
        Ok(())
    }

    async fn exactly(&mut self, length: usize) -> anyhow::Result<Vec<u8>> {
        while self.buffer.len() < length {
            self.more("the answer's body").await?;
        }
        Ok(self.buffer.split_to(length).to_vec())
    }

    async fn rest(&mut self) -> anyhow::Result<Vec<u8>> {
        while self.io.read_buf(&mut self.buffer).await.context("reading the answer's body")? > 0 {
            if self.buffer.len() > MAX_ANSWER {
                bail!("the answer's body: more than {MAX_ANSWER} bytes");
            }
        }
        Ok(self.buffer.split().to_vec())
    }

    async fn chunked(&mut self) -> anyhow::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let size = self.line().await?;
            let digits = size.split(';').next().unwrap_or_default().trim().to_owned();
            let size = usize::from_str_radix(&digits, 16).context("a chunk's size")?;
            if size == 0 {
                while !self.line().await?.is_empty() {}
                return Ok(body);
            }
            body.extend(self.exactly(size).await?);
            self.line().await?;
        }
    }

    async fn line(&mut self) -> anyhow::Result<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.buffer.split_to(end);
                self.buffer.advance(2);
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            self.more("a chunk").await?;
        }
    }
}
