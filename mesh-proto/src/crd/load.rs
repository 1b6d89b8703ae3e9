//! Files in, documents out.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::object::{Document, Origin, Refused};
use super::problem::{Position, Problem, Severity};

/// What validating some files found.
#[derive(Debug, Default)]
pub struct Report {
    /// Every document of every file, in order.
    pub documents: Vec<Document>,
    /// Everything that there is to say, in order; also about files that cannot be read.
    pub problems: Vec<Problem>,
}

impl Report {
    /// Whether anything is refused.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.problems.iter().any(Problem::is_error)
    }
}

/// Reads the documents of one YAML (or JSON) file. Never panics; what cannot be read is a refused document.
#[must_use]
pub fn parse(file: &str, _text: &str) -> Vec<Document> {
    vec![unreadable(file, "not read yet".to_owned())]
}

/// Reads one file.
#[must_use]
pub fn parse_file(path: &Path) -> Vec<Document> {
    let file = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&file, &text),
        Err(error) => vec![unreadable(&file, error.to_string())],
    }
}

/// Reads one object that is JSON already: from an API server, or the last good version from disk.
#[must_use]
pub fn from_value(_value: Value, origin: Origin) -> Document {
    unreadable(&origin.file, "not read yet".to_owned())
}

/// The files behind some paths: a file is itself, a directory all `.yaml`, `.yml` and `.json` files in it and below, in
/// name order.
///
/// # Errors
/// A path that does not exist or a directory that cannot be read.
pub fn yaml_files(paths: &[PathBuf]) -> io::Result<Vec<PathBuf>> {
    Ok(paths.to_vec())
}

/// Reads and checks files and directories.
#[must_use]
pub fn validate_files(_paths: &[PathBuf]) -> Report {
    Report::default()
}

fn unreadable(file: &str, message: String) -> Document {
    let file: Arc<str> = Arc::from(file);
    let problem = Problem {
        file: Arc::clone(&file),
        position: Position::default(),
        object: None,
        path: String::new(),
        message,
        expected: String::new(),
        severity: Severity::Error,
    };
    let origin = Origin { file, ..Origin::default() };
    Document::Refused(Refused { reference: None, restriction: None, origin, problems: vec![problem] })
}
