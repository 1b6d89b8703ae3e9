//! One AdmissionReview in, one out (`admission.k8s.io/v1`).
//!
//! In: the body of the API server's question. Out: the answer, or why it is no question. Pure; `server` is around it.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::decide::{Decision, NEITHER, decide};
use super::inject::inject;
use super::settings::Settings;
use super::validate::{self, Verdict, judge};

/// The only version that is spoken.
const VERSION: &str = "admission.k8s.io/v1";

/// What is asked.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    uid: String,
    #[serde(default)]
    operation: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    kind: GroupKind,
    #[serde(default)]
    sub_resource: String,
    #[serde(default)]
    object: Value,
    #[serde(default)]
    old_object: Value,
}

#[derive(Debug, Default, Deserialize)]
struct GroupKind {
    #[serde(default)]
    group: String,
    #[serde(default)]
    kind: String,
}

/// What came of it, for logs and counters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A sidecar was put in; or the resource is good.
    Done,
    /// Nothing was to be done, because.
    Skipped(&'static str),
    /// It was refused, because.
    Refused(String),
}

/// Why nothing is done for what is asked about.
const NO_POD: &str = "not the creation of a pod";

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The AdmissionReview.
    pub review: Value,
    /// What came of it.
    pub outcome: Outcome,
    /// What it was about, for logs.
    pub subject: String,
}

fn request(body: &[u8]) -> Result<Request, String> {
    #[derive(Deserialize)]
    struct Review {
        #[serde(default, rename = "apiVersion")]
        api_version: String,
        request: Option<Request>,
    }
    let review: Review = serde_json::from_slice(body).map_err(|e| format!("no AdmissionReview: {e}"))?;
    if review.api_version != VERSION {
        return Err(format!("apiVersion {:?}: expected {VERSION}", review.api_version));
    }
    review.request.ok_or_else(|| "an AdmissionReview without a request".to_owned())
}

impl Request {
    fn creates_a_pod(&self) -> bool {
        let is_pod = self.kind.kind == "Pod" && self.kind.group.is_empty() && self.sub_resource.is_empty();
        is_pod && self.operation == "CREATE"
    }

    fn subject(&self) -> String {
        let text = |name: &str| self.object["metadata"][name].as_str().unwrap_or_default();
        let name = if text("name").is_empty() { text("generateName") } else { text("name") };
        validate::cut(format!("{} {}/{name}", self.kind.kind, self.namespace))
    }

    fn answer(&self, response: Value, outcome: Outcome) -> Answer {
        let mut response = response;
        response["uid"] = self.uid.as_str().into();
        let review = json!({"apiVersion": VERSION, "kind": "AdmissionReview", "response": response});
        Answer { review, outcome, subject: self.subject() }
    }

    fn refuse(&self, why: String) -> Answer {
        let response = json!({"allowed": false, "status": {"status": "Failure", "reason": "Invalid", "code": 422, "message": why}});
        self.answer(response, Outcome::Refused(why))
    }
}

/// Refuses a pod: nobody knows which sidecar it should have, or whether any. A pod without the one that somebody asked for, or
/// with another, is worse.
///
/// # Errors
/// When `body` is no AdmissionReview.
pub fn no_injection(body: &[u8], why: &str) -> Result<Answer, String> {
    let request = request(body)?;
    if !request.creates_a_pod() {
        return Ok(request.answer(json!({"allowed": true}), Outcome::Skipped(NO_POD)));
    }
    let told = "no sidecar can be injected: the injector's settings cannot be used; mend the values of the control plane's chart";
    Ok(request.refuse(format!("{told}: {why}")))
}

