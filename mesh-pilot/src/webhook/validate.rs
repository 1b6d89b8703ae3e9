//! Whether a resource may be stored. In: an admission request's object. Out: yes, with warnings; or no, with every reason.
//!
//! The same parser as everywhere (`mesh_proto::crd`), so that what the API server has is what the pilot can use. Nothing is
//! changed and nothing else is looked at: a dry run is a run.

use mesh_proto::crd::{Document, Origin, Problem, from_value};
use serde_json::Value;

/// The verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It may; this deserves a look.
    Allowed(Vec<String>),
    /// It may not.
    Refused(String),
}

/// API servers show no more than this of all warnings together, and cut each.
const MAX_WARNINGS: usize = 32;
/// The longest warning that is shown whole.
const MAX_WARNING: usize = 240;

/// Judges `object` for the operation; nothing ever keeps somebody from deleting.
#[must_use]
pub fn judge(operation: &str, object: &Value) -> Verdict {
    if !matches!(operation, "CREATE" | "UPDATE") {
        return Verdict::Allowed(Vec::new());
    }
    match from_value(object.clone(), Origin::default()) {
        Document::Accepted(resource) => Verdict::Allowed(warnings(&resource.problems)),
        Document::Ignored(_) => Verdict::Allowed(Vec::new()),
        Document::Refused(refused) => {
            let errors: Vec<String> =
                refused.problems.iter().filter(|p| p.is_error()).map(Problem::text).collect();
            Verdict::Refused(match errors.len() {
                0 => "it cannot be read".to_owned(),
                _ => errors.join("; "),
            })
        }
    }
}

fn warnings(problems: &[Problem]) -> Vec<String> {
    let cut = |mut text: String| {
        if let Some((end, _)) = text.char_indices().nth(MAX_WARNING) {
            text.truncate(end);
            text.push_str("...");
        }
        text
    };
    problems.iter().map(Problem::text).map(cut).take(MAX_WARNINGS).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn virtual_service(weight: i64, timeout: &str) -> Value {
        json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "v", "namespace": "n"},
            "spec": {"hosts": ["reviews"], "http": [{"route": [{"destination": {"host": "reviews"}, "weight": weight}],
                "timeout": timeout}]}})
    }

    #[test]
    fn good_ones_pass_and_negative_weights_are_told() {
        assert_eq!(judge("CREATE", &virtual_service(1, "5s")), Verdict::Allowed(vec![]));
        let Verdict::Allowed(warnings) = judge("UPDATE", &virtual_service(-1, "5s")) else {
            panic!("refused")
        };
        assert!(warnings.iter().any(|w| w.contains("spec.http[0].route[0].weight")), "{warnings:?}");
    }

    #[test]
    fn bad_ones_are_refused_with_the_path() {
        let Verdict::Refused(why) = judge("CREATE", &virtual_service(1, "soon")) else { panic!("allowed") };
        assert!(why.contains("spec.http[0].timeout"), "{why}");
        let filter = json!({"apiVersion": "networking.istio.io/v1alpha3", "kind": "EnvoyFilter",
            "metadata": {"name": "f", "namespace": "n"}, "spec": {}});
        assert!(matches!(judge("CREATE", &filter), Verdict::Refused(_)));
    }

    #[test]
    fn deleting_is_always_allowed() {
        for operation in ["DELETE", "CONNECT"] {
            assert_eq!(
                judge(operation, &json!({"kind": "VirtualService", "spec": 1})),
                Verdict::Allowed(vec![])
            );
        }
        assert_eq!(judge("DELETE", &Value::Null), Verdict::Allowed(vec![]));
    }
}
