//! What AuthorizationPolicies tell: who denied a request, to the operator and, if the mesh allows it, to the client; what AUDIT
//! and dry runs would have said, in the access log and in the metrics.

use super::support::{BASE, Mesh, body, eventually, raw};

/// A policy of `web`. `more`: what its metadata has beside the name.
fn policy(name: &str, more: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{ name: {name}{more} }}\n\
         spec:\n  selector: {{ matchLabels: {{ app: web }} }}\n{spec}"
    )
}

/// One instance, so that one sidecar has the whole log.
fn mesh() -> Mesh {
    Mesh::up(&[("base.yaml", &BASE.replace("replicas: 2", "replicas: 1"))], &[])
}

/// The log's line of the last request for `path`; each path is asked for once.
fn logged(mesh: &Mesh, path: &str) -> String {
    let asked = format!("\"GET {path} HTTP/1.1\" ");
    eventually(&format!("{path} is in the access log"), || {
        let log = mesh.must(&["logs", "web-0/sidecar", "--tail", "200"]);
        log.lines().find(|line| line.contains(&asked)).map(str::to_owned).ok_or(log)
    })
}

/// Asks for paths that nobody has asked for yet until `wanted` likes the answer; the path.
fn fresh(mesh: &Mesh, what: &str, prefix: &str, wanted: impl Fn(&serde_json::Value) -> bool) -> String {
    let mut number = 0;
    eventually(what, || {
        number += 1;
        let path = format!("{prefix}{number}");
        let answer = mesh.one(&[&format!("http://web{path}")]);
        if wanted(&answer) { Ok(path) } else { Err(answer.to_string()) }
    })
}

const MESH_CONFIG: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: istio, namespace: istio-system }\n\
                           data: { mesh: 'denyReasonHeader: true' }\n";

/// The exact rule that denied it, in the log always, in the answer where MeshConfig says so.
#[test]
fn which_rule_denied_it() {
    let mesh = mesh();
    let keep = "  action: DENY\n  rules:\n    - to: [{ operation: { paths: ['/never*'] } }]\n    \
                - to: [{ operation: { paths: ['/first*'] } }]\n    - to: [{ operation: { paths: ['/kept*'] } }]\n";
    let let_in = "  rules:\n    - to: [{ operation: { paths: ['/open*', '/kept*'] } }]\n";
    mesh.write("policy.yaml", &[policy("keep", "", keep), policy("let-in", "", let_in)].join("---\n"));
    let denied = |answer: &serde_json::Value| answer["status"] == 403;
    let path = fresh(&mesh, "a DENY rule", "/kept/", denied);
    let line = logged(&mesh, &path);
    assert!(
        line.contains(" 403 - rbac_access_denied_matched_policy[ns[default]-policy[keep]-rule[2]] "),
        "{line}"
    );
    // No ALLOW rule matches: that is nobody's rule.
    let path = fresh(&mesh, "no ALLOW rule", "/other/", denied);
    let line = logged(&mesh, &path);
    assert!(line.contains(" 403 - rbac_access_denied_matched_policy[none] "), "{line}");
    let path = fresh(&mesh, "an ALLOW rule", "/open/", |answer| answer["status"] == 200);
    assert!(!logged(&mesh, &path).contains("rbac_access_denied"), "{path}");

    // The client is not told, unless the mesh says that it may be.
    let header = |answer: &serde_json::Value| answer["headers"]["x-mesh-denied-by"].clone();
    let quiet = mesh.one(&["http://web/kept"]);
    assert_eq!((&quiet["body"], header(&quiet)), (&"RBAC: access denied".into(), serde_json::Value::Null));
    mesh.write("istio.yaml", MESH_CONFIG);
    let told = mesh.until("the client is told", &["http://web/kept"], |answer| !header(answer).is_null());
    assert_eq!((&told["status"], header(&told)), (&403.into(), "ns[default]-policy[keep]-rule[2]".into()));
    assert_eq!(header(&mesh.one(&["http://web/first"])), "ns[default]-policy[keep]-rule[1]");
    assert_eq!(header(&mesh.one(&["http://web/other"])), "none");
    let open = mesh.one(&["http://web/open"]);
    assert_eq!((&open["status"], header(&open)), (&200.into(), serde_json::Value::Null));
    mesh.delete("istio.yaml");
    mesh.until("not any more", &["http://web/kept"], |answer| denied(answer) && header(answer).is_null());
}

