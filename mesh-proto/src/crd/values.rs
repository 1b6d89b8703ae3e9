//! Small values with a text form of their own: durations, string matches, ports by number or name.

use std::fmt;
use std::time::Duration as StdDuration;

use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// A duration as Kubernetes and protobuf's JSON write it: `1s`, `1.5s`, `1m30s`, `500ms`, `1h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Duration(pub StdDuration);

/// Why a text is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration")]
pub struct InvalidDuration(String);

const DURATION_FORM: &str = "a duration such as \"1s\", \"1m30s\" or \"500ms\"";

impl std::str::FromStr for Duration {
    type Err = InvalidDuration;

    /// Go's `time.ParseDuration` without signs: numbers with units h, m, s, ms, us, µs, ns; or `0`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidDuration(text.to_owned());
        if text == "0" {
            return Ok(Self::default());
        }
        let mut rest = text;
        let mut nanos: f64 = 0.0;
        if rest.is_empty() || rest.len() > 64 {
            return Err(invalid());
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).ok_or_else(invalid)?;
            let number: f64 = rest[..digits].parse().map_err(|_| invalid())?;
            rest = &rest[digits..];
            let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
            let scale = match &rest[..unit] {
                "h" => 3600e9,
                "m" => 60e9,
                "s" => 1e9,
                "ms" => 1e6,
                "us" | "µs" | "μs" => 1e3,
                "ns" => 1.0,
                _ => return Err(invalid()),
            };
            nanos += number * scale;
            rest = &rest[unit..];
        }
        // Protobuf's own bound is 10,000 years; Go's 292. Ours keeps every later addition from overflowing.
        if !nanos.is_finite() || nanos > 100.0 * 365.0 * 24.0 * 3600e9 {
            return Err(invalid());
        }
        // The bound above holds in u64, and nothing here is negative.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        Ok(Self(StdDuration::from_nanos(nanos.round() as u64)))
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Duration;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(DURATION_FORM)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
                text.parse().map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.subsec_nanos() == 0 {
            write!(f, "{}s", self.0.as_secs())
        } else {
            write!(f, "{}s", self.0.as_secs_f64())
        }
    }
}

/// Istio's StringMatch. An empty one (`{}`) asks only for presence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum StringMatch {
    /// The whole string.
    Exact(String),
    /// A prefix of the string.
    Prefix(String),
    /// RE2 syntax, the whole string.
    Regex(String),
    /// The string is there at all (headers, query parameters).
    #[serde(untagged)]
    Present {},
}

impl<'de> Deserialize<'de> for StringMatch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(field_identifier, rename_all = "camelCase")]
        enum Field {
            Exact,
            Prefix,
            Regex,
        }
        struct OneOf;
        impl<'de> Visitor<'de> for OneOf {
            type Value = StringMatch;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("one of {exact: ...}, {prefix: ...}, {regex: ...}")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<StringMatch, A::Error> {
                let mut found = None;
                while let Some(field) = map.next_key()? {
                    let text: String = map.next_value()?;
                    if found.is_some() {
                        return Err(de::Error::custom("more than one of exact, prefix and regex is set"));
                    }
                    found = Some(match field {
                        Field::Exact => StringMatch::Exact(text),
                        Field::Prefix => StringMatch::Prefix(text),
                        Field::Regex => StringMatch::Regex(text),
                    });
                }
                Ok(found.unwrap_or(StringMatch::Present {}))
            }
        }
        deserializer.deserialize_map(OneOf)
    }
}

/// A port by number or by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum IntOrString {
    /// By number.
    Number(u16),
    /// By name.
    Name(String),
}

impl<'de> Deserialize<'de> for IntOrString {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = IntOrString;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port number from 1 to 65535 or the name of a port")
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<IntOrString, E> {
                let port = u16::try_from(number).ok().filter(|p| *p != 0);
                port.map(IntOrString::Number)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(number), &self))
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<IntOrString, E> {
                match u64::try_from(number) {
                    Ok(number) => self.visit_u64(number),
                    Err(_) => Err(E::invalid_value(de::Unexpected::Signed(number), &self)),
                }
            }
            fn visit_str<E: de::Error>(self, name: &str) -> Result<IntOrString, E> {
                if name.is_empty() {
                    return Err(E::invalid_value(de::Unexpected::Str(name), &self));
                }
                Ok(IntOrString::Name(name.to_owned()))
            }
        }
        deserializer.deserialize_any(Either)
    }
}
