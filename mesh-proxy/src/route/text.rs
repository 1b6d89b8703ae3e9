//! Matching of one text: exact, prefix, regular expression, presence.
//!
//! Regular expressions are RE2's: linear time, matching the whole text. `\w`, `\d` and `\s` are ASCII, as in RE2.

use mesh_proto::wire::mesh::v1 as wire;
use regex::bytes::{Regex, RegexBuilder};

use super::InvalidRoute;

/// The longest pattern. Istio's own limit; what is longer is a mistake.
const MAX_PATTERN: usize = 1024;
/// The largest compiled program, in bytes.
const MAX_PROGRAM: usize = 1 << 20;
/// The most memory that one expression's lazy DFA takes per thread.
const MAX_DFA: usize = 256 << 10;

/// A parsed `StringMatch`.
#[derive(Debug)]
pub(super) enum Text {
    Exact(Box<str>),
    Prefix(Box<str>),
    Regex(Box<Regex>),
    /// There is one (`true`), or there is none.
    Present(bool),
}

impl Text {
    /// Parses; `field` is the message's path.
    pub(super) fn new(text: &wire::StringMatch, field: &str) -> Result<Self, InvalidRoute> {
        use wire::string_match::Kind;
        Ok(match text.kind.as_ref() {
            Some(Kind::Exact(text)) => Self::Exact(text.as_str().into()),
            Some(Kind::Prefix(text)) => Self::Prefix(text.as_str().into()),
            Some(Kind::Regex(pattern)) => Self::Regex(Box::new(regex(pattern, &format!("{field}.regex"))?)),
            Some(Kind::Present(present)) => Self::Present(*present),
            None => return Err(InvalidRoute::Missing { field: field.to_owned() }),
        })
    }

    /// The same of one that must be there.
    pub(super) fn required(text: Option<&wire::StringMatch>, field: &str) -> Result<Self, InvalidRoute> {
        Self::new(text.ok_or_else(|| InvalidRoute::Missing { field: field.to_owned() })?, field)
    }

    /// Whether an optional text matches.
    pub(super) fn matches(&self, value: Option<&[u8]>) -> bool {
        match (self, value) {
            (Self::Present(wanted), value) => *wanted == value.is_some(),
            (_, None) => false,
            (Self::Exact(text), Some(value)) => text.as_bytes() == value,
            (Self::Prefix(text), Some(value)) => value.starts_with(text.as_bytes()),
            (Self::Regex(regex), Some(value)) => regex.is_match(value),
        }
    }
}

/// Compiles a pattern that must match a whole text.
pub(super) fn regex(pattern: &str, field: &str) -> Result<Regex, InvalidRoute> {
    let refuse = |reason: String| InvalidRoute::Regex { field: field.to_owned(), reason };
    if pattern.len() > MAX_PATTERN {
        return Err(refuse(format!(
            "the pattern has {} bytes, at most {MAX_PATTERN} are allowed",
            pattern.len()
        )));
    }
    // On its own first: `a)|(?:b` must not escape from the group that anchors it.
    let (_, unicode) = match compile(pattern, false) {
        Ok(regex) => (regex, false),
        // Classes of Unicode exist only in Unicode mode.
        Err(_) => (compile(pattern, true).map_err(|e| refuse(e.to_string()))?, true),
    };
    compile(&format!("^(?:{pattern})$"), unicode).map_err(|e| refuse(e.to_string()))
}

fn compile(pattern: &str, unicode: bool) -> Result<Regex, regex::Error> {
    RegexBuilder::new(pattern).unicode(unicode).size_limit(MAX_PROGRAM).dfa_size_limit(MAX_DFA).build()
}