/// The counter of dry runs of `web`'s requests.
fn counted(metrics: &str, carries: &str, port: u16, action: &str, result: &str) -> u64 {
    let series = format!(
        "envoy_{carries}_inbound_0_0_0_0_{port}_rbac{{authz_dry_run_action=\"{action}\",authz_dry_run_result=\"{result}\"}} "
    );
    let count = metrics.lines().find_map(|line| line.strip_prefix(&series));
    count.map_or(0, |count| count.parse().unwrap())
}

/// AUDIT and dry runs change no answer; the access log says what they say, metrics count the dry runs.
#[test]
fn what_is_only_told() {
    let mesh = mesh();
    let rule = "  rules: [{ to: [{ operation: { paths: ['/a/*'] } }] }]\n";
    let dry = ", annotations: { istio.io/dry-run: 'true' }";
    let all = [
        policy("told", "", &format!("  action: AUDIT\n{rule}")),
        policy("never", dry, &format!("  action: DENY\n{rule}")),
        policy("only", dry, rule),
    ];
    mesh.write("policies.yaml", &all.join("---\n"));
    let scrape = || {
        let ask = b"GET /stats/prometheus HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        raw(mesh.address("web", "metrics"), ask)
    };
    // In force when the first verdict is counted.
    eventually("the policies are in force", || {
        assert_eq!(mesh.one(&["http://web/b/0"])["status"], 200);
        let metrics = scrape();
        if counted(&metrics, "http", 8080, "allow", "denied") > 0 { Ok(()) } else { Err(metrics) }
    });
    let seen = |action: &str, result: &str| counted(&scrape(), "http", 8080, action, result);
    let before = [seen("deny", "denied"), seen("allow", "allowed"), seen("deny", "allowed")];
    assert_eq!(before[..2], [0, 0]);
    for path in ["/a/1", "/a/2", "/b/1"] {
        assert_eq!(mesh.one(&[&format!("http://web{path}")])["status"], 200, "{path}");
    }
    let line = logged(&mesh, "/a/2");
    let told = " audit=ns[default]-policy[told]-rule[0] istio_dry_run_deny_shadow_engine_result=denied \
                istio_dry_run_deny_shadow_effective_policy_id=ns[default]-policy[never]-rule[0] \
                istio_dry_run_allow_shadow_engine_result=allowed \
                istio_dry_run_allow_shadow_effective_policy_id=ns[default]-policy[only]-rule[0]";
    assert!(line.ends_with(told) && line.contains(" 200 - via_upstream "), "{line}");
    let line = logged(&mesh, "/b/1");
    let told =
        "istio_dry_run_deny_shadow_engine_result=allowed istio_dry_run_allow_shadow_engine_result=denied";
    assert!(line.ends_with(told) && !line.contains("audit="), "{line}");
    let metrics = scrape();
    let counts = [("deny", "denied"), ("allow", "allowed"), ("deny", "allowed")];
    let counts = counts.map(|(action, result)| counted(&metrics, "http", 8080, action, result));
    assert_eq!(counts, [2, 2, before[2] + 1], "{metrics}");

    // Bytes: a DENY rule asks for one thing less, no ALLOW rule that asks for a path can match.
    let echoed = mesh.one(&["tcp://web:9000", "-d", "hello"]);
    assert_eq!(echoed["body"], "hello", "{echoed}");
    eventually("dry runs of bytes are counted", || {
        let metrics = scrape();
        let of = |action, result| counted(&metrics, "tcp", 9000, action, result);
        if of("deny", "denied") > 0 && of("allow", "denied") > 0 { Ok(()) } else { Err(metrics) }
    });

    // Without the annotation the same policies are in force.
    mesh.write("policies.yaml", &all.join("---\n").replace("'true'", "'false'"));
    let denied = mesh.until("in force", &["http://web/a/3"], |answer| answer["status"] == 403);
    assert_eq!(denied["body"], "RBAC: access denied");
    mesh.write("policies.yaml", &all[0]);
    let answer = mesh.until("AUDIT alone", &["http://web/a/4"], |answer| answer["status"] == 200);
    assert_eq!(body(&answer)["workload"], "web");
}
