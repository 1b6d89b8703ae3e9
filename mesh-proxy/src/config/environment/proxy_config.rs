//! Istio's ProxyConfig, as far as a proxy follows it. In: JSON. Out: settings, and what is not followed in words.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::config::duration;

/// More workers than any machine has CPUs are a slip of the pen.
const MAX_WORKERS: u64 = 256;

/// What somebody else follows: the injector, the pilot.
const FOLLOWED_ELSEWHERE: [&str; 8] = [
    "holdApplicationUntilProxyStarts",
    "discoveryAddress",
    "image",
    "tracing",
    "proxyHeaders",
    "gatewayTopology",
    "readinessProbe",
    "meshId",
];

/// The settings.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ProxyConfig {
    /// Workers; 0 is as many as CPUs.
    pub concurrency: Option<u16>,
    /// `terminationDrainDuration`
    pub termination_drain: Option<Duration>,
    /// `interceptionMode`
    pub interception_mode: Option<String>,
    /// `proxyMetadata`
    pub metadata: BTreeMap<String, String>,
}

impl ProxyConfig {
    /// A value of `proxyMetadata`.
    pub fn metadata(&self, name: &str) -> Option<String> {
        self.metadata.get(name).cloned()
    }
}

/// Reads it.
///
/// # Errors
/// In words: which field, and what it may be.
pub fn read(text: &str) -> Result<(ProxyConfig, Vec<String>), String> {
    let fields: serde_json::Map<String, Value> = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let (mut config, mut notices) = (ProxyConfig::default(), Vec::new());
    for (name, value) in fields {
        match name.as_str() {
            "concurrency" => {
                let count = value.as_u64().filter(|n| *n <= MAX_WORKERS).and_then(|n| u16::try_from(n).ok());
                let why = || format!("concurrency: {value} is no number from 0 (all CPUs) to {MAX_WORKERS}");
                config.concurrency = Some(count.ok_or_else(why)?);
            }
            "terminationDrainDuration" => {
                let text = value.as_str().ok_or("terminationDrainDuration: expected e.g. \"5s\"")?;
                let parsed = duration::parse(text).map_err(|why| format!("{name}: {why}"))?;
                config.termination_drain = Some(parsed);
            }
            "interceptionMode" => {
                config.interception_mode = Some(value.as_str().unwrap_or_default().to_owned());
            }
            "proxyMetadata" => {
                let parsed = serde_json::from_value(value).map_err(|why| format!("{name}: {why}"))?;
                config.metadata = parsed;
            }
            _ if FOLLOWED_ELSEWHERE.contains(&name.as_str()) => {}
            _ => notices.push(format!("proxy configuration: {name} is not in force yet")),
        }
    }
    Ok((config, notices))
}
