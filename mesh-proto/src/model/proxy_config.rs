//! Istio's ProxyConfig (`meshConfig.defaultConfig`, the annotation `proxy.istio.io/config`), as far as anything here follows
//! it. In: its fields. Out: settings and the names of the fields without effect, or which field has no meaning.
//!
//! Read wherever it passes, not only by the proxy at its end: a slip of the pen there stops every new pod of a mesh.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value};

use super::duration;

/// More workers than any machine has CPUs are a slip of the pen.
const MAX_WORKERS: u64 = 256;

/// How long an endpoint's withdrawal may take to reach every client; a variable of `proxyMetadata` in Istio.
pub const MINIMUM_DRAIN: &str = "MINIMUM_DRAIN_DURATION";
/// The life that the proxy asks for its certificates; a variable of `proxyMetadata` in Istio.
pub const CERTIFICATE_LIFE: &str = "SECRET_TTL";
/// The longest life that makes sense.
const MAX_LIFE: Duration = Duration::from_secs(366 * 24 * 3600);

/// How inbound connections come to the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interception {
    /// The application sees 127.0.0.6.
    Redirect,
    /// The application sees its client.
    Tproxy,
}

/// The settings.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ProxyConfig {
    /// Workers; 0 is as many as CPUs.
    pub concurrency: Option<u16>,
    /// `terminationDrainDuration`
    pub termination_drain: Option<Duration>,
    /// `interceptionMode`
    pub interception: Option<Interception>,
    /// `holdApplicationUntilProxyStarts`
    pub hold: Option<bool>,
    /// `proxyMetadata`
    pub metadata: BTreeMap<String, String>,
}

/// Reads it. Fields that are named in the second half have no effect here, or are none of ProxyConfig.
///
/// # Errors
/// In words: which field, and what it may be.
pub fn read(fields: &Map<String, Value>) -> Result<(ProxyConfig, Vec<String>), String> {
    let (mut config, mut without_effect) = (ProxyConfig::default(), Vec::new());
    // As in protobuf's JSON, null is a field that is not there.
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
        let wrong = |expected: &str| format!("{name}: {value} is not {expected}");
        match name.as_str() {
            "concurrency" => {
                let expected = format!("a number from 0 (all CPUs) to {MAX_WORKERS}");
                config.concurrency = Some(workers(value).ok_or_else(|| wrong(&expected))?);
            }
            "terminationDrainDuration" => {
                let text = value.as_str().ok_or_else(|| wrong("a duration, e.g. \"5s\""))?;
                let parsed = duration::parse(text).map_err(|why| format!("{name}: {why}"))?;
                config.termination_drain = Some(parsed);
            }
            "interceptionMode" => {
                config.interception = Some(match value.as_str() {
                    Some("REDIRECT") => Interception::Redirect,
                    Some("TPROXY") => Interception::Tproxy,
                    _ => return Err(wrong("REDIRECT or TPROXY")),
                });
            }
            "holdApplicationUntilProxyStarts" => {
                config.hold = Some(value.as_bool().ok_or_else(|| wrong("true or false"))?);
            }
            "proxyMetadata" => {
                config.metadata = metadata(value).map_err(|why| format!("{name}{why}"))?;
            }
            _ => without_effect.push(name.clone()),
        }
    }
    Ok((config, without_effect))
}

/// Protobuf's JSON takes numbers in quotes too.
fn workers(value: &Value) -> Option<u16> {
    let count = value.as_u64().or_else(|| value.as_str()?.parse().ok())?;
    u16::try_from(count).ok().filter(|count| u64::from(*count) <= MAX_WORKERS)
}

/// Variables of the proxy's environment: names and values that a container may have.
fn metadata(value: &Value) -> Result<BTreeMap<String, String>, String> {
    let fields = value.as_object().ok_or_else(|| format!(": {value} is not a map of texts"))?;
    let one = |(name, value): (&String, &Value)| {
        if !is_variable(name) {
            return Err(format!(": {name:?} is no name of an environment variable"));
        }
        let text =
            value.as_str().ok_or_else(|| format!(".{name}: {value} is no text; put it into quotes"))?;
        match name.as_str() {
            MINIMUM_DRAIN => duration::parse(text).map(drop),
            CERTIFICATE_LIFE => certificate_life(text).map(drop),
            _ => Ok(()),
        }
        .map_err(|why| format!(".{name}: {why}"))?;
        Ok((name.clone(), text.to_owned()))
    };
    fields.iter().map(one).collect()
}

