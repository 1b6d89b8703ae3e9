//! `collect` and `counted`: how often the application executed each request. In: ids, one a line, on TCP connections of the
//! sample application (`TALLY`); a line `?` is answered with the counts as JSON.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use anyhow::Context as _;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// `e2e-client collect`.
#[derive(Debug, clap::Args)]
pub struct CollectArgs {
    /// The port
    #[arg(long, default_value_t = 7777)]
    port: u16,
}

/// `e2e-client counted`.
#[derive(Debug, clap::Args)]
pub struct CountedArgs {
    /// The collector
    #[arg(long, default_value = "127.0.0.1:7777")]
    at: String,
}

type Counts = Rc<RefCell<BTreeMap<String, u32>>>;

/// Counts until the process ends.
pub async fn run(args: CollectArgs) -> anyhow::Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", args.port)).await.context("the collector's port")?;
    let counts = Counts::default();
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            loop {
                let (stream, _) = listener.accept().await?;
                let counts = counts.clone();
                tokio::task::spawn_local(async move {
                    let _ = serve(stream, &counts).await;
                });
            }
        })
        .await
}

async fn serve(mut stream: TcpStream, counts: &Counts) -> anyhow::Result<()> {
    let (read, mut write) = stream.split();
    let mut lines = BufReader::new(read).lines();
    while let Some(line) = lines.next_line().await? {
        if line != "?" {
            *counts.borrow_mut().entry(line).or_default() += 1;
            continue;
        }
        let answer = {
            let counts = counts.borrow();
            let twice: Vec<_> = counts.iter().filter(|(_, count)| **count > 1).collect();
            json!({ "distinct": counts.len(), "executed": counts.values().sum::<u32>(), "twice": twice })
        };
        write.write_all(format!("{answer}\n").as_bytes()).await?;
    }
    Ok(())
}

/// Asks and prints.
pub async fn ask(args: CountedArgs) -> anyhow::Result<()> {
    let mut stream =
        TcpStream::connect(&args.at).await.with_context(|| format!("the collector {}", args.at))?;
    stream.write_all(b"?\n").await?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).await?;
    print!("{line}");
    Ok(())
}
