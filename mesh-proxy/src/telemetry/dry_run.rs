//! What dry runs of AuthorizationPolicies come to, counted. In: verdicts that nothing came of. Out: Istio's `rbac` counters with
//! `authz_dry_run_action` and `authz_dry_run_result`.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use parking_lot::Mutex;

/// How many series there may be: a captured connection may come to any port.
const SERIES: usize = 1_000;

/// What was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Carries {
    /// Requests.
    Requests,
    /// A connection that carries bytes.
    Bytes,
}

/// One verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DryRun {
    /// Of what.
    pub carries: Carries,
    /// The workload's port.
    pub port: u16,
    /// `deny` or `allow`.
    pub action: &'static str,
    /// `denied` or `allowed`.
    pub result: &'static str,
}

/// All of them. Only where there are dry runs is anything counted, so that one lock is enough.
#[derive(Debug, Default)]
pub(super) struct DryRuns(Mutex<BTreeMap<DryRun, u64>>);

impl DryRuns {
    pub(super) fn count(&self, mut of: DryRun) {
        let mut all = self.0.lock();
        if all.len() >= SERIES && !all.contains_key(&of) {
            of.port = 0;
        }
        *all.entry(of).or_default() += 1;
    }

    pub(super) fn write(&self, out: &mut String) -> fmt::Result {
        for (DryRun { carries, port, action, result }, count) in self.0.lock().iter() {
            match carries {
                Carries::Requests => write!(out, "envoy_http_inbound_0_0_0_0_{port}_rbac")?,
                Carries::Bytes => write!(out, "envoy_tcp_inbound_0_0_0_0_{port}_rbac")?,
            }
            writeln!(out, "{{authz_dry_run_action=\"{action}\",authz_dry_run_result=\"{result}\"}} {count}")?;
        }
        Ok(())
    }
}