/// Gives a pod its sidecar. `token`: a fresh secret for it.
///
/// # Errors
/// When `body` is no AdmissionReview.
pub fn injection(body: &[u8], settings: &Settings, token: &str) -> Result<Answer, String> {
    let request = request(body)?;
    if !request.creates_a_pod() {
        return Ok(request.answer(json!({"allowed": true}), Outcome::Skipped(NO_POD)));
    }
    // Whose labels match is the selectors' affair, which the API server applies.
    if let Decision::Skip(why) = decide(&request.object, &request.namespace, None, settings) {
        let mut response = json!({"allowed": true});
        if why == NEITHER {
            response["warnings"] = json!([format!("no sidecar: {why}")]);
        }
        return Ok(request.answer(response, Outcome::Skipped(why)));
    }
    let injected = match inject(&request.object, None, settings, token) {
        Ok(injected) => injected,
        Err(error) => {
            return Ok(request.refuse(validate::cut(format!("no sidecar can be injected: {error}"))));
        }
    };
    let patch = json_patch::diff(&request.object, &injected.object);
    let mut response = json!({"allowed": true});
    let outcome = if patch.0.is_empty() {
        Outcome::Skipped("it has its sidecar already")
    } else {
        let patch = serde_json::to_vec(&patch).map_err(|e| e.to_string())?;
        response["patchType"] = "JSONPatch".into();
        response["patch"] = BASE64_STANDARD.encode(patch).into();
        Outcome::Done
    };
    if !injected.warnings.is_empty() {
        response["warnings"] = validate::warnings(injected.warnings).into();
    }
    Ok(request.answer(response, outcome))
}

