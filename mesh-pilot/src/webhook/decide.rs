//! Whether a pod gets a sidecar. In: the pod, its namespace's labels, the settings. Out: yes, or why not.
//!
//! The rules are Istio's: a pod's label comes before its annotation and before the namespace's labels; `istio-injection`
//! comes before `istio.io/rev`. What runs the cluster or the mesh itself is never touched: a webhook that is away must not
//! keep it from starting. Beside the control plane, pods that ask for it by a label get one (Istio's gateways are such).

use serde_json::{Map, Value};

use super::settings::Settings;

/// Namespaces whose pods the cluster itself needs.
pub const SYSTEM: [&str; 4] = ["kube-system", "kube-public", "kube-node-lease", "local-path-storage"];
/// The control plane's own applications.
const OWN: [&str; 2] = ["mesh-pilot", "mesh-ca"];

/// As in Istio, that is no; unlike there, somebody is told.
pub const NEITHER: &str = "its sidecar.istio.io/inject is neither true nor false, which counts as false";

/// Yes, or why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It gets one.
    Inject,
    /// It gets none, because.
    Skip(&'static str),
}

/// Decides. `namespace_labels`: `None` where somebody else has looked at them (the webhook's selectors, or a person who
/// runs `meshctl inject`).
#[must_use]
pub fn decide(
    pod: &Value,
    namespace: &str,
    namespace_labels: Option<&Map<String, Value>>,
    settings: &Settings,
) -> Decision {
    let labels = map(pod, "/metadata/labels");
    let annotations = map(pod, "/metadata/annotations");
    if SYSTEM.contains(&namespace) {
        return Decision::Skip("a namespace of the cluster itself");
    }
    let node = pod.pointer("/spec/os/name").or_else(|| pod.pointer("/spec/nodeSelector/kubernetes.io~1os"));
    if node.is_some_and(|os| os == "windows") {
        return Decision::Skip("its containers run on Windows");
    }
    if pod.pointer("/spec/hostNetwork").and_then(Value::as_bool) == Some(true) {
        return Decision::Skip("it shares the node's network");
    }
    let app = text(&labels, "app").or_else(|| text(&labels, "app.kubernetes.io/name"));
    if namespace == settings.control_plane.namespace && app.is_some_and(|app| OWN.contains(&app)) {
        return Decision::Skip("it is the control plane's own");
    }
    let wish = text(&labels, INJECT).or_else(|| text(&annotations, INJECT)).filter(|w| !w.is_empty());
    if namespace == settings.control_plane.namespace && !asks_by_label(&labels, settings) {
        return Decision::Skip(NOT_ASKED);
    }
    match wish.map(is_yes) {
        Some(false) if !wish.is_some_and(is_no) => return Decision::Skip(NEITHER),
        Some(false) => return Decision::Skip("it says sidecar.istio.io/inject: false"),
        Some(true) => return revision_of_pod(&labels, namespace_labels, settings),
        None => {}
    }
    if settings.never.iter().any(|selector| selects(selector, &labels)) {
        return Decision::Skip("a neverInjectSelector matches it");
    }
    if settings.always.iter().any(|selector| selects(selector, &labels)) {
        return Decision::Inject;
    }
    match namespace_labels {
        None => Decision::Inject,
        Some(of_namespace) => by_namespace(&labels, of_namespace, settings),
    }
}

/// What the chart's webhooks hear of in the control plane's own namespace, where no namespace's wish counts.
fn asks_by_label(labels: &Map<String, Value>, settings: &Settings) -> bool {
    match text(labels, REVISION) {
        Some(named) => named == settings.control_plane.revision,
        None => text(labels, INJECT) == Some("true"),
    }
}

const NOT_ASKED: &str =
    "in the control plane's namespace a pod asks for itself, by the label sidecar.istio.io/inject: \"true\"";
const INJECT: &str = "sidecar.istio.io/inject";
const INJECTION: &str = "istio-injection";
const REVISION: &str = "istio.io/rev";

/// The pod wants one: whose is it?
fn revision_of_pod(
    labels: &Map<String, Value>,
    namespace_labels: Option<&Map<String, Value>>,
    settings: &Settings,
) -> Decision {
    let Some(of_namespace) = namespace_labels else { return Decision::Inject };
    match text(of_namespace, INJECTION) {
        Some("disabled") => return Decision::Skip("its namespace says istio-injection: disabled"),
        Some("enabled") => return revision("default", settings),
        _ => {}
    }
    let named = text(of_namespace, REVISION).or_else(|| text(labels, REVISION));
    revision(named.unwrap_or("default"), settings)
}

