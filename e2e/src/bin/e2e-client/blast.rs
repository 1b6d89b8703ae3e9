//! `blast`: as many requests as a number of connections can take, one after the other on each, for some seconds. Out: one JSON
//! object with how many were answered, how many were not, and how long they took.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Buf as _, BytesMut};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::target::{Io, Target, TargetArgs};

/// `e2e-client blast`.
#[derive(Debug, clap::Args)]
pub struct BlastArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Connections
    #[arg(long, default_value_t = 32)]
    connections: u32,
    /// How long
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
}

#[derive(Debug, Default)]
struct Tally {
    micros: Vec<u32>,
    lost: u64,
}

/// Sends, then prints.
pub async fn run(args: BlastArgs) -> anyhow::Result<()> {
    let target = Rc::new(Target::new(&args.target)?);
    let tally = Rc::new(RefCell::new(Tally::default()));
    let started = Instant::now();
    let until = started + Duration::from_secs_f64(args.seconds);
    let local = tokio::task::LocalSet::new();
    for _ in 0..args.connections {
        let (target, tally) = (target.clone(), tally.clone());
        local.spawn_local(async move {
            while Instant::now() < until {
                if connection(&target, &tally, until).await.is_err() {
                    tally.borrow_mut().lost += 1;
                }
            }
        });
    }
    local.await;
    let seconds = started.elapsed().as_secs_f64();
    let mut tally = tally.take();
    tally.micros.sort_unstable();
    let at = |share: usize| tally.micros.get(tally.micros.len() * share / 100).copied().unwrap_or_default();
    println!(
        "{}",
        json!({ "requests": tally.micros.len(), "lost": tally.lost, "seconds": seconds, "p50": at(50), "p99": at(99) })
    );
    Ok(())
}

/// One request after the other on one connection; an error is a request that got no answer.
async fn connection(target: &Target, tally: &RefCell<Tally>, until: Instant) -> anyhow::Result<()> {
    let request = format!("GET {} HTTP/1.1\r\nhost: {}\r\n\r\n", target.path, target.authority);
    let mut io = target.open().await?;
    let mut buffer = BytesMut::with_capacity(4096);
    loop {
        let began = Instant::now();
        if began >= until {
            return Ok(());
        }
        io.write_all(request.as_bytes()).await?;
        answer(&mut io, &mut buffer).await?;
        let micros = u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX);
        tally.borrow_mut().micros.push(micros);
    }
}

/// Reads a 200 whose length is told.
async fn answer(io: &mut Io, buffer: &mut BytesMut) -> anyhow::Result<()> {
    loop {
        let mut space = [httparse::EMPTY_HEADER; 64];
        let mut head = httparse::Response::new(&mut space);
        if let httparse::Status::Complete(length) = head.parse(buffer)? {
            anyhow::ensure!(head.code == Some(200), "status {:?}", head.code);
            let told = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
            let body: usize = match told {
                Some(header) => std::str::from_utf8(header.value)?.parse()?,
                None => anyhow::bail!("an answer without content-length"),
            };
            while buffer.len() < length + body {
                more(io, buffer).await?;
            }
            buffer.advance(length + body);
            return Ok(());
        }
        more(io, buffer).await?;
    }
}

async fn more(io: &mut Io, buffer: &mut BytesMut) -> anyhow::Result<()> {
    anyhow::ensure!(io.read_buf(buffer).await? > 0, "closed before the answer was whole");
    Ok(())
}
