//! `meshctl validate`: the parser that `up` and the pilot use, on files and on what a cluster has.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;

use mesh_pilot::snapshot::MeshSettings;
use mesh_proto::crd::{self, Document, Kind, ObjectRef, Problem, Report};
use owo_colors::OwoColorize as _;
use serde_json::json;

use super::input;
use crate::args::{Format, ValidateArgs};
use crate::cluster::{Cluster, objects};
use crate::local::plan::SYSTEM;

/// Reads the files and tells everything that is wrong; exit status 1 when something would be refused.
///
/// With `-A`, `-n` or `--cluster` the objects of the cluster are read too: those in files take the place of those that they
/// would replace, and what is wrong between all of them is told.
///
/// # Errors
/// When standard input cannot be read, or the cluster does not answer.
pub async fn run(args: ValidateArgs) -> anyhow::Result<ExitCode> {
    let mut documents = Vec::new();
    for file in &args.files {
        if file == Path::new("-") {
            let (name, text) = input::read(file)?;
            documents.extend(crd::parse(&name, &text));
        } else {
            documents.extend(crd::parse_path(file));
        }
    }
    let mut report = crd::validate_documents(documents);
    if args.all_namespaces || args.cluster.namespace.is_some() || args.cluster.reach.cluster {
        let cluster = Cluster::connect(&args.cluster).await?;
        let namespace = (!args.all_namespaces).then_some(cluster.namespace.as_str());
        let there = objects::documents(&cluster, namespace).await?;
        add(&mut report, there, &cluster.system);
    } else {
        let mut problems = between(&report.documents, SYSTEM);
        // Other objects may well be about what is in other files; who may be asked (CUSTOM) is all in one.
        let complete = whole_kinds(&report.documents);
        problems
            .retain(|problem| problem.object.as_ref().is_some_and(|object| complete.contains(&object.kind)));
        report.problems.extend(problems);
    }
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

/// The kinds of which files alone tell everything.
fn whole_kinds(documents: &[Document]) -> Vec<Kind> {
    let more: &[Kind] =
        if has_mesh_config(documents) { &[Kind::ConfigMap, Kind::AuthorizationPolicy] } else { &[] };
    [&[Kind::Gateway][..], more].concat()
}

/// Adds what a cluster has, and what is wrong between everything.
fn add(report: &mut Report, there: Vec<Document>, system: &str) {
    let in_files: BTreeSet<ObjectRef> =
        report.documents.iter().filter_map(|document| document.reference().cloned()).collect();
    for document in there {
        if document.reference().is_some_and(|reference| in_files.contains(reference)) {
            continue;
        }
        report.problems.extend(document.problems().iter().cloned());
        report.documents.push(document);
    }
    let problems = between(&report.documents, system);
    let told = problems.into_iter().filter(|problem| !is_unsure(problem, &report.documents));
    report.problems.extend(told.collect::<Vec<_>>());
}

/// Whether a problem may only be that MeshConfig is not among the documents.
fn is_unsure(problem: &Problem, documents: &[Document]) -> bool {
    problem.message.contains("extensionProvider") && !has_mesh_config(documents)
}

fn has_mesh_config(documents: &[Document]) -> bool {
    let mesh_config = ObjectRef::new(Kind::ConfigMap, SYSTEM, "istio");
    documents.iter().any(|document| document.reference() == Some(&mesh_config))
}

/// What is wrong between all of them.
fn between(documents: &[Document], system: &str) -> Vec<Problem> {
    let domain: &str = "cluster.local";
    let mesh = MeshSettings {
        trust_domain: domain.parse().expect("a valid name"),
        cluster_domain: domain.into(),
        root_namespace: system.into(),
    };
    mesh_pilot::validate::between(documents, mesh)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_cluster_are_one_configuration() {
        let rule = |host: &str| {
            json!({
                "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
                "metadata": { "name": "a", "namespace": "shop" }, "spec": { "host": host },
            })
        };
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": "a", "namespace": "shop" },
            "spec": { "ports": [{ "port": 80 }] },
        });
        let there = |host: &str| {
            vec![
                objects::document(crd::Kind::Service, service.clone()),
                objects::document(crd::Kind::DestinationRule, rule(host)),
            ]
        };
        let mut report = Report::default();
        add(&mut report, there("b"), "istio-system");
        let told: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(
            told[0].contains("cluster:DestinationRule/shop/a") && told[0].contains("IST0174"),
            "{told:?}"
        );
        // The file replaces the object of the cluster.
        let text = rule("a").to_string();
        let mut report = Report { documents: crd::parse("new.yaml", &text), problems: Vec::new() };
        add(&mut report, there("b"), "istio-system");
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        assert_eq!(report.documents.len(), 2);
    }
}
