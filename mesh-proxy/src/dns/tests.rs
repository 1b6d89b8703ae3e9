//! When names are asked for, and what is told, on paused time.

use std::collections::VecDeque;

use parking_lot::Mutex;

use super::*;

/// Answers in turn; each question is written down.
#[derive(Clone, Default)]
struct Script {
    asked: Arc<Mutex<Vec<(String, Instant)>>>,
    answers: Arc<Mutex<VecDeque<Result<Found, String>>>>,
}

impl Source for Script {
    fn ask(&self, name: &str) -> Asking {
        self.asked.lock().push((name.to_owned(), Instant::now()));
        let answer = self.answers.lock().pop_front().unwrap_or_else(|| Err("no answer left".into()));
        Box::pin(async move { answer })
    }
}

fn found(last: &[u8], ttl: u64) -> Result<Found, String> {
    let addresses = last.iter().map(|last| IpAddr::from([192, 0, 2, *last])).collect();
    Ok(Found { addresses, ttl: Duration::from_secs(ttl) })
}

fn told(last: &[u8]) -> Result<Vec<IpAddr>, String> {
    Ok(last.iter().map(|last| IpAddr::from([192, 0, 2, *last])).collect())
}

fn started(
    answers: Vec<Result<Found, String>>,
) -> (Script, watch::Sender<Names>, mpsc::UnboundedReceiver<Answer>) {
    let script = Script::default();
    script.answers.lock().extend(answers);
    let (names, wanted) = watch::channel(Names::from([Arc::from("a.example")]));
    let answers = start(wanted, script.clone());
    (script, names, answers)
}

#[tokio::test(start_paused = true)]
async fn a_name_is_asked_for_again_when_its_ttl_is_over_and_only_news_are_told() {
    let (script, _names, mut answers) =
        started(vec![found(&[1], 30), found(&[1], 30), found(&[1, 2], 0), found(&[3], 9)]);
    let start = Instant::now();
    assert_eq!(answers.recv().await.unwrap().found, told(&[1]));
    assert_eq!(answers.recv().await.unwrap().found, told(&[1, 2]));
    assert_eq!(answers.recv().await.unwrap().found, told(&[3]));
    let asked: Vec<_> = script.asked.lock().iter().map(|(_, at)| (*at - start).as_secs()).collect();
    assert_eq!(asked, [0, 30, 60, 65], "a TTL of 0 is 5 s");
}

#[tokio::test(start_paused = true)]
async fn the_last_good_addresses_are_kept_through_failures() {
    let bad = || Err("refused".to_owned());
    let (script, _names, mut answers) =
        started(vec![bad(), found(&[1], 10), bad(), bad(), found(&[], 10), found(&[2], 10)]);
    let start = Instant::now();
    assert_eq!(answers.recv().await.unwrap().found, Err("refused".into()), "it never had any");
    assert_eq!(answers.recv().await.unwrap().found, told(&[1]));
    assert_eq!(answers.recv().await.unwrap().found, told(&[2]));
    let asked: Vec<_> = script.asked.lock().iter().map(|(_, at)| (*at - start).as_secs()).collect();
    assert_eq!(asked, [0, 1, 11, 12, 14, 18]);
}

#[tokio::test(start_paused = true)]
async fn names_come_and_go() {
    let (script, names, mut answers) = started(vec![found(&[1], 10), found(&[2], 10)]);
    assert_eq!(&*answers.recv().await.unwrap().name, "a.example");
    names.send_replace(Names::from([Arc::from("b.example")]));
    assert_eq!(&*answers.recv().await.unwrap().name, "b.example");
    tokio::time::sleep(Duration::from_secs(11)).await;
    let asked: Vec<_> = script.asked.lock().iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(asked, ["a.example", "b.example", "b.example"]);
}
