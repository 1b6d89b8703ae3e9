//! What is wrong with a resource, where, and what was expected: the one form in which every part of the mesh tells it.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::meta::ObjectRef;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// The object is accepted; something about it deserves a look.
    Warning,
    /// The object is refused.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// A place in a file, both numbers from 1. Zeros where there is no file (an object from an API server).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// From 1; 0 = unknown.
    pub line: u32,
    /// From 1; 0 = unknown.
    pub column: u32,
}

/// One finding. Displayed as `file:line:column: error: Kind ns/name: path: message (expected …)`, without the place where
/// there is none (an object from an API server).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, or where else the object came from.
    pub file: Arc<str>,
    /// Of the offending field.
    pub position: Position,
    /// The object, as far as it could be read.
    pub object: Option<ObjectRef>,
    /// `spec.http[0].route[1].weight`; empty when it is about the whole document.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What would have been right; empty where the message says it all.
    pub expected: String,
    /// Refused or only told.
    pub severity: Severity,
}

impl Problem {
    /// Whether the object is refused because of this.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// `path: message (expected …)`, without place and object, for status.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        if !self.path.is_empty() {
            text.push_str(&self.path);
            text.push_str(": ");
        }
        text.push_str(&self.message);
        if !self.expected.is_empty() {
            text.push_str(" (expected ");
            text.push_str(&self.expected);
            text.push(')');
        }
        text
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.file.is_empty() {
            f.write_str(&self.file)?;
            if self.position.line > 0 {
                write!(f, ":{}:{}", self.position.line, self.position.column)?;
            }
            f.write_str(": ")?;
        }
        write!(f, "{}: ", self.severity)?;
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        f.write_str(&self.text())
    }
}

/// A finding of a pure check, before it is given a place: the field's path and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// `spec.http[0].timeout`.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What would have been right, or empty.
    pub expected: String,
    /// Refused or only told.
    pub severity: Severity,
}

/// Collects findings. Checks take it by `&mut` and know nothing of files.
#[derive(Debug, Default)]
pub struct Findings(pub Vec<Finding>);

impl Findings {
    /// The object is refused.
    pub fn error(
        &mut self,
        path: impl Into<String>,
        message: impl Into<String>,
        expected: impl Into<String>,
    ) {
        self.push(path.into(), message.into(), expected.into(), Severity::Error);
    }

    /// The object is accepted, and this is told.
    pub fn warning(
        &mut self,
        path: impl Into<String>,
        message: impl Into<String>,
        expected: impl Into<String>,
    ) {
        self.push(path.into(), message.into(), expected.into(), Severity::Warning);
    }

    fn push(&mut self, path: String, message: String, expected: String, severity: Severity) {
        self.0.push(Finding { path, message, expected, severity });
    }
}