/// Reads [`CERTIFICATE_LIFE`]. The authority has limits of its own, and gives what is nearest within them.
///
/// # Errors
/// In words.
pub fn certificate_life(text: &str) -> Result<Duration, String> {
    let life = duration::parse_up_to(text, MAX_LIFE)?;
    if life < Duration::from_secs(1) {
        return Err(format!("{text:?} is less than a second"));
    }
    Ok(life)
}

/// What the API server takes.
fn is_variable(name: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) && name.bytes().all(good)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(value: &Value) -> Result<(ProxyConfig, Vec<String>), String> {
        read(value.as_object().unwrap())
    }

    #[test]
    fn what_is_followed_and_what_is_not() {
        let (config, without_effect) = of(&json!({"concurrency": "2", "terminationDrainDuration": "1m30s",
            "interceptionMode": "TPROXY", "holdApplicationUntilProxyStarts": true, "concurency": 3, "tracing": {},
            "proxyMetadata": {"A": "b", "MINIMUM_DRAIN_DURATION": "8s", "SECRET_TTL": "2160h"}, "drainDuration": "45s"}))
        .unwrap();
        let metadata = [("A", "b"), (MINIMUM_DRAIN, "8s"), (CERTIFICATE_LIFE, "2160h")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()));
        let expected = ProxyConfig {
            concurrency: Some(2),
            termination_drain: Some(Duration::from_secs(90)),
            interception: Some(Interception::Tproxy),
            hold: Some(true),
            metadata: metadata.into(),
        };
        assert_eq!(config, expected);
        assert_eq!(without_effect, ["concurency", "tracing", "drainDuration"]);
        let null = json!({"concurrency": null, "proxyMetadata": null, "interceptionMode": null});
        assert_eq!(of(&null).unwrap(), (ProxyConfig::default(), Vec::new()));
    }

    #[test]
    fn slips_of_the_pen_are_refused_by_name() {
        for (value, why) in [
            (
                json!({"concurrency": "many"}),
                "concurrency: \"many\" is not a number from 0 (all CPUs) to 256",
            ),
            (json!({"concurrency": 257}), "concurrency: 257 is not a number"),
            (json!({"concurrency": -1}), "concurrency: -1 is not a number"),
            (json!({"concurrency": 1.5}), "concurrency: 1.5 is not a number"),
            (json!({"terminationDrainDuration": "5"}), "terminationDrainDuration: \"5\" is no duration"),
            (json!({"terminationDrainDuration": 5}), "terminationDrainDuration: 5 is not a duration"),
            (json!({"interceptionMode": "NONE"}), "interceptionMode: \"NONE\" is not REDIRECT or TPROXY"),
            (json!({"holdApplicationUntilProxyStarts": "true"}), "holdApplicationUntilProxyStarts: \"true\""),
            (json!({"proxyMetadata": ["A"]}), "proxyMetadata: [\"A\"] is not a map"),
            (json!({"proxyMetadata": {"A": true}}), "proxyMetadata.A: true is no text; put it into quotes"),
            (json!({"proxyMetadata": {"A": null}}), "proxyMetadata.A: null is no text"),
            (json!({"proxyMetadata": {"A=B": "c"}}), "proxyMetadata: \"A=B\" is no name"),
            (json!({"proxyMetadata": {"": "c"}}), "proxyMetadata: \"\" is no name"),
            (json!({"proxyMetadata": {"1A": "c"}}), "proxyMetadata: \"1A\" is no name"),
            (
                json!({"proxyMetadata": {"MINIMUM_DRAIN_DURATION": "soon"}}),
                "proxyMetadata.MINIMUM_DRAIN_DURATION: \"soon\" is no duration",
            ),
            (
                json!({"proxyMetadata": {"SECRET_TTL": "10000h"}}),
                "proxyMetadata.SECRET_TTL: \"10000h\" is no duration from 0s to 8784h",
            ),
            (
                json!({"proxyMetadata": {"SECRET_TTL": "0s"}}),
                "proxyMetadata.SECRET_TTL: \"0s\" is less than a second",
            ),
        ] {
            let error = of(&value).unwrap_err();
            assert!(error.starts_with(why), "{value}: {error}");
        }
    }
}