/// Judges a resource.
///
/// # Errors
/// When `body` is no AdmissionReview.
pub fn validation(body: &[u8]) -> Result<Answer, String> {
    let request = request(body)?;
    Ok(match judge(&request.operation, &request.object, &request.old_object) {
        Verdict::Allowed(warnings) if warnings.is_empty() => {
            request.answer(json!({"allowed": true}), Outcome::Done)
        }
        Verdict::Allowed(warnings) => {
            request.answer(json!({"allowed": true, "warnings": warnings}), Outcome::Done)
        }
        Verdict::Refused(why) => request.refuse(why),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::webhook::ControlPlane;

    fn settings() -> Settings {
        Settings::read(&json!({}), &json!({}), ControlPlane::default()).unwrap()
    }

    fn review(object: Value) -> Vec<u8> {
        let kind = object["kind"].as_str().unwrap_or("Pod").to_owned();
        json!({"apiVersion": VERSION, "kind": "AdmissionReview", "request": {"uid": "u1", "operation": "CREATE",
            "namespace": "shop", "kind": {"group": "", "version": "v1", "kind": kind}, "object": object}})
        .to_string()
        .into_bytes()
    }

    fn pod() -> Value {
        json!({"kind": "Pod", "metadata": {"generateName": "a-"}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
    }

    #[test]
    fn the_patch_makes_the_pod_that_injection_makes() {
        let answer = injection(&review(pod()), &settings(), "t").unwrap();
        let response = &answer.review["response"];
        assert_eq!((&response["uid"], &response["allowed"]), (&json!("u1"), &json!(true)));
        assert_eq!(response["patchType"], "JSONPatch");
        let patch = BASE64_STANDARD.decode(response["patch"].as_str().unwrap()).unwrap();
        let patch: json_patch::Patch = serde_json::from_slice(&patch).unwrap();
        let mut patched = pod();
        json_patch::patch(&mut patched, &patch).unwrap();
        assert_eq!(patched, inject(&pod(), None, &settings(), "t").unwrap().object);
        assert_eq!(answer.outcome, Outcome::Done);
        assert_eq!(answer.subject, "Pod shop/a-");
        // Asked again with what came of it: nothing.
        let again = injection(&review(patched), &settings(), "other").unwrap();
        assert_eq!(again.review["response"], json!({"uid": "u1", "allowed": true}));
    }

    #[test]
    fn what_is_not_a_new_pod_passes_as_it_is() {
        let skipped = |body: Vec<u8>| {
            let answer = injection(&body, &settings(), "t").unwrap();
            assert_eq!(answer.review["response"], json!({"uid": "u1", "allowed": true}));
            matches!(answer.outcome, Outcome::Skipped(_))
        };
        let mut host = pod();
        host["spec"]["hostNetwork"] = json!(true);
        assert!(skipped(review(host)));
        assert!(skipped(review(json!({"kind": "Deployment"}))));
        let text = String::from_utf8(review(pod())).unwrap();
        assert!(skipped(text.replace("CREATE", "UPDATE").into_bytes()));
        assert!(skipped(text.replace("\"shop\"", "\"kube-system\"").into_bytes()));
        let mut odd = pod();
        odd["metadata"]["labels"] = json!({"sidecar.istio.io/inject": "maybe"});
        let answer = injection(&review(odd), &settings(), "t").unwrap();
        assert_eq!(answer.review["response"]["warnings"], json!([format!("no sidecar: {NEITHER}")]));
    }

    #[test]
    fn refusals_say_what_to_do() {
        let mut bad = pod();
        bad["metadata"]["annotations"] = json!({"sidecar.istio.io/logLevel": "loud"});
        let answer = injection(&review(bad), &settings(), "t").unwrap();
        let response = &answer.review["response"];
        assert_eq!(response["allowed"], false);
        let why = response["status"]["message"].as_str().unwrap();
        assert!(
            why.contains("metadata.annotations[sidecar.istio.io/logLevel]") && why.contains("expected"),
            "{why}"
        );
        let bad = json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
            "metadata": {"name": "v", "namespace": "shop"}, "spec": {"hosts": "x"}});
        let answer = validation(&review(bad)).unwrap();
        assert_eq!(answer.review["response"]["allowed"], false);
        assert!(answer.review["response"]["status"]["message"].as_str().unwrap().contains("spec.hosts"));
    }

    /// What somebody else's pod is refused for, or warned of, fills no log and no answer; what was expected is still in it.
    #[test]
    fn c9_what_is_said_of_a_pod_is_short() {
        let mut bad = pod();
        bad["metadata"]["annotations"] = json!({"sidecar.istio.io/userVolume": "\u{e9}".repeat(150_000)});
        let answer = injection(&review(bad), &settings(), "t").unwrap();
        let why = answer.review["response"]["status"]["message"].as_str().unwrap();
        assert!(why.len() < 1000 && why.contains("expected JSON"), "{}: {why}", why.len());
        assert!(matches!(&answer.outcome, Outcome::Refused(told) if told == why));
        let mut odd = pod();
        odd["metadata"]["name"] = json!("n".repeat(100_000));
        odd["metadata"]["annotations"] =
            (0..5000).map(|index| (format!("sidecar.istio.io/{index}"), json!("x"))).collect();
        let answer = injection(&review(odd), &settings(), "t").unwrap();
        assert_eq!(answer.review["response"]["warnings"].as_array().unwrap().len(), 32);
        assert!(answer.subject.len() < 1000);
    }

    /// The API server's `oldObject` decides: only a label differs.
    #[test]
    fn an_object_that_was_there_may_be_labelled() {
        let filter = |labels: Value| {
            json!({"apiVersion": "networking.istio.io/v1alpha3", "kind": "EnvoyFilter",
                "metadata": {"name": "f", "namespace": "shop", "labels": labels}, "spec": {}})
        };
        let mut review: Value = serde_json::from_slice(&review(filter(json!({"a": "b"})))).unwrap();
        review["request"]["operation"] = json!("UPDATE");
        let ask =
            |review: &Value| validation(review.to_string().as_bytes()).unwrap().review["response"].clone();
        assert_eq!(ask(&review)["allowed"], false);
        review["request"]["oldObject"] = filter(json!({}));
        let response = ask(&review);
        assert_eq!((&response["allowed"], response["warnings"].as_array().unwrap().len()), (&json!(true), 1));
    }

    #[test]
    fn what_is_no_question() {
        for body in [
            "",
            "{",
            "{}",
            "[]",
            r#"{"apiVersion":"admission.k8s.io/v1beta1","request":{"uid":"u"}}"#,
            r#"{"apiVersion":"admission.k8s.io/v1"}"#,
        ] {
            assert!(injection(body.as_bytes(), &settings(), "t").is_err(), "{body}");
            assert!(validation(body.as_bytes()).is_err(), "{body}");
        }
    }
}
