//! Text in, JSON values with the place of every field out. YAML 1.2 with the core schema (JSON is a part of it), merge keys
//! as Kubernetes reads them, one document at a time so that a broken one breaks nothing else.
//!
//! Everything is bounded: size, depth, number of values (aliases count as often as they are used) and documents.

mod write;

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};
use serde_json::{Map, Number, Value};

use super::object::Place;
use super::problem::Position;

pub use write::to_yaml;

/// Larger files are refused: an API server takes at most 1.5 MiB an object.
pub const MAX_BYTES: usize = 16 << 20;
/// Deeper documents are refused; the deepest resource has about 20.
pub const MAX_DEPTH: usize = 64;
/// Documents with more values than this are refused; aliases count each time.
pub const MAX_VALUES: usize = 500_000;
/// Files with more documents than this are refused.
pub const MAX_DOCUMENTS: usize = 50_000;

/// Why a document cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SyntaxError {
    /// Where.
    pub position: Position,
    /// What.
    pub message: String,
}

/// One document: its value, nulls in maps dropped (Kubernetes does so), and the place of each field by its path
/// (`spec.http[0].match`; the whole document is `""`).
#[derive(Debug, Clone, PartialEq)]
pub struct Tree {
    /// What it says.
    pub value: Value,
    /// Where it says so.
    pub places: HashMap<String, Place>,
}

/// One chunk of a file that holds one document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk<'a> {
    /// The line of the file before its first one.
    pub lines_before: u32,
    /// Its text.
    pub text: &'a str,
}

/// Cuts a file at its document markers (`---` at the start of a line, which YAML forbids inside of documents). Chunks with
/// nothing but comments and directives are left out.
#[must_use]
pub fn split(text: &str) -> Vec<Chunk<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut chunks = Vec::new();
    let (mut start, mut start_line, mut at, mut line) = (0, 0, 0, 0);
    for piece in text.split_inclusive('\n') {
        let marker = piece
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace));
        if marker && at > start {
            chunks.push(Chunk { lines_before: start_line, text: &text[start..at] });
            (start, start_line) = (at, line);
        }
        at += piece.len();
        line += 1;
    }
    chunks.push(Chunk { lines_before: start_line, text: &text[start..] });
    chunks.retain(|chunk| chunk.text.lines().any(has_content));
    chunks
}

fn has_content(line: &str) -> bool {
    let line = line.strip_prefix("---").unwrap_or(line).trim();
    !(line.is_empty() || line.starts_with('#') || line.starts_with('%') || line == "...")
}

/// Reads one chunk; `None` when it holds nothing.
///
/// # Errors
/// What YAML does not allow, and what is over a limit.
pub fn read(chunk: Chunk<'_>) -> Result<Option<Tree>, SyntaxError> {
    let mut reader = Reader {
        parser: Parser::new_from_str(chunk.text),
        anchors: HashMap::new(),
        values: 0,
        lines_before: chunk.lines_before,
    };
    let Some(root) = reader.document()? else { return Ok(None) };
    let mut places = HashMap::new();
    let value = flatten(root, String::new(), &mut places, None);
    Ok(Some(Tree { value, places }))
}

#[derive(Clone)]
struct Node {
    position: Position,
    content: Content,
}

#[derive(Clone)]
enum Content {
    Scalar(Value),
    List(Vec<Node>),
    Map(Vec<(String, Position, Node)>),
}

struct Reader<'a> {
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    anchors: HashMap<usize, (Node, usize)>,
    values: usize,
    lines_before: u32,
}

impl<'a> Reader<'a> {
    fn position(&self, span: Span) -> Position {
        let line = u32::try_from(span.start.line()).unwrap_or(u32::MAX);
        let column = u32::try_from(span.start.col()).unwrap_or(u32::MAX);
        Position { line: line.saturating_add(self.lines_before), column: column.saturating_add(1) }
    }

