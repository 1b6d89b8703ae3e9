//! `request`: one after another, an answer each. Out: one JSON line an answer.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::target::{Protocol, Target, TargetArgs};
use super::{http1, http2};

/// `e2e-client request`.
#[derive(Debug, clap::Args)]
pub struct RequestArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Method
    #[arg(short = 'X', long, default_value = "GET")]
    method: String,
    /// A header
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// The body; for grpc: MESSAGE [COUNT INTERVAL_MILLIS]; for tcp the bytes
    #[arg(short, long, default_value = "")]
    data: String,
    /// How many
    #[arg(short = 'n', long, default_value_t = 1)]
    count: u32,
    /// A connection for each
    #[arg(long)]
    fresh: bool,
    /// How long one may take
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS")]
    timeout: f64,
    /// When all is done, an empty POST to this URL, as a Job's script ends its classic sidecar
    #[arg(long, value_name = "URL")]
    finally: Option<String>,
}

/// What is sent.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Upper case.
    pub method: String,
    /// Lower-case names.
    pub headers: Vec<(String, String)>,
    /// Text.
    pub body: String,
}

/// What came back.
#[derive(Debug, Default, Serialize)]
pub struct Answer {
    /// 0: none came.
    pub status: u16,
    /// Lower-case names.
    pub headers: BTreeMap<String, String>,
    /// As text.
    pub body: String,
    /// Why there is no answer, or only a part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How long it took.
    pub millis: u64,
}

impl Answer {
    /// Whether all came that should.
    pub fn is_good(&self) -> bool {
        self.status == 200 && self.error.is_none()
    }
}

/// A connection of either protocol.
pub enum Connection {
    /// HTTP/1.1.
    One(http1::Connection),
    /// HTTP/2.
    Two(http2::Connection),
}

impl Connection {
    /// Connects.
    pub async fn open(target: &Target) -> anyhow::Result<Self> {
        Ok(match target.protocol {
            Protocol::Http2 | Protocol::Grpc => Self::Two(http2::Connection::open(target).await?),
            Protocol::Http1 | Protocol::Tcp => Self::One(http1::Connection::open(target).await?),
        })
    }

    /// Whether it takes another request.
    pub async fn is_open(&mut self) -> bool {
        match self {
            Self::One(one) => one.is_open().await,
            Self::Two(two) => two.is_open().await,
        }
    }

    async fn exchange(&mut self, target: &Target, ask: &Ask) -> anyhow::Result<Answer> {
        match self {
            Self::One(one) => one.exchange(target, ask).await,
            Self::Two(two) => two.exchange(target, ask).await,
        }
    }
}

/// One request, on the connection that is kept or on a new one; what goes wrong is the answer's `error`.
pub async fn one(kept: &mut Option<Connection>, target: &Target, ask: &Ask, patience: Duration) -> Answer {
    let started = Instant::now();
    let outcome = tokio::time::timeout(patience, attempt(kept, target, ask)).await;
    let outcome = outcome.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer within {patience:?}")));
    let mut answer = outcome.unwrap_or_else(|error| {
        *kept = None;
        Answer { error: Some(format!("{error:#}")), ..Answer::default() }
    });
    answer.millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    answer
}

async fn attempt(kept: &mut Option<Connection>, target: &Target, ask: &Ask) -> anyhow::Result<Answer> {
    if target.protocol == Protocol::Tcp {
        return tcp(target, ask).await;
    }
    if let Some(connection) = kept
        && !connection.is_open().await
    {
        *kept = None;
    }
    let connection = match kept {
        Some(connection) => connection,
        None => kept.insert(Connection::open(target).await?),
    };
    connection.exchange(target, ask).await
}

async fn tcp(target: &Target, ask: &Ask) -> anyhow::Result<Answer> {
    let mut io = target.open().await?;
    io.write_all(ask.body.as_bytes()).await.context("writing")?;
    io.shutdown().await.context("ending")?;
    let mut back = Vec::new();
    io.read_to_end(&mut back).await.context("reading")?;
    Ok(Answer { status: 200, body: String::from_utf8_lossy(&back).into_owned(), ..Answer::default() })
}

/// Parses `NAME: VALUE`.
pub fn headers(texts: &[String]) -> anyhow::Result<Vec<(String, String)>> {
    let parse = |text: &String| {
        let (name, value) = text.split_once(':').with_context(|| format!("{text}: expected NAME: VALUE"))?;
        Ok((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
    };
    texts.iter().map(parse).collect()
}

/// Sends and prints.
pub async fn run(args: RequestArgs) -> anyhow::Result<()> {
    let target = Target::new(&args.target)?;
    let ask = Ask { method: args.method.clone(), headers: headers(&args.headers)?, body: args.data.clone() };
    let mut kept = None;
    for _ in 0..args.count {
        let answer = one(&mut kept, &target, &ask, Duration::from_secs_f64(args.timeout)).await;
        println!("{}", serde_json::to_string(&answer)?);
        if args.fresh {
            kept = None;
        }
    }
    if let Some(url) = args.finally {
        let target = Target::new(&TargetArgs::of(url))?;
        let ask = Ask { method: "POST".to_owned(), headers: Vec::new(), body: String::new() };
        let answer = one(&mut None, &target, &ask, Duration::from_secs_f64(args.timeout)).await;
        println!("{}", serde_json::to_string(&answer)?);
        anyhow::ensure!(answer.is_good(), "{}: {:?}", target.authority, answer);
    }
    Ok(())
}
