//! Texts with a star: Istio's `exact`, `prefix*`, `*suffix` and `*`; and namespaces, which may have stars anywhere.

use super::InvalidPattern;

/// A text as most fields have it. Everything but the star is literal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TextPattern {
    /// `*`: there is one, and it is not empty.
    Present,
    /// The whole text.
    Exact(String),
    /// `begin*`.
    Prefix(String),
    /// `*end`.
    Suffix(String),
}

/// What a text has to be, or to begin with, to fit: what an index can look for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Literal {
    /// The whole text.
    Whole(String),
    /// Its beginning.
    Begin(String),
}

impl Literal {
    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Whole(text) | Self::Begin(text) => text,
        }
    }

    /// The same for texts without case.
    #[must_use]
    pub fn to_ascii_lowercase(&self) -> Self {
        match self {
            Self::Whole(text) => Self::Whole(text.to_ascii_lowercase()),
            Self::Begin(text) => Self::Begin(text.to_ascii_lowercase()),
        }
    }
}

impl TextPattern {
    /// What every text that fits is or begins with; `None` where that says nothing.
    #[must_use]
    pub fn literal(&self) -> Option<Literal> {
        match self {
            Self::Exact(whole) => Some(Literal::Whole(whole.clone())),
            Self::Prefix(begin) => Some(Literal::Begin(begin.clone())),
            Self::Suffix(_) | Self::Present => None,
        }
    }

    /// Reads one.
    ///
    /// # Errors
    /// A star that is neither the first nor the last character.
    pub fn parse(text: &str) -> Result<Self, InvalidPattern> {
        let (pattern, literal) = if text == "*" {
            return Ok(Self::Present);
        } else if let Some(begin) = text.strip_suffix('*') {
            (Self::Prefix(begin.to_owned()), begin)
        } else if let Some(end) = text.strip_prefix('*') {
            (Self::Suffix(end.to_owned()), end)
        } else {
            (Self::Exact(text.to_owned()), text)
        };
        if literal.contains('*') {
            return Err(InvalidPattern::Star(text.to_owned()));
        }
        Ok(pattern)
    }

    /// Byte by byte.
    #[must_use]
    pub fn matches(&self, text: &[u8]) -> bool {
        match self {
            Self::Present => !text.is_empty(),
            Self::Exact(whole) => text == whole.as_bytes(),
            Self::Prefix(begin) => text.starts_with(begin.as_bytes()),
            Self::Suffix(end) => text.ends_with(end.as_bytes()),
        }
    }

    /// Without regard to the case of ASCII letters.
    #[must_use]
    pub fn matches_any_case(&self, text: &[u8]) -> bool {
        let same = |part: Option<&[u8]>, wanted: &str| {
            part.is_some_and(|part| part.eq_ignore_ascii_case(wanted.as_bytes()))
        };
        match self {
            Self::Present => !text.is_empty(),
            Self::Exact(whole) => text.eq_ignore_ascii_case(whole.as_bytes()),
            Self::Prefix(begin) => same(text.get(..begin.len()), begin),
            Self::Suffix(end) => {
                same(text.len().checked_sub(end.len()).and_then(|from| text.get(from..)), end)
            }
        }
    }
}

/// A text in which each star stands for anything, also for nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob(Vec<String>);

impl Glob {
    /// Everything but stars is literal.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.split('*').map(str::to_owned).collect())
    }

    /// Whether all of `text` fits. A star takes as little as it can; with literal parts that finds a fit if there is one.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let [first, middle @ .., last] = &self.0[..] else {
            return self.0.first().is_some_and(|whole| whole == text);
        };
        let Some(mut rest) = text.strip_prefix(first.as_str()) else { return false };
        for part in middle {
            match rest.find(part.as_str()) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        rest.ends_with(last.as_str())
    }
}
