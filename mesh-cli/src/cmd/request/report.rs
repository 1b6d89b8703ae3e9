//! Prints answers: JSON lines in order, or for people who answered, how often, statuses and latencies.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use comfy_table::{Table, presets};

use super::answer::Answer;

/// Takes answers in any order; prints them in theirs.
pub struct Report {
    json: bool,
    single: bool,
    /// Came before an earlier one.
    waiting: BTreeMap<u32, Answer>,
    next: u32,
    /// (instance, version, status or error) → how often.
    seen: BTreeMap<(String, String, String), u32>,
    millis: Vec<f64>,
    failed: u32,
}

impl Report {
    /// `json`: one object per answer; `single`: show the one answer whole.
    pub fn new(json: bool, single: bool) -> Self {
        let (waiting, seen) = Default::default();
        Self { json, single, waiting, next: 0, seen, millis: Vec::new(), failed: 0 }
    }

    /// Takes the answer to request number `index`.
    pub fn add(&mut self, index: u32, answer: Answer) {
        self.waiting.insert(index, answer);
        while let Some(answer) = self.waiting.remove(&self.next) {
            self.next += 1;
            self.print(&answer);
            self.count(answer);
        }
    }

    fn print(&self, answer: &Answer) {
        if self.json {
            let line = serde_json::to_string(answer).expect("text and numbers are JSON");
            anstream::println!("{line}");
        } else if self.single && answer.error.is_none() {
            anstream::println!("{}", whole(answer));
        }
    }

    fn count(&mut self, answer: Answer) {
        let status = answer.error.unwrap_or_else(|| match answer.headers.get("grpc-status") {
            Some(grpc) => format!("{} grpc-status {grpc}", answer.status),
            None => answer.status.to_string(),
        });
        self.failed += u32::from(answer.status == 0);
        let who = answer.instance.unwrap_or_else(|| "-".to_owned());
        *self.seen.entry((who, answer.version.unwrap_or_else(|| "-".to_owned()), status)).or_default() += 1;
        self.millis.push(answer.millis);
    }

    /// Prints the summary. 1 when a request got no answer.
    pub fn finish(self, took: Duration) -> ExitCode {
        let code = if self.failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        if !self.json && (!self.single || self.failed > 0) {
            anstream::println!("{}", self.summary(took));
        }
        code
    }

    fn summary(mut self, took: Duration) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(["INSTANCE", "VERSION", "STATUS", "COUNT", "SHARE"]);
        let total = self.millis.len();
        for ((who, version, status), count) in &self.seen {
            let share = format!("{:.0} %", f64::from(*count) * 100.0 / total.max(1) as f64);
            table.add_row([who, version, status, &count.to_string(), &share]);
        }
        self.millis.sort_by(f64::total_cmp);
        let at = |share: f64| {
            self.millis.get(((total as f64 - 1.0) * share).round() as usize).copied().unwrap_or_default()
        };
        let mut text = format!("{table}\n\n");
        let seconds = took.as_secs_f64();
        let rate = total as f64 / seconds.max(f64::EPSILON);
        let _ = writeln!(
            text,
            "{total} requests in {seconds:.2} s ({rate:.0}/s), {} without an answer",
            self.failed
        );
        let _ = write!(
            text,
            "latency ms: min {:.1}  median {:.1}  p90 {:.1}  p99 {:.1}  max {:.1}",
            at(0.0),
            at(0.5),
            at(0.9),
            at(0.99),
            at(1.0)
        );
        text
    }
}

/// One answer with its head and body.
fn whole(answer: &Answer) -> String {
    let mut text = format!("{} {}", answer.protocol, answer.status);
    if let Some(instance) = &answer.instance {
        let _ = write!(text, "  from {instance}");
    }
    if let Some(version) = &answer.version {
        let _ = write!(text, " ({version})");
    }
    let _ = writeln!(text, "  in {:.1} ms", answer.millis);
    for (name, value) in &answer.headers {
        let _ = writeln!(text, "{name}: {value}");
    }
    let _ = write!(text, "\n{}", answer.body.trim_end());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(instance: &str, millis: f64) -> Answer {
        Answer {
            status: 200,
            instance: Some(instance.to_owned()),
            millis,
            protocol: "HTTP/1.1",
            ..Answer::default()
        }
    }

    #[test]
    fn counts_who_answered() {
        let mut report = Report::new(false, false);
        report.add(1, answer("b", 3.0));
        report.add(0, answer("a", 1.0));
        report.add(2, answer("b", 2.0));
        report.add(3, Answer::failed(&anyhow::anyhow!("no answer")));
        let text = report.summary(Duration::from_secs(2));
        assert!(
            text.lines()
                .any(|l| l.split_whitespace().collect::<Vec<_>>() == ["b", "-", "200", "2", "50", "%"]),
            "{text}"
        );
        assert!(text.contains("4 requests in 2.00 s (2/s), 1 without an answer"), "{text}");
        assert!(text.contains("no answer"), "{text}");
    }

    #[test]
    fn json_has_the_documented_keys() {
        let value = serde_json::to_value(answer("a", 1.9)).unwrap();
        let keys: Vec<&String> = value.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["status", "instance", "version", "headers", "body", "millis", "protocol"]);
    }
}
