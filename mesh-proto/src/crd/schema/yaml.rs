//! JSON values in, YAML in block style out: no anchors, no folding, strings quoted as JSON wherever they could be read as
//! anything else.

use std::fmt::Write as _;

use serde_json::Value;

/// A whole document.
pub(super) fn document(value: &Value) -> String {
    let mut out = String::new();
    block(value, 0, &mut out);
    out
}

fn block(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let _ = write!(out, "{:1$}{2}:", "", depth * 2, scalar(key));
                nested(value, depth + 1, out);
            }
        }
        Value::Array(items) => {
            for item in items {
                if item.as_object().is_none_or(serde_json::Map::is_empty) {
                    let _ = write!(out, "{:1$}-", "", depth * 2);
                    nested(item, depth + 1, out);
                    continue;
                }
                // The first key stands behind the dash.
                let mut inner = String::new();
                block(item, depth + 1, &mut inner);
                let _ = write!(out, "{:1$}- {2}", "", depth * 2, inner.trim_start());
            }
        }
        other => {
            let _ = writeln!(out, "{:1$}{2}", "", depth * 2, flow(other));
        }
    }
}

fn nested(value: &Value, depth: usize, out: &mut String) {
    let filled = match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    };
    if filled {
        out.push('\n');
        block(value, depth, out);
    } else {
        let _ = writeln!(out, " {}", flow(value));
    }
}

fn flow(value: &Value) -> String {
    match value {
        Value::String(text) => scalar(text),
        other => other.to_string(),
    }
}

fn scalar(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    let word = matches!(
        text.to_lowercase().as_str(),
        "true" | "false" | "null" | "yes" | "no" | "on" | "off" | "y" | "n"
    );
    if text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(plain) && !word {
        text.to_owned()
    } else {
        Value::from(text).to_string()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What is written is read back by the mesh's own YAML reader.
    #[test]
    fn is_read_back() {
        let value = json!({"a": [{"b": 1, "c": {}}, [], "x: y", "no"], "on": {"d": ["1", 2.5, true, null, "α\n"]}, "e": []});
        let text = document(&value);
        let chunk = crate::crd::yaml::split(&text).remove(0);
        let read = crate::crd::yaml::read(chunk).expect("valid YAML").expect("a document");
        assert_eq!(read.value, value, "{text}");
    }
}
