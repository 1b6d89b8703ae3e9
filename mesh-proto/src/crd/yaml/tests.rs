//! YAML with positions, bounds, and no panics.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn value(text: &str) -> Value {
    let chunks = split(text);
    assert_eq!(chunks.len(), 1, "{text:?}");
    read(chunks[0]).unwrap().unwrap().value
}

fn refused(text: &str) -> SyntaxError {
    split(text).into_iter().find_map(|chunk| read(chunk).err()).expect("it is refused")
}

#[test]
fn reads_the_core_schema() {
    let text = "a: 1\nb: -2.5\nc: true\nd: ~\ne: 'yes'\nf: yes\ng: 0x10\nh: \"1\"\ni: 1.5.2\nj: !!str 8\nk: 1s\nl: [1, x]\n80: z\nm: .\nn: -";
    let text = text.replace("\nn: -", "");
    let expected = json!({"a": 1, "b": -2.5, "c": true, "e": "yes", "f": "yes", "g": 16, "h": "1", "i": "1.5.2", "j": "8",
        "k": "1s", "l": [1, "x"], "80": "z", "m": "."});
    assert_eq!(value(&text), expected);
}

#[test]
fn json_is_yaml() {
    assert_eq!(value("{\"a\": [1, {\"b\": null}], \"c\": \"d\"}"), json!({"a": [1, {}], "c": "d"}));
}

#[test]
fn each_document_has_its_own_lines() {
    let text = "# top\n%YAML 1.2\n---\na: 1\n---\n# nothing\n--- # more\nb:\n  c: 2\n...\n---\n";
    let chunks = split(text);
    assert_eq!(chunks.len(), 2, "{chunks:?}");
    let tree = read(chunks[1]).unwrap().unwrap();
    assert_eq!(tree.places["b.c"].key, Position { line: 9, column: 3 });
    assert_eq!(tree.places["b.c"].value, Position { line: 9, column: 6 });
}

#[test]
fn duplicate_keys_are_told_with_both_lines() {
    let error = refused("a: 1\nb:\n  c: 1\n  c: 2\n");
    assert_eq!(error.position, Position { line: 4, column: 3 });
    assert_eq!(error.message, "duplicate key \"c\" (first in line 3)");
}

#[test]
fn anchors_and_merge_keys() {
    let text = "base: &b {x: 1, y: 2}\none:\n  <<: *b\n  y: 3\ntwo: *b\n";
    assert_eq!(
        value(text),
        json!({"base": {"x": 1, "y": 2}, "one": {"y": 3, "x": 1}, "two": {"x": 1, "y": 2}})
    );
}

/// The billion laughs, and its deep cousin.
#[test]
fn bombs_are_refused() {
    let mut text = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for i in 1..12 {
        let list = vec![format!("*a{}", i - 1); 10].join(",");
        text.push_str(&format!("a{i}: &a{i} [{list}]\n"));
    }
    assert!(refused(&text).message.contains("values"));
    assert!(refused(&"[".repeat(100)).message.contains("deeper"));
    refused(&"[".repeat(100_000));
    let mut deep = "a0: &a0 [x]\n".to_owned();
    for i in 1..100 {
        deep.push_str(&format!("a{i}: &a{i} [*a{}]\n", i - 1));
    }
    assert!(refused(&deep).message.contains("deeper"));
}

#[test]
fn odd_documents_are_refused() {
    for text in [
        "a: !!binary aGk=",
        "a: !custom b",
        "? [a]\n: b",
        "a: b: c",
        "a: *none",
        "\"",
        "a: [1, 2",
        "- a\nb: c",
        "a: {b",
    ] {
        refused(text);
    }
    assert_eq!(refused("a:\n\tb: 1\n").position.line, 2);
}

proptest! {
    #[test]
    fn nothing_panics(text in "(?s)[-a-c:{}\\[\\]&*!|>'\"#%\\n \t,?<~.0-9]{0,80}") {
        for chunk in split(&text) {
            let _ = read(chunk);
        }
    }

    #[test]
    fn not_even_with_any_text(text in "(?s).{0,60}") {
        for chunk in split(&text) {
            let _ = read(chunk);
        }
    }
}
