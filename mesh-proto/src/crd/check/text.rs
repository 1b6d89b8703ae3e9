//! Matches of texts, and what all regular expressions of one resource may cost together. In: matches at paths. Out: findings.
//!
//! The proxy's own rules and bounds: what it would refuse must not be accepted here. A pattern of a few bytes can take
//! milliseconds to compile; without a bound for all of them a resource of the largest size would keep a pilot busy for
//! minutes, and with it the admission of everybody else's (ISTIO-2026-006).

use regex::Error;
use regex::bytes::RegexBuilder;

use super::super::problem::Findings;
use super::super::values::StringMatch;

/// The longest pattern.
const MAX_PATTERN: usize = 1024;
/// How large a compiled program may be, in bytes: the first that is enough counts.
const SIZES: [usize; 4] = [4 << 10, 16 << 10, 64 << 10, 1 << 20];
/// What all of a resource may take together: some 4,000 plain ones, or 15 of the largest.
const MAX_TOGETHER: usize = 16 << 20;
/// What each class costs where there may be classes of Unicode: however small the program is that comes of it, to put the
/// class together (thousands of ranges, all of their other cases) takes as long as to compile a program of that size.
const CLASS: usize = 16 << 10;

/// Checks the matches of one resource.
pub(super) struct Texts {
    left: usize,
}

/// Why a pattern is not taken.
enum Refused {
    Bad(String),
    TooMuch,
}

impl Texts {
    /// Nothing is spent.
    pub(super) fn new() -> Self {
        Self { left: MAX_TOGETHER }
    }

    /// Checks one match.
    pub(super) fn check(&mut self, value: &StringMatch, path: &str, findings: &mut Findings) {
        match value {
            StringMatch::Prefix(text) if text.is_empty() => findings.error(path, "the prefix is empty", ""),
            StringMatch::Regex(text) if text.is_empty() => findings.error(path, "the regex is empty", ""),
            // What was too much has been said.
            StringMatch::Regex(_) if self.left == 0 => {}
            StringMatch::Regex(text) => match self.expression(text) {
                Ok(()) => {}
                Err(Refused::Bad(reason)) => {
                    findings.error(path, format!("bad regex: {reason}"), "RE2 syntax");
                }
                Err(Refused::TooMuch) => {
                    let message = "from here on the regexes of this resource are too large together";
                    let expected = format!("at most {} MiB, compiled", MAX_TOGETHER >> 20);
                    findings.error(path, message, expected);
                }
            },
            _ => {}
        }
    }

    fn spend(&mut self, size: usize) -> Result<(), Refused> {
        self.left = self.left.saturating_sub(size);
        if self.left == 0 { Err(Refused::TooMuch) } else { Ok(()) }
    }

    /// Whatever comes of it, what was tried is spent.
    fn expression(&mut self, text: &str) -> Result<(), Refused> {
        if text.len() > MAX_PATTERN {
            let reason = format!("{} bytes, at most {MAX_PATTERN} are allowed", text.len());
            return Err(Refused::Bad(reason));
        }
        self.spend(unicode_classes(text) * CLASS)?;
        let (mut tried, mut spent) = (Ok(()), 0);
        for size in SIZES {
            self.spend(size - spent)?;
            spent = size;
            tried = compile(text, size);
            if !matches!(tried, Err(Error::CompiledTooBig(_))) {
                break;
            }
        }
        tried.map_err(|error| {
            let text = error.to_string();
            Refused::Bad(text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned())
        })
    }
}

/// How many classes there are to be put together in the mode of Unicode; 0: nothing turns it on. More than there are where
/// something only looks like one.
fn unicode_classes(text: &str) -> usize {
    let flags = |rest: &str| rest.chars().take_while(|c| "imsUuRx-".contains(*c)).any(|c| c == 'u');
    let named = text.matches("\\p").count() + text.matches("\\P").count();
    if named == 0 && !text.split('?').skip(1).any(flags) {
        return 0;
    }
    named
        + ["[", "\\w", "\\W", "\\d", "\\D", "\\s", "\\S"]
            .iter()
            .map(|class| text.matches(class).count())
            .sum::<usize>()
}

fn compile(text: &str, size: usize) -> Result<(), Error> {
    let build = |pattern: &str, unicode: bool| {
        RegexBuilder::new(pattern).unicode(unicode).size_limit(size).build().map(drop)
    };
    // On its own first: `a)|(?:b` must not escape from the group that anchors it. Classes of Unicode exist only in its mode.
    let unicode = match build(text, false) {
        Ok(()) => false,
        Err(Error::Syntax(_)) => true,
        Err(error) => return Err(error),
    };
    if unicode {
        build(text, true)?;
    }
    build(&format!("^(?:{text})$"), unicode)
}
