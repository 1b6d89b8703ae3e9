//! A match as people want to see it: `path prefix /api and header end-user is jason`.

use std::fmt;

use super::super::text::Text;
use super::{Case, Claim, From, Header, Matcher, Path};

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut told: Vec<String> = Vec::new();
        told.extend(self.path.as_ref().map(path));
        for (name, value) in
            [("method", &self.method), ("scheme", &self.scheme), ("authority", &self.authority)]
        {
            told.extend(value.as_ref().map(|value| format!("{name} {value}")));
        }
        told.extend(self.headers.iter().map(header));
        told.extend(self.claims.iter().map(claim));
        told.extend(self.query.iter().map(|query| format!("query {} {}", query.name, query.value)));
        if told.is_empty() {
            return f.write_str("every request");
        }
        f.write_str(&told.join(" and "))
    }
}

fn path(path: &Path) -> String {
    let (words, case) = match path {
        Path::Exact(text, case) => (format!("path is {text}"), *case),
        Path::Prefix(text, case) => (format!("path starts with {text}"), *case),
        Path::Segments(text, case) => (format!("path is {text} or below"), *case),
        Path::Regex(regex) => (format!("path matches {regex}"), Case::Kept),
    };
    match case {
        Case::Kept => words,
        Case::Ignored => format!("{words} (in any case)"),
    }
}

fn claim(claim: &Claim) -> String {
    let not = if claim.invert { "not: " } else { "" };
    format!("{not}claim {} {}", claim.path.join("."), claim.value)
}

fn header(header: &Header) -> String {
    let not = if header.invert { "not: " } else { "" };
    match &header.from {
        From::Name(name) => format!("{not}header {name} {}", header.value),
        From::Pseudo(name, _) => format!("{not}header {name} {}", header.value),
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => write!(f, "is {text}"),
            Self::Prefix(text) => write!(f, "starts with {text}"),
            Self::Regex(regex) => write!(f, "matches {regex}"),
            Self::Present(true) => f.write_str("is there"),
            Self::Present(false) => f.write_str("is not there"),
        }
    }
}
