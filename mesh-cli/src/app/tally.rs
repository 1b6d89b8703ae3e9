//! Telling a counter which requests were executed: one line for each that names itself in `x-tally-id`.
//!
//! In: ids, as requests begin. Out: lines on one TCP connection to `TALLY`, opened again when it breaks. A test compares them
//! with what its client sent: what was sent once must not be executed twice.

use std::time::Duration;

use http::HeaderMap;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// The header that carries a request's id.
const HEADER: &str = "x-tally-id";
/// Ids that wait while the counter is away; more are dropped, and said so.
const WAITING: usize = 65_536;

/// The application's end.
#[derive(Clone, Default)]
pub struct Tally(Option<mpsc::Sender<String>>);

/// What still has to be told.
pub type Teller = tokio::task::JoinHandle<()>;

impl Tally {
    /// Starts telling `counter`; without one there is nothing to do.
    pub fn start(counter: Option<&str>) -> (Self, Option<Teller>) {
        let Some(counter) = counter.filter(|counter| !counter.is_empty()) else { return (Self(None), None) };
        let (sender, ids) = mpsc::channel(WAITING);
        (Self(Some(sender)), Some(tokio::spawn(tell(counter.to_owned(), ids))))
    }

    /// Counts a request that begins.
    pub fn count(&self, headers: &HeaderMap) {
        let Some(sender) = &self.0 else { return };
        let Some(id) = headers.get(HEADER).and_then(|id| id.to_str().ok()) else { return };
        if sender.try_send(id.to_owned()).is_err() {
            eprintln!("the tally is behind: {id} is not counted");
        }
    }
}

async fn tell(counter: String, mut ids: mpsc::Receiver<String>) {
    let mut stream = None;
    while let Some(id) = ids.recv().await {
        let line = format!("{id}\n");
        loop {
            let open = match &mut stream {
                Some(open) => open,
                none => match TcpStream::connect(&counter).await {
                    Ok(open) => none.insert(open),
                    Err(error) => {
                        eprintln!("the tally {counter} cannot be reached: {error}");
                        tokio::time::sleep(Duration::from_millis(200)).await;
                        continue;
                    }
                },
            };
            match open.write_all(line.as_bytes()).await {
                Ok(()) => break,
                Err(_) => stream = None,
            }
        }
    }
    if let Some(mut open) = stream {
        let _ = open.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncBufReadExt as _, BufReader};

    #[tokio::test]
    async fn what_names_itself_is_told() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (tally, teller) = Tally::start(Some(&listener.local_addr().unwrap().to_string()));
        let headers =
            |id: &'static str| HeaderMap::from_iter([(HEADER.parse().unwrap(), id.parse().unwrap())]);
        tally.count(&headers("a-1"));
        tally.count(&HeaderMap::new());
        tally.count(&headers("a-2"));
        drop(tally);
        let (stream, _) = listener.accept().await.unwrap();
        let mut lines = BufReader::new(stream).lines();
        assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("a-1"));
        assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("a-2"));
        assert_eq!(lines.next_line().await.unwrap(), None);
        teller.unwrap().await.unwrap();
    }

    #[test]
    fn without_a_counter_nothing_is_told() {
        let (tally, teller) = Tally::start(None);
        tally.count(&HeaderMap::new());
        assert!(teller.is_none());
    }
}
