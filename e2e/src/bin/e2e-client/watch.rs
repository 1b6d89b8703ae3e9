//! `watch`: asks again and again on one connection and says when who answers changes. Out: one JSON line a change, with the
//! wall clock's microseconds at which the first such answer was there.

use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::time::MissedTickBehavior;

use super::request::{Ask, one};
use super::target::{Target, TargetArgs};

/// `e2e-client watch`.
#[derive(Debug, clap::Args)]
pub struct WatchArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Milliseconds from one request to the next: a change is seen at most so much (and one answer) late
    #[arg(long, default_value_t = 3)]
    every: u64,
}

/// Asks until standard input ends.
pub async fn run(args: WatchArgs) -> anyhow::Result<()> {
    let target = Target::new(&args.target)?;
    let ask = Ask { method: "GET".to_owned(), headers: Vec::new(), body: String::new() };
    let (mut kept, mut last) = (None, String::new());
    let mut ticks = tokio::time::interval(Duration::from_millis(args.every.max(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut input = tokio::io::stdin();
    let mut some = [0_u8; 64];
    loop {
        tokio::select! {
            read = input.read(&mut some) => if read.unwrap_or_default() == 0 { return Ok(()) },
            _ = ticks.tick() => {
                let answer = one(&mut kept, &target, &ask, Duration::from_secs(5)).await;
                let who = match answer.headers.get("instance") {
                    Some(instance) if answer.is_good() => instance.clone(),
                    _ => format!("none: {}", answer.status),
                };
                if who != last {
                    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).context("a clock after 1970")?;
                    println!("{}", json!({ "at": u64::try_from(now.as_micros())?, "instance": who }));
                    last = who;
                }
            }
        }
    }
}