    fn next(&mut self) -> Result<(Event<'a>, Position), SyntaxError> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => Ok((event, self.position(span))),
            Some(Err(error)) => {
                let marker = *error.marker();
                let position = self.position(Span::empty(marker));
                Err(SyntaxError { position, message: format!("not YAML: {}", error.info()) })
            }
            None => Ok((Event::StreamEnd, Position::default())),
        }
    }

    fn document(&mut self) -> Result<Option<Node>, SyntaxError> {
        loop {
            match self.next()? {
                (Event::StreamStart | Event::Nothing | Event::DocumentStart(_), _) => {}
                (Event::StreamEnd | Event::DocumentEnd, _) => return Ok(None),
                (event, position) => {
                    let root = self.node(event, position, 0)?;
                    // What follows must be the end: a second document in one chunk would go unread.
                    loop {
                        match self.next()? {
                            (Event::StreamEnd, _) => return Ok(Some(root)),
                            (Event::DocumentEnd | Event::Nothing, _) => {}
                            (_, position) => {
                                return Err(error(
                                    position,
                                    "a second document needs a line '---' before it",
                                ));
                            }
                        }
                    }
                }
            }
        }
    }

    fn count(&mut self, values: usize, position: Position) -> Result<(), SyntaxError> {
        self.values = self.values.saturating_add(values);
        if self.values > MAX_VALUES {
            return Err(error(position, &format!("more than {MAX_VALUES} values in one document")));
        }
        Ok(())
    }

    fn node(&mut self, event: Event<'a>, position: Position, depth: usize) -> Result<Node, SyntaxError> {
        if depth > MAX_DEPTH {
            return Err(error(position, &format!("nested deeper than {MAX_DEPTH}")));
        }
        self.count(1, position)?;
        let before = self.values;
        let (content, anchor) = match event {
            Event::Alias(id) => {
                let Some((node, size)) = self.anchors.get(&id).cloned() else {
                    return Err(error(position, "an alias of something that contains it"));
                };
                self.count(size, position)?;
                if depth + depth_of(&node) > MAX_DEPTH {
                    return Err(error(position, &format!("nested deeper than {MAX_DEPTH}")));
                }
                return Ok(node);
            }
            Event::Scalar(text, style, anchor, tag) => {
                (Content::Scalar(scalar(&text, style, tag.as_deref(), position)?), anchor)
            }
            Event::SequenceStart(anchor, _) => (self.list(depth)?, anchor),
            Event::MappingStart(anchor, _) => (self.map(depth)?, anchor),
            _ => return Err(error(position, "the document ends too early")),
        };
        let node = Node { position, content };
        if anchor != 0 {
            self.anchors.insert(anchor, (node.clone(), self.values - before + 1));
        }
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Result<Content, SyntaxError> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Content::List(items)),
                (event, position) => items.push(self.node(event, position, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Content, SyntaxError> {
        let mut entries: Vec<(String, Position, Node)> = Vec::new();
        let mut seen: HashMap<String, u32> = HashMap::new();
        let mut merges = Vec::new();
        loop {
            let (event, position) = match self.next()? {
                (Event::MappingEnd, _) => break,
                other => other,
            };
            let merge = matches!(&event, Event::Scalar(text, ScalarStyle::Plain, ..) if text == "<<");
            let Content::Scalar(key) = self.node(event, position, depth + 1)?.content else {
                return Err(error(position, "a key must be a string"));
            };
            let (event, at) = self.next()?;
            let node = self.node(event, at, depth + 1)?;
            if merge {
                merges.push((node, position));
                continue;
            }
            let key = key_text(key).ok_or_else(|| error(position, "a key must be a string"))?;
            if let Some(line) = seen.insert(key.clone(), position.line) {
                return Err(error(position, &format!("duplicate key {key:?} (first in line {line})")));
            }
            entries.push((key, position, node));
        }
        for (node, position) in merges {
            merge_into(&mut entries, &mut seen, node, position)?;
        }
        Ok(Content::Map(entries))
    }
}

/// `<<: *base`: the keys of another map, or of several, unless they are there.
fn merge_into(
    entries: &mut Vec<(String, Position, Node)>,
    seen: &mut HashMap<String, u32>,
    node: Node,
    position: Position,
) -> Result<(), SyntaxError> {
    match node.content {
        Content::Map(more) => {
            for (key, at, value) in more {
                if seen.insert(key.clone(), at.line).is_none() {
                    entries.push((key, at, value));
                }
            }
            Ok(())
        }
        Content::List(nodes) if nodes.iter().all(|n| matches!(n.content, Content::Map(_))) => {
            nodes.into_iter().try_for_each(|node| merge_into(entries, seen, node, position))
        }
        _ => Err(error(position, "'<<' takes a map or a list of maps")),
    }
}

fn depth_of(node: &Node) -> usize {
    match &node.content {
        Content::Scalar(_) => 0,
        Content::List(items) => 1 + items.iter().map(depth_of).max().unwrap_or(0),
        Content::Map(entries) => 1 + entries.iter().map(|(_, _, node)| depth_of(node)).max().unwrap_or(0),
    }
}

fn error(position: Position, message: &str) -> SyntaxError {
    SyntaxError { position, message: message.to_owned() }
}

fn key_text(key: Value) -> Option<String> {
    match key {
        Value::String(text) => Some(text),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        _ => None,
    }
}

fn scalar(
    text: &str,
    style: ScalarStyle,
    tag: Option<&Tag>,
    position: Position,
) -> Result<Value, SyntaxError> {
    match tag {
        None if style != ScalarStyle::Plain => Ok(Value::String(text.to_owned())),
        None => Ok(plain(text)),
        Some(tag) if tag.is_yaml_core_schema() => match tag.suffix.as_str() {
            "str" => Ok(Value::String(text.to_owned())),
            "int" | "float" | "bool" | "null" => Ok(plain(text)),
            other => Err(error(position, &format!("the tag !!{other} is not supported"))),
        },
        Some(tag) => Err(error(position, &format!("the tag {}{} is not supported", tag.handle, tag.suffix))),
    }
}

/// The core schema of YAML 1.2.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    number(text).map_or_else(|| Value::String(text.to_owned()), Value::Number)
}

