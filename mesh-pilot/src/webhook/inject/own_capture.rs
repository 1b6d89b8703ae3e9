//! Where a sidecar cannot program its rules of capture itself, though it is asked to. In: the pod's spec, the user's own
//! `istio-proxy`, wishes. Out: why not; then `istio-init` does it, as everywhere else.

use serde_json::{Map, Value};

use super::PROXY;
use super::wishes::Wishes;

/// What is the sidecar's alone where it starts as root, has to be told the rules, and has to be waited for: what runs in its
/// container runs as root, and what holds the application holds it until the rules are in force.
const OWN: [&str; 9] = [
    "command",
    "args",
    "securityContext",
    "lifecycle",
    "startupProbe",
    "livenessProbe",
    "readinessProbe",
    "restartPolicy",
    "envFrom",
];
/// Where programs and what they load are: a volume over them would be run as root.
const PROGRAMS: [&str; 7] = ["/bin", "/etc", "/lib", "/lib64", "/proc", "/sbin", "/usr"];

/// What stands in the way.
pub fn obstacle(
    spec: &Map<String, Value>,
    over: Option<&Map<String, Value>>,
    wishes: &Wishes,
) -> Option<String> {
    if !wishes.native {
        // A postStart hook that fails, or an image that does not come, holds nothing: the kubelet goes on to the next
        // container, whose traffic would be nobody's. After an init container that fails it starts no other.
        return Some(
            "a classic sidecar's failure does not keep the application from starting, which would be without rules then"
                .to_owned(),
        );
    }
    // Also if it says null, which would take ours away.
    let own = OWN.iter().find(|field| over.is_some_and(|over| over.contains_key(**field)));
    if let Some(field) = own {
        return Some(format!("the pod's own container {PROXY} has another {field}"));
    }
    if let Some(name) = over.and_then(loader) {
        return Some(format!("the pod's own container {PROXY} sets {name}, by which a program loads others"));
    }
    let mounts = over.and_then(|over| over.get("volumeMounts")?.as_array()).into_iter().flatten();
    if let Some(path) = mounts.chain(&wishes.mounts).find_map(over_programs) {
        return Some(format!("a volume of the pod's is mounted over the sidecar's programs, at {path}"));
    }
    // The kubelet gives the token to the group, which is root's, and the sidecar leaves that.
    if spec.get("securityContext").is_some_and(|context| context["fsGroup"].as_i64() == Some(0)) {
        return Some(
            "securityContext.fsGroup is 0: the sidecar's token would be for root and its group alone"
                .to_owned(),
        );
    }
    only_roots(spec).then(|| {
        "all containers run as root by name, so that the kubelet would give the sidecar's token to root alone; \
         set securityContext.fsGroup, or leave runAsUser out where it is the image's own"
            .to_owned()
    })
}

/// A variable of the user's that says what is run: ld.so(8), and where programs are looked for.
fn loader(over: &Map<String, Value>) -> Option<&str> {
    let variables = over.get("env")?.as_array()?.iter();
    let mut names = variables.filter_map(|variable| variable["name"].as_str());
    names.find(|name| name.starts_with("LD_") || *name == "PATH" || *name == "GCONV_PATH")
}

fn over_programs(mount: &Value) -> Option<&str> {
    let path = mount["mountPath"].as_str()?;
    let clean = format!(
        "/{}",
        path.split('/').filter(|part| !matches!(*part, "" | ".")).collect::<Vec<_>>().join("/")
    );
    let within = |of: &str| clean == of || clean.strip_prefix(of).is_some_and(|rest| rest.starts_with('/'));
    // The kernel would take `..` by another way.
    (clean == "/" || path.contains("..") || PROGRAMS.iter().any(|of| within(of))).then_some(path)
}

/// A projected token is readable by everybody, except where there is an `fsGroup` (its group reads it), or where all
/// containers run as the same user by name: then that one alone reads it (KEP-1205). The sidecar would be one more root.
fn only_roots(spec: &Map<String, Value>) -> bool {
    let of_pod = spec.get("securityContext");
    if of_pod.is_some_and(|context| context["fsGroup"].as_i64().is_some()) {
        return false;
    }
    let user = |container: &Value| {
        let own = container["securityContext"]["runAsUser"].as_i64();
        own.or_else(|| of_pod?["runAsUser"].as_i64())
    };
    let lists = ["initContainers", "containers"].map(|list| spec.get(list).and_then(Value::as_array));
    lists.into_iter().flatten().flatten().all(|container| user(container) == Some(0))
}
