//! A JSON value in, a typed object or findings at the offending fields out.

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::{Path, Segment};

use super::problem::{Finding, Severity};
use super::yaml::join;

/// After this many mistakes in one object the rest goes untold.
const MAX_FINDINGS: usize = 20;

/// Decodes; on a mistake, goes on without the offending field to find the others.
pub(super) fn decode<T: DeserializeOwned>(value: &Value) -> Result<T, Vec<Finding>> {
    let mut findings = Vec::new();
    let mut owned: Option<Value> = None;
    loop {
        let current = owned.as_ref().unwrap_or(value);
        let error = match serde_path_to_error::deserialize::<_, T>(current) {
            Ok(object) if findings.is_empty() => return Ok(object),
            Ok(_) => return Err(findings),
            Err(error) => error,
        };
        findings.push(finding(text_of(error.path()), &error.inner().to_string()));
        let mut rest = owned.take().unwrap_or_else(|| value.clone());
        if findings.len() >= MAX_FINDINGS || !remove(&mut rest, error.path()) {
            return Err(findings);
        }
        owned = Some(rest);
    }
}

/// `spec.http[0].match`, as the places of a tree are called.
fn text_of(path: &Path) -> String {
    let mut text = String::new();
    for segment in path {
        match segment {
            Segment::Map { key } => text = join(&text, key),
            Segment::Seq { index } => text.push_str(&format!("[{index}]")),
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    text
}

/// Takes the field at `path` out of its map. Items of lists stay: the paths of those behind them would be wrong.
fn remove(value: &mut Value, path: &Path) -> bool {
    let mut segments: Vec<&Segment> = path.iter().collect();
    while matches!(segments.last(), Some(Segment::Enum { .. } | Segment::Unknown)) {
        segments.pop();
    }
    let Some((Segment::Map { key }, around)) = segments.split_last() else { return false };
    let mut at = value;
    for segment in around {
        let below = match segment {
            Segment::Map { key } => at.get_mut(key.as_str()),
            Segment::Seq { index } => at.get_mut(*index),
            Segment::Enum { .. } | Segment::Unknown => Some(at),
        };
        let Some(below) = below else { return false };
        at = below;
    }
    at.as_object_mut().is_some_and(|map| map.shift_remove(key.as_str()).is_some())
}

fn finding(path: String, text: &str) -> Finding {
    let (message, expected) = text.split_once(", expected ").unwrap_or((text, ""));
    let mut message = message.replace('`', "");
    let mut expected = in_words(expected);
    let name = message.strip_prefix("unknown field ").or_else(|| message.strip_prefix("unknown variant "));
    if let Some(name) = name {
        let known: Vec<&str> = expected.trim_start_matches("one of ").split([',', ' ']).collect();
        if let Some(near) = nearest(name, &known) {
            message = format!("{message}, did you mean {near}?");
        }
        if expected == "there are no fields" {
            expected = "nothing".to_owned();
        }
    }
    Finding { path, message, expected, severity: Severity::Error }
}

/// serde's words for what it expected, in words for people who write YAML.
fn in_words(expected: &str) -> String {
    match expected {
        "u16" => "a number from 0 to 65535".to_owned(),
        "u32" | "u64" => "a whole number, not negative".to_owned(),
        "i32" | "i64" => "a whole number".to_owned(),
        "f64" => "a number".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a boolean" => "true or false".to_owned(),
        other if other.starts_with("struct ") => "a map".to_owned(),
        other => other.replace('`', ""),
    }
}

/// The known word that is at most two (for short words one) edits away.
pub(super) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let allowed = if word.len() < 4 { 1 } else { 2 };
    let close = known.iter().filter(|k| !k.is_empty()).map(|k| (edits(word, k), *k));
    close.filter(|(distance, _)| *distance <= allowed).min_by_key(|(distance, _)| *distance).map(|(_, k)| k)
}

/// Levenshtein's distance, upper and lower case alike.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.to_lowercase().chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::virtual_service::VirtualService;
    use super::*;

    fn findings(value: &Value) -> Vec<(String, String, String)> {
        let found = decode::<VirtualService>(value).unwrap_err();
        found.into_iter().map(|f| (f.path, f.message, f.expected)).collect()
    }

    /// All mistakes of an object are told at once, each at its own field.
    #[test]
    fn tells_every_mistake() {
        let value = json!({"spec": {"hosts": "a", "htpp": [], "http": [{"timeout": "soon", "route": [
            {"destination": {"host": "a", "port": {"number": 99999}}}]}]}});
        let found = findings(&value);
        assert_eq!(found.len(), 4, "{found:#?}");
        assert!(found.contains(&("spec.hosts".into(), "invalid type: string \"a\"".into(), "a list".into())));
        let (_, message, expected) = found.iter().find(|f| f.0 == "spec.htpp").unwrap();
        assert_eq!(message, "unknown field htpp, did you mean http?");
        assert!(expected.starts_with("one of hosts, gateways, http"), "{expected}");
        let (_, message, expected) = found.iter().find(|f| f.0 == "spec.http[0].timeout").unwrap();
        assert_eq!(message, "invalid value: string \"soon\"");
        assert!(expected.contains("a duration"), "{expected}");
        let (_, _, expected) =
            found.iter().find(|f| f.0 == "spec.http[0].route[0].destination.port.number").unwrap();
        assert_eq!(expected, "a number from 0 to 65535");
    }

    /// A string match is one of three forms.
    #[test]
    fn string_match_is_one_of() {
        let value = json!({"spec": {"http": [{"match": [{"uri": {"exact": "/a", "prefix": "/b"}}]}]}});
        let found = findings(&value);
        assert_eq!(found[0].1, "more than one of exact, prefix and regex is set");
        assert!(found[0].0.starts_with("spec.http[0].match[0].uri"), "{}", found[0].0);
        let value = json!({"spec": {"http": [{"match": [{"uri": {"suffix": "/a"}}]}]}});
        assert_eq!(findings(&value)[0].0, "spec.http[0].match[0].uri.suffix");
    }
}
