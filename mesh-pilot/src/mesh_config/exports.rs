//! `defaultServiceExportTo` and its like.

use serde_json::Value;

/// A list as `exportTo` has it. Istio reads `.` and `*` of it; here names of namespaces mean what they say, too.
pub(super) fn read(value: &Value) -> Result<Vec<String>, String> {
    let expected = "expected a list of \"*\", \".\", \"~\" or namespaces";
    let entries = value.as_array().ok_or_else(|| format!("{value} is no list ({expected})"))?;
    let entry = |entry: &Value| {
        let text = entry.as_str().filter(|text| matches!(*text, "*" | "." | "~") || is_namespace(text));
        text.map(str::to_owned).ok_or_else(|| format!("{entry} is none ({expected})"))
    };
    entries.iter().map(entry).collect()
}

/// RFC 1123's label.
fn is_namespace(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}
