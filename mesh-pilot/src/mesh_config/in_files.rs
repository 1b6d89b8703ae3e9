//! MeshConfig of a mesh of files: the ConfigMap `istio` of `istio-system` among them, as Istio has it on Kubernetes.
//!
//! In: an object. Out: what proxies are told, and what is wrong or without effect in it, at its place in the file.

use mesh_proto::crd::{Object, Problem, Resource, Severity};

use super::{Told, parse};
use crate::snapshot::MeshOptions;

/// What an object says of the whole mesh; `None`: it is another object. Without options it cannot be used: what was in force
/// before stays.
#[must_use]
pub fn said(resource: &Resource) -> Option<(Option<MeshOptions>, Vec<Problem>)> {
    let Object::ConfigMap(map) = &resource.object else { return None };
    let problem = |told: Told| Problem {
        file: resource.origin.file.clone(),
        position: resource.origin.places.of("data.mesh").key,
        object: Some(resource.reference.clone()),
        path: if told.path.is_empty() { "data.mesh".to_owned() } else { format!("data.mesh: {}", told.path) },
        message: told.message,
        expected: String::new(),
        severity: if told.is_error { Severity::Error } else { Severity::Warning },
    };
    Some(match read(map.mesh_config()?) {
        Ok((options, told)) => (Some(options), told.into_iter().map(problem).collect()),
        Err(wrong) => (None, vec![problem(wrong)]),
    })
}

/// Identities and scopes are no matter of configuration there.
fn read(text: &str) -> Result<(MeshOptions, Vec<Told>), Told> {
    let (config, mut told) = parse(text)?;
    let fixed = [
        ("trustDomain", &config.trust_domain, "cluster.local"),
        ("rootNamespace", &config.root_namespace, "istio-system"),
    ];
    for (path, said, is) in fixed {
        if said.as_ref().is_some_and(|said| said != is) {
            let message = format!("has no effect in a mesh of files: it is {is} there");
            told.push(Told { path: path.to_owned(), message, is_error: false });
        }
    }
    Ok((config.options, told))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mesh_proto::crd::{Document, parse};

    use super::*;

    fn of(name: &str, mesh: &str) -> Option<(Option<MeshOptions>, Vec<String>)> {
        let text = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{{name}}}\ndata:\n  mesh: |\n    {}\n",
            mesh.replace('\n', "\n    ")
        );
        let documents = parse("a.yaml", &text);
        let [Document::Accepted(resource)] = &documents[..] else { panic!("{documents:?}") };
        let (options, problems) = said(resource)?;
        Some((options, problems.iter().map(ToString::to_string).collect()))
    }

    #[test]
    fn one_config_map_says_it() {
        let (options, told) =
            of("name: istio, namespace: istio-system", "trustDomain: td\nconnectTimeout: 3s").unwrap();
        assert_eq!(options.unwrap().connect_timeout, Some(Duration::from_secs(3)));
        let line = "a.yaml:5:3: warning: ConfigMap istio-system/istio: data.mesh: trustDomain: has no effect in a mesh of files: it is cluster.local there";
        assert_eq!(told, [line]);
        let (options, told) = of("name: istio, namespace: istio-system", "connectTimeout: soon").unwrap();
        assert!(
            options.is_none() && told[0].contains("error") && told[0].contains("connectTimeout"),
            "{told:?}"
        );
        assert_eq!(of("name: istio", "connectTimeout: 3s"), None);
        assert_eq!(of("name: other, namespace: istio-system", "connectTimeout: 3s"), None);
    }
}
