//! What the injector said of a pod. In: the pod, with the annotation that the injector wrote. Out: its warnings, for people.

use k8s_openapi::api::core::v1::Pod;
use mesh_pilot::webhook::inject::STATUS;
use serde_json::Value;

use super::applies;

/// What the injector found when it made the pod; it said it to a controller. The pod's author may have written it, too.
pub fn warnings(pod: &Pod) -> Vec<String> {
    let annotations = pod.metadata.annotations.as_ref();
    let status = annotations.and_then(|all| serde_json::from_str::<Value>(all.get(STATUS)?).ok());
    let status = status.unwrap_or_default();
    let shown = |text: &str| -> String { text.chars().filter(|c| !c.is_control()).take(300).collect() };
    applies::strings(&status["warnings"]).take(32).map(|text| format!("injection: {}", shown(text))).collect()
}

#[cfg(test)]
mod tests {
    use mesh_pilot::webhook::{ControlPlane, Settings, inject};
    use serde_json::json;

    use super::*;

    /// A Deployment's pods are made by a ReplicaSet, which shows warnings to nobody.
    #[test]
    fn what_the_injector_warned_of_is_shown() {
        let pod = json!({"kind": "Pod", "metadata": {"name": "a", "annotations": {"sidecar.istio.io/bootstrapOverride": "x"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}});
        let settings = Settings::read(&json!({}), &json!({}), ControlPlane::default()).unwrap();
        let injected = inject(&pod, None, &settings, "t").unwrap();
        let made: Pod = serde_json::from_value(injected.object).unwrap();
        let told = warnings(&made);
        assert_eq!(told, ["injection: annotation sidecar.istio.io/bootstrapOverride is not followed"]);
        let mut plain: Pod = serde_json::from_value(pod).unwrap();
        assert!(warnings(&plain).is_empty());
        let forged = json!({"warnings": vec!["\u{1b}[2J".repeat(1000); 100]}).to_string();
        plain.metadata.annotations = Some([(STATUS.to_owned(), forged)].into());
        let told = warnings(&plain);
        assert_eq!(told.len(), 32);
        assert!(told.iter().all(|one| one.len() < 350 && !one.contains('\u{1b}')));
    }
}
