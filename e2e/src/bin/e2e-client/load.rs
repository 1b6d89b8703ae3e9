//! `load`: requests at a steady rate on a few connections until standard input ends. Out: one JSON object that says how
//! many were sent, what each instance answered, and every loss with its reason and time.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::io::AsyncReadExt as _;
use tokio::time::MissedTickBehavior;

use super::request::{Answer, Ask, one};
use super::target::{Target, TargetArgs};

/// The most losses that are told one by one.
const MAX_TOLD: usize = 50;

/// `e2e-client load`.
#[derive(Debug, clap::Args)]
pub struct LoadArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Method
    #[arg(short = 'X', long, default_value = "GET")]
    method: String,
    /// The body
    #[arg(short, long, default_value = "")]
    data: String,
    /// Requests a second, over all connections
    #[arg(long, default_value_t = 50.0)]
    rate: f64,
    /// Connections
    #[arg(long, default_value_t = 4)]
    connections: u32,
    /// What ids begin with
    #[arg(long, default_value = "r")]
    prefix: String,
    /// How long one may take
    #[arg(long, default_value_t = 30.0, value_name = "SECONDS")]
    timeout: f64,
    /// Ends after this time even if standard input does not
    #[arg(long, default_value_t = 600.0, value_name = "SECONDS")]
    at_most: f64,
}

/// What happened.
#[derive(Debug, Default, Serialize)]
struct Report {
    sent: u64,
    good: u64,
    lost: u64,
    /// The first losses.
    losses: Vec<Loss>,
    instances: BTreeMap<String, u64>,
    slowest_millis: u64,
}

#[derive(Debug, Serialize)]
struct Loss {
    id: String,
    at_millis: u64,
    status: u16,
    why: String,
}

impl Report {
    fn add(&mut self, id: String, at: Duration, answer: &Answer) {
        self.sent += 1;
        self.slowest_millis = self.slowest_millis.max(answer.millis);
        if answer.is_good() {
            self.good += 1;
            let instance = answer.headers.get("instance").cloned().unwrap_or_default();
            *self.instances.entry(instance).or_default() += 1;
            return;
        }
        self.lost += 1;
        if self.losses.len() < MAX_TOLD {
            let why = answer.error.clone().unwrap_or_else(|| answer.body.clone());
            let at_millis = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
            self.losses.push(Loss { id, at_millis, status: answer.status, why });
        }
    }
}

/// Sends until standard input ends, then prints.
pub async fn run(args: LoadArgs) -> anyhow::Result<()> {
    anyhow::ensure!(args.rate > 0.0 && args.connections > 0, "a load has a rate and connections");
    let target = Rc::new(Target::new(&args.target)?);
    let args = Rc::new(args);
    let report = Rc::new(RefCell::new(Report::default()));
    let stop = Rc::new(std::cell::Cell::new(false));
    let local = tokio::task::LocalSet::new();
    let workers: Vec<_> = (0..args.connections)
        .map(|number| {
            local.spawn_local(worker(number, args.clone(), target.clone(), report.clone(), stop.clone()))
        })
        .collect();
    local
        .run_until(async {
            let _ = tokio::time::timeout(Duration::from_secs_f64(args.at_most), input_ends()).await;
            stop.set(true);
            for worker in workers {
                let _ = worker.await;
            }
        })
        .await;
    println!("{}", serde_json::to_string(&*report.borrow())?);
    Ok(())
}

async fn input_ends() {
    let mut input = tokio::io::stdin();
    let mut some = [0_u8; 64];
    while input.read(&mut some).await.is_ok_and(|count| count > 0) {}
}

async fn worker(
    number: u32,
    args: Rc<LoadArgs>,
    target: Rc<Target>,
    report: Rc<RefCell<Report>>,
    stop: Rc<std::cell::Cell<bool>>,
) {
    let started = Instant::now();
    let pace = Duration::from_secs_f64(f64::from(args.connections) / args.rate);
    let first = tokio::time::Instant::now() + pace.mul_f64(f64::from(number) / f64::from(args.connections));
    let mut ticks = tokio::time::interval_at(first, pace);
    // Behind on a busy machine: later, not in a burst.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut kept = None;
    let patience = Duration::from_secs_f64(args.timeout);
    for sequence in 0_u64.. {
        ticks.tick().await;
        if stop.get() {
            return;
        }
        let id = format!("{}-{number}-{sequence}", args.prefix);
        let ask = Ask {
            method: args.method.clone(),
            headers: vec![("x-tally-id".to_owned(), id.clone())],
            body: args.data.clone(),
        };
        let at = started.elapsed();
        let answer = one(&mut kept, &target, &ask, patience).await;
        report.borrow_mut().add(id, at, &answer);
    }
}