fn number(text: &str) -> Option<Number> {
    let radix = |digits: &str, radix| u64::from_str_radix(digits, radix).ok().map(Number::from);
    if let Some(digits) = text.strip_prefix("0x").filter(|d| !d.starts_with('+')) {
        return radix(digits, 16);
    }
    if let Some(digits) = text.strip_prefix("0o").filter(|d| !d.starts_with('+')) {
        return radix(digits, 8);
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    if unsigned.bytes().all(|b| b.is_ascii_digit()) {
        let positive = text.strip_prefix('+').unwrap_or(text);
        if let Ok(number) = positive.parse::<i64>() {
            return Some(Number::from(number));
        }
        if let Ok(number) = positive.parse::<u64>() {
            return Some(Number::from(number));
        }
    }
    let numeric =
        unsigned.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    if numeric { text.parse::<f64>().ok().and_then(Number::from_f64) } else { None }
}

fn flatten(node: Node, path: String, places: &mut HashMap<String, Place>, key: Option<Position>) -> Value {
    let place = Place { key: key.unwrap_or(node.position), value: node.position };
    let value = match node.content {
        Content::Scalar(value) => value,
        Content::List(items) => {
            let item = |(index, node)| flatten(node, format!("{path}[{index}]"), places, None);
            Value::Array(items.into_iter().enumerate().map(item).collect())
        }
        Content::Map(entries) => {
            let mut map = Map::new();
            for (name, position, node) in entries {
                let below = join(&path, &name);
                let value = flatten(node, below, places, Some(position));
                if !value.is_null() {
                    map.insert(name, value);
                }
            }
            Value::Object(map)
        }
    };
    places.insert(path, place);
    value
}

/// The path of a field in a map.
#[must_use]
pub fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

#[cfg(test)]
mod tests;