fn by_namespace(
    labels: &Map<String, Value>,
    of_namespace: &Map<String, Value>,
    settings: &Settings,
) -> Decision {
    match (text(of_namespace, INJECTION), text(of_namespace, REVISION)) {
        (Some("enabled"), _) => revision("default", settings),
        (Some(_), _) => Decision::Skip("its namespace says istio-injection: disabled"),
        (None, Some(named)) => revision(named, settings),
        (None, None) => match text(labels, REVISION) {
            Some(named) => revision(named, settings),
            None if settings.by_default => revision("default", settings),
            None => Decision::Skip("neither it nor its namespace asks for injection"),
        },
    }
}

fn revision(named: &str, settings: &Settings) -> Decision {
    if named == settings.control_plane.revision {
        Decision::Inject
    } else {
        Decision::Skip("it belongs to another revision of the control plane")
    }
}

fn is_yes(text: &str) -> bool {
    ["true", "y", "yes", "on"].iter().any(|yes| text.eq_ignore_ascii_case(yes))
}

fn is_no(text: &str) -> bool {
    ["false", "n", "no", "off"].iter().any(|no| text.eq_ignore_ascii_case(no))
}

fn map(value: &Value, pointer: &str) -> Map<String, Value> {
    value.pointer(pointer).and_then(Value::as_object).cloned().unwrap_or_default()
}

fn text<'a>(map: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    map.get(name).and_then(Value::as_str)
}

