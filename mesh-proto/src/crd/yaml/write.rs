//! JSON values in, YAML out, as `kubectl` writes it: block style, the order kept, quotes only where they are needed.
//!
//! What is written is read back as the same value by any YAML 1.1 or 1.2 reader: a text that some reader could take for
//! something else is quoted.

use serde_json::{Map, Value};

/// Words that one reader or another takes for something else than text.
const WORDS: [&str; 12] = ["null", "true", "false", "yes", "no", "on", "off", "y", "n", "nan", "inf", "~"];

/// One document, without a marker.
#[must_use]
pub fn to_yaml(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => write_map(map, 0, &mut out),
        Value::Array(list) if !list.is_empty() => write_list(list, 0, &mut out),
        other => {
            write_scalar(other, 0, &mut out);
            out.push('\n');
        }
    }
    out
}

fn pad(depth: usize, out: &mut String) {
    out.extend(std::iter::repeat_n("  ", depth));
}

/// Begins where the cursor is; every further line is indented.
fn write_map(map: &Map<String, Value>, depth: usize, out: &mut String) {
    for (index, (name, value)) in map.iter().enumerate() {
        if index > 0 {
            pad(depth, out);
        }
        out.push_str(&text(name));
        out.push(':');
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                out.push('\n');
                pad(depth + 1, out);
                write_map(inner, depth + 1, out);
            }
            // Lists begin where their name does.
            Value::Array(inner) if !inner.is_empty() => {
                out.push('\n');
                pad(depth, out);
                write_list(inner, depth, out);
            }
            other => {
                out.push(' ');
                write_scalar(other, depth + 1, out);
                out.push('\n');
            }
        }
    }
}

fn write_list(list: &[Value], depth: usize, out: &mut String) {
    for (index, value) in list.iter().enumerate() {
        if index > 0 {
            pad(depth, out);
        }
        out.push_str("- ");
        match value {
            Value::Object(inner) if !inner.is_empty() => write_map(inner, depth + 1, out),
            Value::Array(inner) if !inner.is_empty() => write_list(inner, depth + 1, out),
            other => {
                write_scalar(other, depth + 1, out);
                out.push('\n');
            }
        }
    }
}

fn write_scalar(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::String(told) => match block(told) {
            Some(mark) => {
                out.push_str(mark);
                for line in told.trim_end_matches('\n').split('\n') {
                    out.push('\n');
                    if !line.is_empty() {
                        pad(depth, out);
                        out.push_str(line);
                    }
                }
            }
            None => out.push_str(&text(told)),
        },
        Value::Object(_) => out.push_str("{}"),
        Value::Array(_) => out.push_str("[]"),
        other => out.push_str(&other.to_string()),
    }
}

/// The mark of a literal block, for texts of several lines that can stand as they are.
fn block(told: &str) -> Option<&'static str> {
    let lines = told.strip_suffix('\n').unwrap_or(told);
    let plain = |c: char| {
        c == '\n'
            || c == '\t'
            || !(c.is_control() || matches!(c, '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{feff}'))
    };
    let starts_well = lines.chars().next().is_some_and(|c| !c.is_whitespace());
    if !lines.contains('\n') || lines.ends_with('\n') || !starts_well || !told.chars().all(plain) {
        return None;
    }
    Some(if told.ends_with('\n') { "|" } else { "|-" })
}

/// A text of one line, quoted if need be.
fn text(told: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || "_./@%+,=~- ()".contains(c);
    let bytes = told.as_bytes();
    let colons = told.contains(": ") || told.ends_with(':');
    let plain = bytes.first().is_some_and(|b| b.is_ascii_alphabetic() || matches!(b, b'/' | b'_'))
        && bytes.last() != Some(&b' ')
        && told.chars().all(|c| safe(c) || c == ':')
        && !colons
        && !WORDS.iter().any(|word| told.eq_ignore_ascii_case(word));
    if plain { told.to_owned() } else { Value::from(told).to_string() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::crd::yaml::{read, split};

    fn back(text: &str) -> Value {
        read(split(text)[0]).unwrap().unwrap().value
    }

    #[test]
    fn as_kubectl_writes_it() {
        let value = json!({"kind": "Pod", "metadata": {"labels": {"a/b": "yes", "n": "1"}, "empty": {}},
            "spec": {"containers": [{"name": "x", "args": ["-a", "b: c"], "n": 1}], "script": "a\n  b\n", "none": []}});
        let text = to_yaml(&value);
        let expected = "kind: Pod\nmetadata:\n  labels:\n    a/b: \"yes\"\n    \"n\": \"1\"\n  empty: {}\nspec:\n  containers:\n  \
             - name: x\n    args:\n    - \"-a\"\n    - \"b: c\"\n    \"n\": 1\n  script: |\n    a\n      b\n  none: []\n";
        assert_eq!(text, expected);
        assert_eq!(back(&text), value);
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            "[a-z0-9:#\\- \n|>'\"{}\\[\\],&*!%@`~]{0,12}".prop_map(Value::from),
            prop::sample::select(&WORDS[..]).prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map("[ -~]{1,8}", inner, 0..5).prop_map(|map| Value::Object(
                    map.into_iter().filter(|(name, _)| name != "<<").collect()
                )),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(value in prop::collection::btree_map("[a-z]{1,5}", values(), 1..5)) {
            let value = Value::Object(value.into_iter().collect());
            prop_assert_eq!(back(&to_yaml(&value)), value);
        }
    }
}
