//! The table: medians with their spread, and ratios within the same rounds.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::Settings;
use crate::measure::Sample;

/// All samples, by row.
pub struct Report {
    rows: Vec<(String, Vec<Sample>)>,
    head: String,
}

/// Pairs of rows whose ratio is asked for, with the goal.
const RATIOS: [(&str, &str, &str); 5] = [
    ("plain: mesh-proxy", "plain: HAProxy", "goal <= 1.15"),
    ("plain: mesh-proxy", "plain: mesh-proxy again", "A/A"),
    ("plain: mesh-proxy", "plain: bare loop", "what our features cost"),
    ("mTLS pair: mesh-proxy", "mTLS pair: Envoy", "goal <= 0.6"),
    ("mTLS pair: mesh-proxy", "mTLS pair: bare loop", "what our features cost"),
];

impl Report {
    /// An empty one.
    pub fn new(settings: &Settings) -> Self {
        let head = format!(
            "{} rounds of {} s, {} connections; CPU = user + system time of the proxies / requests",
            settings.rounds, settings.seconds, settings.connections
        );
        Self { rows: Vec::new(), head }
    }

    /// Takes one sample.
    pub fn add(&mut self, name: &str, sample: Sample) {
        match self.rows.iter_mut().find(|(row, _)| row == name) {
            Some((_, samples)) => samples.push(sample),
            None => self.rows.push((name.to_owned(), vec![sample])),
        }
    }

    /// How many requests each row got.
    pub fn requests(&self) -> BTreeMap<&str, u64> {
        let total = |samples: &[Sample]| samples.iter().map(|sample| sample.requests).sum();
        self.rows.iter().map(|(name, samples)| (name.as_str(), total(samples))).collect()
    }

    /// The table, as the README shows it.
    pub fn table(&self, memory: &str) -> String {
        let mut text = format!(
            "\n{}\n\n| | CPU us/request (min-max) | requests/s | RSS loaded MB |\n|---|---|---|---|\n",
            self.head
        );
        for (name, samples) in &self.rows {
            let cpu = sorted(samples.iter().map(|sample| sample.cpu_micros));
            let rate = median(&sorted(samples.iter().map(|sample| sample.rate)));
            let rss = median(&sorted(samples.iter().map(|sample| sample.rss)));
            let (low, high) = (cpu[0], cpu[cpu.len() - 1]);
            let _ = writeln!(
                text,
                "| {name} | {:.1} ({low:.1}-{high:.1}) | {rate:.0} | {rss:.1} |",
                median(&cpu)
            );
        }
        text.push_str("\n| ratio of CPU, round by round | median (min-max) | |\n|---|---|---|\n");
        for (ours, theirs, what) in RATIOS {
            if let Some(ratios) = self.ratios(ours, theirs) {
                let (low, high) = (ratios[0], ratios[ratios.len() - 1]);
                let _ = writeln!(
                    text,
                    "| {ours} / {theirs} | {:.2} ({low:.2}-{high:.2}) | {what} |",
                    median(&ratios)
                );
            }
        }
        let _ = write!(text, "\n{memory}");
        text
    }

    fn ratios(&self, ours: &str, theirs: &str) -> Option<Vec<f64>> {
        let row = |name: &str| self.rows.iter().find(|(row, _)| row == name).map(|(_, samples)| samples);
        let pairs = row(ours)?.iter().zip(row(theirs)?);
        Some(sorted(pairs.map(|(ours, theirs)| ours.cpu_micros / theirs.cpu_micros)))
    }
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) }
}