/// A Kubernetes label selector. One that is empty or cannot be read selects nothing: here it would be everything.
fn selects(selector: &Value, labels: &Map<String, Value>) -> bool {
    let equal = selector.get("matchLabels").and_then(Value::as_object);
    let rules = selector.get("matchExpressions").and_then(Value::as_array);
    if equal.is_none_or(Map::is_empty) && rules.is_none_or(Vec::is_empty) {
        return false;
    }
    let holds = |rule: &Value| {
        let key = rule.get("key").and_then(Value::as_str).unwrap_or_default();
        let value = labels.get(key);
        let among = || {
            let values = rule.get("values").and_then(Value::as_array);
            value.is_some_and(|value| values.is_some_and(|values| values.contains(value)))
        };
        match rule.get("operator").and_then(Value::as_str) {
            Some("In") => among(),
            Some("NotIn") => !among(),
            Some("Exists") => value.is_some(),
            Some("DoesNotExist") => value.is_none(),
            _ => false,
        }
    };
    equal.into_iter().flatten().all(|(name, value)| labels.get(name) == Some(value))
        && rules.into_iter().flatten().all(holds)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::webhook::ControlPlane;

    fn settings(values: Value) -> Settings {
        Settings::read(&values, &json!({}), ControlPlane::default()).unwrap()
    }

    fn pod(labels: Value) -> Value {
        json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "app"}]}})
    }

    fn decided(pod: &Value, namespace: Value) -> bool {
        let labels = namespace.as_object().cloned();
        decide(pod, "shop", labels.as_ref(), &settings(json!({}))) == Decision::Inject
    }

    #[test]
    fn the_namespace_asks() {
        let plain = pod(json!({}));
        assert!(decided(&plain, json!({"istio-injection": "enabled"})));
        assert!(decided(&plain, json!({"istio.io/rev": "default"})));
        assert!(!decided(&plain, json!({})));
        assert!(!decided(&plain, json!({"istio-injection": "disabled"})));
        assert!(!decided(&plain, json!({"istio.io/rev": "canary"})));
        assert!(decided(&plain, json!({"istio-injection": "enabled", "istio.io/rev": "canary"})));
        assert!(decided(&plain, Value::Null), "somebody else has looked at the namespace");
    }

    #[test]
    fn the_pod_asks_and_its_label_comes_first() {
        let yes = pod(json!({"sidecar.istio.io/inject": "true"}));
        assert!(decided(&yes, json!({})));
        assert!(!decided(&yes, json!({"istio-injection": "disabled"})));
        assert!(!decided(&yes, json!({"istio.io/rev": "canary"})));
        let no = pod(json!({"sidecar.istio.io/inject": "false"}));
        assert!(!decided(&no, json!({"istio-injection": "enabled"})));
        let mut both = no;
        both["metadata"]["annotations"] = json!({"sidecar.istio.io/inject": "true"});
        assert!(!decided(&both, json!({"istio-injection": "enabled"})));
        let canary = pod(json!({"istio.io/rev": "canary", "sidecar.istio.io/inject": "true"}));
        assert!(!decided(&canary, json!({})));
        assert!(decided(&pod(json!({"istio.io/rev": "default"})), json!({})));
    }

    #[test]
    fn what_runs_the_cluster_is_never_touched() {
        let asks = pod(json!({"sidecar.istio.io/inject": "true"}));
        for namespace in SYSTEM {
            assert!(matches!(decide(&asks, namespace, None, &settings(json!({}))), Decision::Skip(_)));
        }
        let mut host = asks;
        host["spec"]["hostNetwork"] = json!(true);
        assert!(matches!(decide(&host, "shop", None, &settings(json!({}))), Decision::Skip(_)));
        for app in OWN {
            let own = pod(json!({"app": app, "sidecar.istio.io/inject": "true"}));
            assert!(matches!(decide(&own, "istio-system", None, &settings(json!({}))), Decision::Skip(_)));
            assert_eq!(decide(&own, "shop", None, &settings(json!({}))), Decision::Inject);
        }
    }

    #[test]
    fn a_wish_that_is_none_counts_as_no_and_is_called_by_its_name() {
        let namespace = json!({"istio-injection": "enabled"});
        let of = |wish: &str| {
            let pod = pod(json!({INJECT: wish}));
            decide(&pod, "shop", namespace.as_object(), &settings(json!({})))
        };
        assert_eq!(of("maybe"), Decision::Skip(NEITHER));
        for no in ["false", "False", "no", "off", "n"] {
            assert_eq!(of(no), Decision::Skip("it says sidecar.istio.io/inject: false"), "{no}");
        }
        assert_eq!(of("Yes"), Decision::Inject);
    }

    #[test]
    fn windows_has_no_sidecars() {
        for spec in
            [json!({"os": {"name": "windows"}}), json!({"nodeSelector": {"kubernetes.io/os": "windows"}})]
        {
            let pod = json!({"metadata": {"labels": {INJECT: "true"}}, "spec": spec});
            assert_eq!(
                decide(&pod, "shop", None, &settings(json!({}))),
                Decision::Skip("its containers run on Windows")
            );
        }
    }

    /// The chart's webhooks and `meshctl inject` agree there.
    #[test]
    fn beside_the_control_plane_a_pod_asks_for_itself() {
        let of = |pod: &Value| decide(pod, "istio-system", None, &settings(json!({})));
        let asks = pod(json!({"app": "istio-ingressgateway", "sidecar.istio.io/inject": "true"}));
        assert_eq!(of(&asks), Decision::Inject);
        assert_eq!(of(&pod(json!({"app": "kiali", "istio.io/rev": "default"}))), Decision::Inject);
        let mut annotated = pod(json!({"app": "kiali"}));
        assert_eq!(of(&annotated), Decision::Skip(NOT_ASKED));
        annotated["metadata"]["annotations"] = json!({"sidecar.istio.io/inject": "true"});
        assert_eq!(of(&annotated), Decision::Skip(NOT_ASKED), "no webhook selects by annotations");
        let canary = pod(json!({"istio.io/rev": "canary", "sidecar.istio.io/inject": "true"}));
        assert_eq!(of(&canary), Decision::Skip(NOT_ASKED));
    }

    #[test]
    fn selectors_of_the_chart() {
        let values = json!({"sidecarInjectorWebhook": {
            "neverInjectSelector": [{"matchExpressions": [{"key": "batch", "operator": "Exists"}]}, {}],
            "alwaysInjectSelector": [{"matchLabels": {"mesh": "yes"}}]}});
        let settings = settings(values);
        let of =
            |labels: Value| decide(&pod(labels), "shop", Some(&Map::new()), &settings) == Decision::Inject;
        assert!(!of(json!({"batch": "1", "mesh": "yes"})));
        assert!(of(json!({"mesh": "yes"})));
        assert!(!of(json!({"mesh": "no"})));
        assert!(
            of(json!({"batch": "1", "sidecar.istio.io/inject": "true"})),
            "the pod's own wish comes first"
        );
    }
}
