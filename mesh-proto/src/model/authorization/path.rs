//! Paths: texts with a star, or templates. `{*}` is one segment that is not empty; `{**}`, the last of them, one or more
//! segments of any kind, up to the literal ones behind it.

use super::{InvalidPattern, Literal, TextPattern};

/// A path of a rule, compared with the path of a request as it is passed on, without its query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathPattern {
    /// As elsewhere.
    Text(TextPattern),
    /// By segments.
    Template(Vec<Segment>),
}

/// One segment of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// This one.
    Literal(String),
    /// `{*}`.
    One,
    /// `{**}`: once, with nothing but literals behind it.
    Rest,
}

impl PathPattern {
    /// Reads one.
    ///
    /// # Errors
    /// What is neither.
    pub fn parse(text: &str) -> Result<Self, InvalidPattern> {
        if !text.contains(['{', '}']) {
            return TextPattern::parse(text).map(Self::Text);
        }
        let wrong = |why| InvalidPattern::Template { text: text.to_owned(), why };
        let inside = text.strip_prefix('/').ok_or_else(|| wrong("it begins with '/'"))?;
        let mut segments = Vec::new();
        for segment in inside.split('/') {
            if segment.starts_with("{*") && segments.contains(&Segment::Rest) {
                return Err(wrong("{**} is the last operator, only literal segments may follow"));
            }
            segments.push(match segment {
                "{*}" => Segment::One,
                "{**}" => Segment::Rest,
                other if other.contains(['{', '}']) => {
                    return Err(wrong("{*} and {**} are whole segments, and there are no other variables"));
                }
                other if other.contains('*') => return Err(wrong("{*} and '*' cannot be mixed")),
                literal => Segment::Literal(literal.to_owned()),
            });
        }
        Ok(Self::Template(segments))
    }

    /// What every path that fits is or begins with; `None` where that says nothing.
    #[must_use]
    pub fn literal(&self) -> Option<Literal> {
        let segments = match self {
            Self::Text(text) => return text.literal(),
            Self::Template(segments) => segments,
        };
        let mut begin = String::from("/");
        for segment in segments {
            let Segment::Literal(literal) = segment else { return Some(Literal::Begin(begin)) };
            begin.push_str(literal);
            begin.push('/');
        }
        // No operator: a template that is a text, without the slash that was put behind it.
        begin.pop();
        Some(Literal::Whole(begin))
    }

    /// Whether a path fits.
    #[must_use]
    pub fn matches(&self, path: &[u8]) -> bool {
        match self {
            Self::Text(text) => text.matches(path),
            Self::Template(segments) => fits(segments, path),
        }
    }
}

/// Segments from the beginning, up to `{**}`; those behind it from the end.
fn fits(segments: &[Segment], path: &[u8]) -> bool {
    let Some(inside) = path.strip_prefix(b"/") else { return false };
    let mut parts = inside.split(|b| *b == b'/');
    let is = |segment: &Segment, part: Option<&[u8]>| match (segment, part) {
        (Segment::Literal(literal), Some(part)) => part == literal.as_bytes(),
        (Segment::One, Some(part)) => !part.is_empty(),
        (Segment::Rest, _) | (_, None) => false,
    };
    let rest = segments.iter().position(|segment| *segment == Segment::Rest);
    let (begin, end) = segments.split_at(rest.unwrap_or(segments.len()));
    if !begin.iter().all(|segment| is(segment, parts.next())) {
        return false;
    }
    let Some((_, end)) = end.split_first() else { return parts.next().is_none() };
    // What is left between them is of `{**}`: at least one, which may be empty.
    end.iter().rev().all(|segment| is(segment, parts.next_back())) && parts.next().is_some()
}
