//! Whether a resource may be stored. In: an admission request's object, and the one before it. Out: yes, with warnings; or no, with every reason.
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

/// More reasons than that are counted.
const MAX_ERRORS: usize = 32;
/// API servers show no more than this of all warnings together, and cut each.
const MAX_WARNINGS: usize = 32;
/// The longest text that is shown whole.
const MAX_TEXT: usize = 240;

/// Judges `object`, which takes the place of `old` (null: of nothing); nothing ever keeps somebody from deleting.
///
/// What cannot be read is told and not refused where the operation does not put it there: when it is on its way out (taking a
/// finalizer off is an update), and when only its metadata changes and it could not be read before. Refusing that would keep
/// it, and its namespace, for ever. What is good before is kept from ending by an annotation.
#[must_use]
pub fn judge(operation: &str, object: &Value, old: &Value) -> Verdict {
    if !matches!(operation, "CREATE" | "UPDATE") {
        return Verdict::Allowed(Vec::new());
    }
    let why = match from_value(object.clone(), Origin::default()) {
        Document::Accepted(resource) => {
            return Verdict::Allowed(warnings(resource.problems.iter().map(Problem::text)));
        }
        Document::Ignored(_) => return Verdict::Allowed(Vec::new()),
        Document::Refused(refused) => {
            let errors = refused.problems.iter().filter(|p| p.is_error());
            let more = errors.clone().count().saturating_sub(MAX_ERRORS);
            let errors: Vec<String> = errors.take(MAX_ERRORS).map(Problem::text).map(cut).collect();
            match (errors.len(), more) {
                (0, _) => "it cannot be read".to_owned(),
                (_, 0) => errors.join("; "),
                _ => format!("{}; and {more} more", errors.join("; ")),
            }
        }
    };
    if operation == "UPDATE" {
        if !object["metadata"]["deletionTimestamp"].is_null() {
            return Verdict::Allowed(Vec::new());
        }
        // An object that was there is never null: without one, nothing is known to be as it was.
        let was_refused = || matches!(from_value(old.clone(), Origin::default()), Document::Refused(_));
        if old.is_object() && object.get("spec") == old.get("spec") && was_refused() {
            return Verdict::Allowed(warnings([format!("it stays, and is not in force: {why}")]));
        }
    }
    Verdict::Refused(why)
}

/// A text that somebody else may have made long, so that it fills no log and no answer.
pub(super) fn cut(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(MAX_TEXT) {
        text.truncate(end);
        text.push_str("...");
    }
    text
}

/// As many of them as are shown.
pub(super) fn warnings(texts: impl IntoIterator<Item = String>) -> Vec<String> {
    texts.into_iter().map(cut).take(MAX_WARNINGS).collect()
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
        assert_eq!(judge("CREATE", &virtual_service(1, "5s"), &Value::Null), Verdict::Allowed(vec![]));
        let before = virtual_service(1, "5s");
        let Verdict::Allowed(warnings) = judge("UPDATE", &virtual_service(-1, "5s"), &before) else {
            panic!("refused")
        };
        assert!(warnings.iter().any(|w| w.contains("spec.http[0].route[0].weight")), "{warnings:?}");
    }

    #[test]
    fn bad_ones_are_refused_with_the_path() {
        for (operation, before) in
            [("CREATE", Value::Null), ("UPDATE", virtual_service(1, "5s")), ("UPDATE", Value::Null)]
        {
            let Verdict::Refused(why) = judge(operation, &virtual_service(1, "soon"), &before) else {
                panic!("allowed")
            };
            assert!(why.contains("spec.http[0].timeout"), "{why}");
        }
        assert!(matches!(judge("CREATE", &filter(), &Value::Null), Verdict::Refused(_)));
    }

    fn filter() -> Value {
        json!({"apiVersion": "networking.istio.io/v1alpha3", "kind": "EnvoyFilter",
            "metadata": {"name": "f", "namespace": "n", "finalizers": ["f"]}, "spec": {"configPatches": []}})
    }

    /// Left from another mesh, or stored while nobody asked us: it can be labelled, and it can go.
    #[test]
    fn what_is_there_can_be_released_and_labelled() {
        let mut labelled = filter();
        labelled["metadata"]["labels"] = json!({"team": "a"});
        let Verdict::Allowed(warnings) = judge("UPDATE", &labelled, &filter()) else { panic!("refused") };
        assert!(warnings[0].contains("not in force") && warnings[0].contains("EnvoyFilter"), "{warnings:?}");
        let mut going = filter();
        going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        let mut released = going.clone();
        released["metadata"]["finalizers"] = json!([]);
        assert_eq!(judge("UPDATE", &released, &going), Verdict::Allowed(vec![]));
        // A new object cannot claim to be on its way out.
        assert!(matches!(judge("CREATE", &going, &Value::Null), Verdict::Refused(_)));
        let mut other = filter();
        other["spec"] = json!({"priority": 1});
        assert!(matches!(judge("UPDATE", &other, &filter()), Verdict::Refused(_)));
    }

    /// A policy that is in force and would not be with another annotation stays as it is.
    #[test]
    fn metadata_does_not_end_what_is_in_force() {
        let policy = |dry: &str| {
            json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
                "metadata": {"name": "ask", "namespace": "n", "annotations": {"istio.io/dry-run": dry}},
                "spec": {"action": "CUSTOM", "provider": {"name": "p"}, "rules": [{}]}})
        };
        let (good, bad) = (policy("false"), policy("true"));
        assert!(matches!(judge("CREATE", &good, &Value::Null), Verdict::Allowed(_)));
        let Verdict::Refused(why) = judge("UPDATE", &bad, &good) else { panic!("allowed") };
        assert!(why.contains("dry run"), "{why}");
        // One that was so all the time can still be labelled, and mended.
        assert!(matches!(judge("UPDATE", &bad, &bad), Verdict::Allowed(_)));
        assert!(matches!(judge("UPDATE", &good, &bad), Verdict::Allowed(_)));
    }

    /// What somebody else's object is refused for fills no log and no answer.
    #[test]
    fn c9_reasons_are_few_and_short() {
        let mut object = virtual_service(1, "5s");
        object["spec"]["hosts"] = (0..5000).map(|index| format!("-{index}-")).collect();
        object["spec"]["hosts"][0] = json!("x-".repeat(100_000));
        let Verdict::Refused(why) = judge("CREATE", &object, &Value::Null) else { panic!("allowed") };
        assert!(why.len() < 10_000 && why.ends_with("; and 4968 more"), "{}: {why}", why.len());
    }

    #[test]
    fn deleting_is_always_allowed() {
        for operation in ["DELETE", "CONNECT"] {
            assert_eq!(
                judge(operation, &json!({"kind": "VirtualService", "spec": 1}), &Value::Null),
                Verdict::Allowed(vec![])
            );
        }
        assert_eq!(judge("DELETE", &Value::Null, &Value::Null), Verdict::Allowed(vec![]));
    }
}
