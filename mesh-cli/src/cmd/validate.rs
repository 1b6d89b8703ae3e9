//! `meshctl validate`: the parser that `up` and the pilot use, on files.

use std::process::ExitCode;

use mesh_proto::crd::{self, Problem};
use owo_colors::OwoColorize as _;
use serde_json::json;

use crate::args::{Format, ValidateArgs};

/// Reads the files and tells everything that is wrong; exit status 1 when something would be refused.
///
/// # Errors
/// When the output cannot be written.
pub fn run(args: &ValidateArgs) -> anyhow::Result<ExitCode> {
    let report = crd::validate_files(&args.files);
    let errors = report.problems.iter().filter(|p| p.is_error()).count();
    let warnings = report.problems.len() - errors;
    if args.output.output == Format::Json {
        let problems: Vec<_> = report.problems.iter().map(to_json).collect();
        let told = json!({"documents": report.documents.len(), "errors": errors, "warnings": warnings, "problems": problems});
        println!("{}", serde_json::to_string_pretty(&told)?);
    } else {
        for problem in &report.problems {
            let text = problem.to_string();
            if problem.is_error() {
                anstream::println!("{}", text.replacen("error:", &"error:".red().bold().to_string(), 1));
            } else {
                anstream::println!("{}", text.replacen("warning:", &"warning:".yellow().to_string(), 1));
            }
        }
        let documents = report.documents.len();
        println!("{documents} documents, {errors} errors, {warnings} warnings");
    }
    Ok(if errors > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn to_json(problem: &Problem) -> serde_json::Value {
    json!({
        "file": &*problem.file,
        "line": problem.position.line,
        "column": problem.position.column,
        "severity": problem.severity.to_string(),
        "object": problem.object.as_ref().map(ToString::to_string),
        "path": problem.path,
        "message": problem.message,
        "expected": problem.expected,
    })
}
