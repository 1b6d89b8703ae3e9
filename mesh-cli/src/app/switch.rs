//! The switch that makes an instance misbehave while it runs: fail at a rate, hang, be slow, close connections.
//!
//! `GET /fault` shows it, `POST /fault` with a JSON object (and a `content-type` that says so) sets it, `DELETE /fault` clears it. `/fault` itself never misbehaves.

use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// How an instance misbehaves. All at rest by default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Fault {
    /// Answer with this status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The share of requests that misbehave, from 0 to 1; absent = all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// Never answer.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub hang: bool,
    /// Wait this many seconds before each answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow: Option<f64>,
    /// Close the connection instead of answering.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub close: bool,
}

impl Fault {
    /// In words.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut what = Vec::new();
        what.extend(self.slow.map(|seconds| format!("waits {seconds} s")));
        match self {
            Self { hang: true, .. } => what.push("never answers".to_owned()),
            Self { close: true, .. } => what.push("closes the connection".to_owned()),
            Self { status: Some(status), .. } => what.push(format!("answers {status}")),
            _ => {}
        }
        let what = if what.is_empty() { return "behaves".to_owned() } else { what.join(", then ") };
        match self.rate {
            Some(rate) if rate < 1.0 => format!("{what}, for {} % of its requests", rate * 100.0),
            _ => what,
        }
    }
}

/// What to do with one request.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// Wait first.
    pub wait: Option<Duration>,
    /// Then.
    pub then: Then,
}

/// How a request ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// As usual.
    Answer,
    /// With this status.
    Status(u16),
    /// Never.
    Hang,
    /// With a closed connection.
    Close,
}

/// The switch of one instance.
#[derive(Debug, Default)]
pub struct Switch(Mutex<Fault>);

impl Switch {
    /// What is set.
    pub fn get(&self) -> Fault {
        self.0.lock().clone()
    }

    /// Sets it; the next request sees it.
    ///
    /// # Errors
    /// What is wrong with the values.
    pub fn set(&self, fault: Fault) -> Result<(), String> {
        if fault.status.is_some_and(|status| !(200..=599).contains(&status)) {
            return Err("status must be from 200 to 599".to_owned());
        }
        if fault.rate.is_some_and(|rate| !(0.0..=1.0).contains(&rate)) {
            return Err("rate must be from 0 to 1".to_owned());
        }
        if fault.slow.is_some_and(|slow| !(0.0..=3600.0).contains(&slow)) {
            return Err("slow must be from 0 to 3600 seconds".to_owned());
        }
        *self.0.lock() = fault;
        Ok(())
    }

    /// Decides about one request; `dice` is uniform in [0, 1).
    pub fn decide(&self, dice: f64) -> Verdict {
        let fault = self.0.lock();
        if dice >= fault.rate.unwrap_or(1.0) {
            return Verdict { wait: None, then: Then::Answer };
        }
        let then = match *fault {
            Fault { hang: true, .. } => Then::Hang,
            Fault { close: true, .. } => Then::Close,
            Fault { status: Some(status), .. } => Then::Status(status),
            _ => Then::Answer,
        };
        Verdict { wait: fault.slow.map(Duration::from_secs_f64), then }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decides_by_rate() {
        let switch = Switch::default();
        assert_eq!(switch.decide(0.0).then, Then::Answer);
        switch
            .set(Fault { status: Some(503), rate: Some(0.25), slow: Some(0.5), ..Fault::default() })
            .unwrap();
        let hit = switch.decide(0.2);
        assert_eq!(hit, Verdict { wait: Some(Duration::from_millis(500)), then: Then::Status(503) });
        assert_eq!(switch.decide(0.25), Verdict { wait: None, then: Then::Answer });
    }

    #[test]
    fn it_can_be_said() {
        let fault = Fault { status: Some(503), rate: Some(0.25), slow: Some(0.5), ..Fault::default() };
        assert_eq!(fault.describe(), "waits 0.5 s, then answers 503, for 25 % of its requests");
        assert_eq!(Fault::default().describe(), "behaves");
    }

    #[test]
    fn refuses_nonsense() {
        let switch = Switch::default();
        assert!(switch.set(Fault { status: Some(99), ..Fault::default() }).is_err());
        assert!(switch.set(Fault { rate: Some(2.0), ..Fault::default() }).is_err());
        assert!(switch.set(Fault { slow: Some(f64::NAN), ..Fault::default() }).is_err());
        assert_eq!(switch.get(), Fault::default());
    }
}
