//! What is wrong between the objects of some files, for `meshctl validate` on a whole configuration: each object by itself
//! is the parser's to judge ([`mesh_proto::crd::validate_files`]).
//!
//! In: documents. Out: warnings at the objects that they are about.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_proto::crd::{Document, ObjectRef, Origin, Problem, Severity};

use crate::compile;
use crate::index::Index;
use crate::mesh_config::in_files;
use crate::snapshot::{MeshSettings, Note};
use crate::source::{Event, Refusal};

/// The notes between the documents, as they would be in a mesh that has these and nothing else.
#[must_use]
pub fn between(documents: &[Document], mesh: MeshSettings) -> Vec<Problem> {
    let mut index = Index::new(mesh);
    let mut origins: BTreeMap<ObjectRef, Origin> = BTreeMap::new();
    let mut problems = Vec::new();
    index.apply(Event::Init);
    for document in documents {
        match document {
            Document::Accepted(resource) => {
                origins.insert(resource.reference.clone(), resource.origin.clone());
                if let Some((options, wrong)) = in_files::said(resource) {
                    problems.extend(wrong);
                    index.apply(Event::Options(Box::new(options.unwrap_or_default())));
                }
                index.apply(Event::Apply(Box::new(resource.clone())));
            }
            Document::Refused(refused) => {
                let Some(reference) = refused.reference.clone() else { continue };
                origins.insert(reference.clone(), refused.origin.clone());
                let refusal =
                    Refusal { reference, generation: None, refused: refused.clone(), last_good: false };
                index.apply(Event::Refused(Box::new(refusal)));
            }
            Document::Ignored(_) => {}
        }
    }
    index.apply(Event::InitDone);
    let (snapshot, _) = index.snapshot();
    problems.extend(compile::notes(&snapshot.config).into_iter().map(|note| problem(note, &origins)));
    problems
}

fn problem(note: Note, origins: &BTreeMap<ObjectRef, Origin>) -> Problem {
    let origin = origins.get(&note.reference);
    let effect = if note.superseded { "without effect: " } else { "" };
    Problem {
        file: origin.map_or_else(|| Arc::from(""), |origin| origin.file.clone()),
        position: origin.map(|origin| origin.places.of("").value).unwrap_or_default(),
        object: Some(note.reference),
        path: String::new(),
        message: format!("{effect}{}", note.text),
        expected: String::new(),
        severity: Severity::Warning,
    }
}

#[cfg(test)]
mod tests {
    use mesh_proto::crd::parse;

    use super::*;

    #[test]
    fn notes_are_told_at_their_object() {
        let text = "apiVersion: v1
kind: Service
metadata: {name: a}
spec: {ports: [{port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: a}
spec: {host: b}
";
        let mesh = MeshSettings {
            trust_domain: "cluster.local".parse().unwrap(),
            cluster_domain: Arc::from("cluster.local"),
            root_namespace: Arc::from("istio-system"),
        };
        let told: Vec<String> =
            between(&parse("a.yaml", text), mesh.clone()).iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "a.yaml:6:1: warning: DestinationRule default/a: no service has the host b.default.svc.cluster.local (IST0174)"
            ]
        );
        let good = text.replace("host: b", "host: a");
        assert!(between(&parse("a.yaml", &good), mesh).is_empty());
    }
}
