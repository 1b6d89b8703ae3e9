//! AuthorizationPolicy CUSTOM as a user writes it: a provider in the ConfigMap `istio`, asked by HTTP and by gRPC; what is
//! wrong with one is said by status and validate, and denies.

use super::support::{BASE, Mesh, eventually, meshctl, text};

/// The example that the README leads to.
const AUTHORIZER: &str = include_str!("../examples/ext-authz/authorizer.yaml");
const MESH_CONFIG: &str = include_str!("../examples/ext-authz/istio.yaml");
const POLICY: &str = include_str!("../examples/ext-authz/policy.yaml");

fn policy(provider: &str) -> String {
    POLICY.replace("by-http", provider)
}

const DENIED: &str = "denied by ext_authz for not found header `x-ext-authz: allow` in the request";

#[test]
fn somebody_else_decides() {
    let mesh =
        Mesh::up(&[("base.yaml", BASE), ("authorizer.yaml", AUTHORIZER), ("istio.yaml", MESH_CONFIG)], &[]);
    let asked = ["http://web/headers"];
    let allowed = ["http://web/headers", "-H", "x-ext-authz: allow"];
    for provider in ["by-http", "by-grpc"] {
        mesh.write("policy.yaml", &policy(provider));
        eventually(&format!("{provider} is asked by each instance"), || {
            let answers = mesh.request(&[&asked[..], &["-n", "8"]].concat());
            let denied = |answer: &serde_json::Value| answer["status"] == 403 && answer["body"] == DENIED;
            if answers.len() == 8 && answers.iter().all(denied) {
                Ok(())
            } else {
                Err(format!("{answers:?}"))
            }
        });
        let answer = mesh.one(&allowed);
        assert_eq!(answer["status"], 200, "{provider}: {answer}");
        let came = super::support::body(&answer);
        assert_eq!(came["headers"]["x-ext-authz-check-result"], "allowed", "{provider}: {came}");
        assert_eq!(mesh.one(&["http://web/"])["status"], 200, "what no rule matches is not asked about");
        // It is asked with its sidecar's mTLS, and knows whom the request is from.
        let told = &came["headers"]["x-ext-authz-check-received"];
        if provider == "by-grpc" {
            let told = told.as_str().unwrap_or_default();
            assert!(told.contains("spiffe://cluster.local/ns/default/sa/client"), "{told}");
        }
        mesh.status_says("ask");
    }
    // The access log says who denied it.
    let logs = || {
        mesh.must(&["logs", "web-0/sidecar", "--tail", "200"])
            + &mesh.must(&["logs", "web-1/sidecar", "--tail", "200"])
    };
    let line = "UAEX ext_authz_denied{ns[default]-policy[ask]-rule[0]}";
    eventually("the log says so", || if logs().contains(line) { Ok(()) } else { Err(logs()) });

    // Nobody of that name: what the policy matches is denied, and said.
    mesh.write("policy.yaml", &policy("nobody"));
    mesh.status_says(
        "no extensionProvider of MeshConfig is called nobody: what the policy matches is denied",
    );
    mesh.until("denied", &allowed, |answer| answer["status"] == 403);
    assert_eq!(mesh.one(&["http://web/"])["status"], 200);
    // A provider that is away: no answer is a no.
    mesh.write("policy.yaml", &policy("by-http"));
    mesh.until("asked again", &allowed, |answer| answer["status"] == 200);
    mesh.must(&["stop", "ext-authz-0", "--kill"]);
    mesh.until("nobody answers", &allowed, |answer| answer["status"] == 403);
    mesh.must(&["start", "ext-authz-0"]);
    mesh.until("it is back", &allowed, |answer| answer["status"] == 200);
    // MeshConfig changes while everything runs.
    mesh.write("istio.yaml", &MESH_CONFIG.replace("port: 8000\n", "port: 8001\n"));
    mesh.status_says("has no port 8001");
    mesh.until("denied", &allowed, |answer| answer["status"] == 403);
    mesh.delete("policy.yaml");
    mesh.until("open again", &asked, |answer| answer["status"] == 200);
}

#[test]
fn validate_says_what_is_wrong_between_them() {
    let dir = tempfile::tempdir().unwrap();
    let files = |policy: &str, config: &str| {
        let path = dir.path().join("all.yaml");
        std::fs::write(&path, format!("{AUTHORIZER}---\n{config}---\n{policy}")).unwrap();
        text(&meshctl(&["validate", "-f", &path.display().to_string()]))
    };
    let good = files(&policy("by-http"), MESH_CONFIG);
    assert!(good.contains("0 errors, 0 warnings"), "{good}");
    let unknown = files(&policy("nobody"), MESH_CONFIG);
    assert!(unknown.contains("no extensionProvider of MeshConfig is called nobody"), "{unknown}");
    let wrong = files(&policy("by-grpc"), &MESH_CONFIG.replace("port: 9000", "port: 0"));
    assert!(wrong.contains("extensionProviders[1] (by-grpc): envoyExtAuthzGrpc: port 0"), "{wrong}");
    // Without MeshConfig among them, nobody knows who there is.
    let alone = files(&policy("nobody"), "");
    assert!(alone.contains("0 errors, 0 warnings"), "{alone}");
}
