//! The environment of an application: what Kubernetes gives a container, and where its sidecar is. Pure.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};

use mesh_proto::crd::Labels;

use super::context::ServiceAddress;
use super::plan::{Container, Env, EnvValue};

/// A pod, as its containers see it.
#[derive(Debug, Clone)]
pub struct Pod<'a> {
    pub name: &'a str,
    pub namespace: &'a str,
    pub uid: &'a str,
    pub workload: &'a str,
    pub account: &'a str,
    pub ip: Ipv4Addr,
    pub labels: &'a Labels,
    pub annotations: &'a Labels,
    /// Where nothing is captured.
    pub http_proxy: Option<SocketAddrV4>,
}

/// The variables of a container; `targets` is where it should serve each of its ports.
///
/// # Errors
/// When it refers to a field that a pod does not have.
pub fn environment(
    pod: &Pod<'_>,
    container: &Container,
    targets: &[(u16, SocketAddrV4)],
    services: &[ServiceAddress],
) -> anyhow::Result<Vec<(String, String)>> {
    let mut all = BTreeMap::new();
    let mut set = |name: String, value: String| drop(all.insert(name, value));
    for (index, (port, at)) in targets.iter().enumerate() {
        if index == 0 {
            set("PORT".to_owned(), at.port().to_string());
        }
        set(format!("PORT_{port}"), at.port().to_string());
    }
    if let Some(proxy) = pod.http_proxy {
        for name in ["HTTP_PROXY", "http_proxy"] {
            set(name.to_owned(), format!("http://{proxy}"));
        }
        for name in ["NO_PROXY", "no_proxy"] {
            set(name.to_owned(), "localhost,127.0.0.1,::1".to_owned());
        }
    }
    for (name, value) in [
        ("POD_NAME", pod.name.to_owned()),
        ("POD_NAMESPACE", pod.namespace.to_owned()),
        ("POD_UID", pod.uid.to_owned()),
        ("POD_IP", pod.ip.to_string()),
        ("SERVICE_ACCOUNT", pod.account.to_owned()),
        ("WORKLOAD", pod.workload.to_owned()),
        ("HOSTNAME", pod.name.to_owned()),
        ("VERSION", pod.labels.get("version").cloned().unwrap_or_default()),
    ] {
        set(name.to_owned(), value);
    }
    // As in Kubernetes: the services of the pod's own namespace.
    for service in services.iter().filter(|s| s.namespace == pod.namespace) {
        let prefix = variable(&service.name);
        set(format!("{prefix}_SERVICE_HOST"), service.address.to_string());
        for (index, (name, port)) in service.ports.iter().enumerate() {
            if index == 0 {
                set(format!("{prefix}_SERVICE_PORT"), port.to_string());
            }
            if !name.is_empty() {
                set(format!("{prefix}_SERVICE_PORT_{}", variable(name)), port.to_string());
            }
        }
    }
    for Env { name, value } in &container.env {
        let value = match value {
            EnvValue::Text(text) => expand(text, &all),
            EnvValue::Field(path) => field(pod, path)?,
        };
        all.insert(name.clone(), value);
    }
    Ok(all.into_iter().collect())
}

/// `$(NAME)` becomes the variable's value, `$$(NAME)` stays `$(NAME)`, an unknown name stays as it is (as in Kubernetes).
#[must_use]
pub fn expand(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|r| r.split_once(')')) {
            match variables.get(name) {
                Some(value) => out.push_str(value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

fn variable(name: &str) -> String {
    name.to_ascii_uppercase().replace(['-', '.'], "_")
}

fn field(pod: &Pod<'_>, path: &str) -> anyhow::Result<String> {
    let keyed = |prefix: &str| path.strip_prefix(prefix)?.strip_prefix("['")?.strip_suffix("']");
    if let Some(key) = keyed("metadata.labels") {
        return Ok(pod.labels.get(key).cloned().unwrap_or_default());
    }
    if let Some(key) = keyed("metadata.annotations") {
        return Ok(pod.annotations.get(key).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => pod.name.to_owned(),
        "metadata.namespace" => pod.namespace.to_owned(),
        "metadata.uid" => pod.uid.to_owned(),
        "spec.serviceAccountName" => pod.account.to_owned(),
        "status.podIP" | "status.podIPs" => pod.ip.to_string(),
        "spec.nodeName" => "localhost".to_owned(),
        "status.hostIP" | "status.hostIPs" => Ipv4Addr::LOCALHOST.to_string(),
        _ => anyhow::bail!("fieldPath {path:?} is none that a pod has here"),
    })
}

#[cfg(test)]
mod tests {
    use super::super::plan::{Port, Run};
    use super::*;

    #[test]
    fn an_application_learns_its_ports_its_proxy_and_its_services() {
        let env = |name: &str, value| Env { name: name.to_owned(), value };
        let container = Container {
            name: "c".to_owned(),
            image: "i".to_owned(),
            run: Run::StandIn,
            directory: None,
            env: vec![
                env(
                    "URL",
                    EnvValue::Text(
                        "http://$(REVIEWS_SERVICE_HOST):$(REVIEWS_SERVICE_PORT)/$$(x)$(NO)".to_owned(),
                    ),
                ),
                env("ME", EnvValue::Field("metadata.name".to_owned())),
                env("V", EnvValue::Field("metadata.labels['version']".to_owned())),
            ],
            ports: vec![Port { name: None, number: 8080 }],
            probe: None,
        };
        let labels = Labels::from([("version".to_owned(), "v2".to_owned())]);
        let annotations = Labels::new();
        let ip = Ipv4Addr::new(127, 9, 4, 1);
        let pod = Pod {
            name: "a-0",
            namespace: "default",
            uid: "u",
            workload: "a",
            account: "a",
            ip,
            labels: &labels,
            annotations: &annotations,
            http_proxy: Some(SocketAddrV4::new(ip, 15001)),
        };
        let service = |name: &str, namespace: &str| ServiceAddress {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            address: Ipv4Addr::new(127, 9, 4, 7),
            ports: vec![("http".to_owned(), 9080)],
        };
        let targets = [(8080, "127.0.0.1:34567".parse().unwrap()), (9, "127.0.0.1:4".parse().unwrap())];
        let all = environment(
            &pod,
            &container,
            &targets,
            &[service("reviews", "default"), service("far", "other")],
        );
        let all: BTreeMap<String, String> = all.unwrap().into_iter().collect();
        let of = |name: &str| all.get(name).map(String::as_str);
        assert_eq!(of("PORT"), Some("34567"));
        assert_eq!(of("PORT_9"), Some("4"));
        assert_eq!(of("HTTP_PROXY"), Some("http://127.9.4.1:15001"));
        assert_eq!(of("URL"), Some("http://127.9.4.7:9080/$(x)$(NO)"));
        assert_eq!(of("REVIEWS_SERVICE_PORT_HTTP"), Some("9080"));
        assert_eq!(of("FAR_SERVICE_HOST"), None);
        assert_eq!((of("ME"), of("V")), (Some("a-0"), Some("v2")));
        assert!(field(&pod, "spec.nonsense").is_err());
    }
}
