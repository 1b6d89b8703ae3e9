//! Files with sidecars: what `meshctl inject` does. In: YAML or JSON with any number of documents. Out: the same documents,
//! pods and workloads with their sidecars, everything else as it was.

use mesh_proto::crd::Position;
use mesh_proto::crd::yaml::{self, Tree};
use serde_json::Value;

use super::{InjectError, inject, template_of};
use crate::webhook::decide::{Decision, decide};
use crate::webhook::settings::Settings;

/// A finding with its place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{}:{}: {severity}: {message}", position.line, position.column)]
pub struct Told {
    /// The file.
    pub file: String,
    /// Where.
    pub position: Position,
    /// `error` or `warning`.
    pub severity: &'static str,
    /// What.
    pub message: String,
}

/// The documents of `text`, injected, and what is to be said. An error is one document's; the others are done.
///
/// # Errors
/// Everything that is wrong: then nothing should be applied.
pub fn inject_file(
    file: &str,
    text: &str,
    settings: &Settings,
    mut token: impl FnMut() -> String,
) -> Result<(Vec<Value>, Vec<Told>), Vec<Told>> {
    let told =
        |position, severity, message: String| Told { file: file.to_owned(), position, severity, message };
    let (mut documents, mut warnings, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    if text.len() > yaml::MAX_BYTES {
        return Err(vec![told(Position::default(), "error", format!("more than {} bytes", yaml::MAX_BYTES))]);
    }
    for chunk in yaml::split(text) {
        let mut tree = match yaml::read(chunk) {
            Ok(Some(tree)) => tree,
            Ok(None) => continue,
            Err(error) => {
                errors.push(told(error.position, "error", error.message));
                continue;
            }
        };
        let mut value = std::mem::take(&mut tree.value);
        let mut notes = Vec::new();
        for (at, path) in objects(&value) {
            let Some(object) = value.pointer_mut(&at) else { continue };
            match inject_object(object, settings, &mut token) {
                Ok(more) => notes.extend(more.into_iter().map(|note| (path.clone(), note))),
                Err(error) => {
                    let place = position(&tree, &join(&path, &error.path));
                    errors.push(told(place, "error", format!("{}: {}", join(&path, &error.path), error.why)));
                }
            }
        }
        warnings.extend(notes.into_iter().map(|(path, note)| told(position(&tree, &path), "warning", note)));
        documents.push(value);
    }
    if errors.is_empty() { Ok((documents, warnings)) } else { Err(errors) }
}

/// The objects of a document, by JSON pointer and by path: itself, or the items of a list.
fn objects(value: &Value) -> Vec<(String, String)> {
    let is_list = value["kind"].as_str().is_some_and(|kind| kind.ends_with("List"));
    match value["items"].as_array().filter(|_| is_list) {
        Some(items) => (0..items.len()).map(|i| (format!("/items/{i}"), format!("items[{i}]"))).collect(),
        None => vec![(String::new(), String::new())],
    }
}

fn inject_object(
    object: &mut Value,
    settings: &Settings,
    token: &mut impl FnMut() -> String,
) -> Result<Vec<String>, InjectError> {
    let kind = object["kind"].as_str().unwrap_or_default().to_owned();
    let Some(pointer) = template_of(&kind) else { return Ok(Vec::new()) };
    let text = |name: &str| object["metadata"][name].as_str().map(str::to_owned);
    let (name, namespace) = (text("name"), text("namespace").unwrap_or_else(|| "default".into()));
    let at = pointer.trim_start_matches('/').replace('/', ".");
    let Some(pod) = object.pointer_mut(pointer).filter(|pod| pod["spec"].is_object()) else {
        return Err(InjectError {
            path: join(&at, "spec"),
            why: "is missing: there is no pod to inject".into(),
        });
    };
    if let Decision::Skip(why) = decide(pod, &namespace, None, settings) {
        return Ok(vec![format!("{kind} {}: no sidecar: {why}", name.unwrap_or_default())]);
    }
    let done = inject(pod, name.as_deref(), settings, &token())
        .map_err(|error| InjectError { path: join(&at, &error.path), ..error })?;
    *pod = done.object;
    Ok(done.warnings)
}

fn join(left: &str, right: &str) -> String {
    match (left, right) {
        ("", other) | (other, "") => other.to_owned(),
        (left, right) => format!("{left}.{right}"),
    }
}

/// Of the field, or of the nearest one around it.
fn position(tree: &Tree, path: &str) -> Position {
    let mut path = path;
    loop {
        if let Some(place) = tree.places.get(path) {
            return place.value;
        }
        match path.rfind(['.', '[']) {
            Some(end) => path = &path[..end],
            None => return tree.places.get("").map(|place| place.value).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::webhook::ControlPlane;

    fn run(text: &str) -> Result<(Vec<Value>, Vec<String>), Vec<String>> {
        let settings = Settings::read(&json!({}), &json!({}), ControlPlane::default()).unwrap();
        let texts = |all: Vec<Told>| all.iter().map(ToString::to_string).collect::<Vec<_>>();
        let done = inject_file("a.yaml", text, &settings, || "t".to_owned());
        done.map(|(documents, told)| (documents, texts(told))).map_err(texts)
    }

    const TEMPLATE: &str =
        "template: {metadata: {labels: {app: a}}, spec: {containers: [{name: c, image: i}]}}";

    #[test]
    fn workloads_get_it_and_other_kinds_stay() {
        let text = format!(
            "# a comment\nkind: Service\nmetadata: {{name: s}}\n---\nkind: Deployment\nmetadata: {{name: d}}\nspec: {{replicas: 2, \
             {TEMPLATE}}}\n---\nkind: CronJob\nmetadata: {{name: j}}\nspec: {{jobTemplate: {{spec: {{{TEMPLATE}}}}}}}\n---\n\
             kind: List\nitems:\n- {{kind: ConfigMap, metadata: {{name: m}}}}\n- {{kind: StatefulSet, metadata: {{name: t}}, \
             spec: {{{TEMPLATE}}}}}\n"
        );
        let (documents, told) = run(&text).unwrap();
        assert!(told.is_empty(), "{told:?}");
        assert_eq!(documents[0], json!({"kind": "Service", "metadata": {"name": "s"}}));
        let proxy = |pod: &Value| pod["spec"]["initContainers"][1]["name"].clone();
        assert_eq!(proxy(&documents[1]["spec"]["template"]), "istio-proxy");
        assert_eq!(documents[1]["spec"]["replicas"], 2);
        assert_eq!(proxy(&documents[2]["spec"]["jobTemplate"]["spec"]["template"]), "istio-proxy");
        assert_eq!(documents[3]["items"][0], json!({"kind": "ConfigMap", "metadata": {"name": "m"}}));
        assert_eq!(proxy(&documents[3]["items"][1]["spec"]["template"]), "istio-proxy");
    }

    #[test]
    fn errors_say_where() {
        let text = "kind: Pod\nmetadata:\n  name: a\n  annotations:\n    sidecar.istio.io/logLevel: loud\nspec: {containers: []}\n---\n\
                    kind: Deployment\nmetadata: {name: d}\nspec:\n  replicas: 1\n---\na: [\n";
        let errors = run(text).unwrap_err();
        assert_eq!(errors.len(), 3, "{errors:?}");
        assert!(errors[0].starts_with("a.yaml:4:") || errors[0].starts_with("a.yaml:5:"), "{errors:?}");
        assert!(
            errors[0].contains("error: metadata.annotations[sidecar.istio.io/logLevel]: \"loud\""),
            "{errors:?}"
        );
        assert!(
            errors[1].starts_with("a.yaml:1") && errors[1].contains("spec.template.spec: is missing"),
            "{errors:?}"
        );
        assert!(errors[2].contains("not YAML"), "{errors:?}");
    }

    #[test]
    fn what_gets_none_is_said() {
        let text = "kind: Pod\nmetadata: {name: a, namespace: kube-system}\nspec: {containers: []}\n";
        let (documents, told) = run(text).unwrap();
        assert_eq!(documents[0]["spec"], json!({"containers": []}));
        assert_eq!(told, ["a.yaml:1:1: warning: Pod a: no sidecar: a namespace of the cluster itself"]);
    }
}
