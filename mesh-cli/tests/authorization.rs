//! AuthorizationPolicy as a user writes it: by identity, by attribute, for bytes, at the gateway; what it says where it denies.

use super::support::{BASE, Mesh, eventually, raw};

fn policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{ name: {name} }}\nspec:\n{spec}\n"
    )
}

/// Each instance has its own proxy: waits until all of them say so.
fn everywhere(mesh: &Mesh, what: &str, arguments: &[&str], status: u64) {
    eventually(what, || {
        let seen = mesh.statuses(&[arguments, &["-n", "8"]].concat());
        if seen.len() == 8 && seen.iter().all(|s| *s == status) { Ok(()) } else { Err(format!("{seen:?}")) }
    });
}

const WEB: &str = "  selector: { matchLabels: { app: web } }\n";

#[test]
fn who_may_do_what() {
    let mesh = Mesh::up(&[("base.yaml", BASE)], &[]);
    let status = |arguments: &[&str]| mesh.one(arguments)["status"].as_u64().unwrap_or_default();
    assert_eq!(status(&["http://web/"]), 200);

    // RBAC: by identity. Nobody but the client's account, and only to read.
    let readers = format!(
        "{WEB}  rules:\n    - from: [{{ source: {{ principals: [cluster.local/ns/default/sa/client] }} }}]\n      to: [{{ operation: {{ methods: [GET] }} }}]"
    );
    mesh.write("policy.yaml", &policy("readers", &readers));
    everywhere(&mesh, "only reading is allowed", &["http://web/", "-X", "POST"], 403);
    let denied = mesh.one(&["http://web/", "-X", "POST"]);
    assert_eq!(denied["body"], "RBAC: access denied", "{denied}");
    assert_eq!(status(&["http://web/"]), 200);
    // Plaintext has no identity.
    let plain =
        raw((mesh.pod_ip("web"), 8080).into(), b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n");
    assert!(plain.starts_with("HTTP/1.1 403"), "{plain}");
    // Bytes: an ALLOW rule that asks for a method lets none in.
    eventually("bytes are kept out", || {
        let answer = mesh.run(&["request", "tcp://web:9000", "-d", "hello", "-n", "1"]);
        if super::support::text(&answer).contains("hello\n") { Err("they pass".to_owned()) } else { Ok(()) }
    });
    mesh.status_says("readers");

    // ABAC: by what the request says of itself; a path in another spelling is the same path.
    let attributes = format!(
        "{WEB}  action: DENY\n  rules:\n    - to: [{{ operation: {{ paths: [/admin, '/admin/*'] }} }}]\n      when: [{{ key: 'request.headers[x-team]', notValues: [operators] }}]"
    );
    mesh.write("policy.yaml", &policy("operators", &attributes));
    everywhere(&mesh, "only operators", &["http://web/admin"], 403);
    everywhere(&mesh, "the other policy is gone", &["http://web/", "-X", "POST"], 200);
    for path in ["http://web/%61dmin", "http://web/admin;a=b", "http://web/admin/users?x"] {
        assert_eq!(status(&[path]), 403, "{path}");
    }
    assert_eq!(status(&["http://web/admin", "-H", "x-team: operators"]), 200);

    // What cannot be enforced is refused by name, and the last good version stays.
    mesh.write("policy.yaml", &policy("operators", &attributes.replace("paths", "routes")));
    mesh.status_says("unknown field");
    assert_eq!(status(&["http://web/admin"]), 403, "the last good version stays in force");
    mesh.delete("policy.yaml");
    everywhere(&mesh, "open again", &["http://web/admin"], 200);
}

/// The example that the README leads to, line by line.
#[test]
fn the_example_of_security() {
    let example = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/security");
    let read = |name: &str| std::fs::read_to_string(example.join(name)).unwrap();
    let tokens = read("tokens.md");
    let token = |name: &str| {
        let line = tokens.lines().find(|line| line.starts_with(&format!("export {name}="))).unwrap();
        line.split_once('=').unwrap().1.to_owned()
    };
    let (alice, bob) = (token("ALICE"), token("BOB"));
    let mesh =
        Mesh::up(&[("files.yaml", &read("files.yaml")), ("policies.yaml", &read("policies.yaml"))], &[]);
    let files = "http://files:8080/";
    everywhere(&mesh, "the policies are in force", &[files], 403);
    let mut said = 0;
    for line in tokens.lines().filter(|line| line.starts_with("meshctl request")) {
        let (command, expected) = line.split_once('#').unwrap();
        let expected: u64 = expected.trim().split(':').next().unwrap().parse().unwrap();
        let command = command.replace("${ALICE}", &alice).replace("$ALICE", &alice).replace("$BOB", &bob);
        let mut arguments: Vec<String> = Vec::new();
        // Words, and what stands between quotes.
        for (index, part) in command.split(['"', '\'']).enumerate() {
            match index % 2 {
                0 => arguments.extend(part.split_whitespace().map(str::to_owned)),
                _ => arguments.push(part.to_owned()),
            }
        }
        let arguments: Vec<&str> = arguments[2..].iter().map(String::as_str).collect();
        assert_eq!(mesh.one(&arguments)["status"], expected, "{line}");
        said += 1;
    }
    assert_eq!(said, 9);
    let admin = mesh.one(&[files, "-H", &format!("authorization: Bearer {bob}")]);
    let seen = super::support::body(&admin);
    assert_eq!(seen["headers"]["x-user"], "bob", "{seen}");
    assert_eq!(
        seen["headers"]["authorization"],
        serde_json::Value::Null,
        "the application does not get the token"
    );
    // Plaintext is not let in at all.
    let plain = raw(
        (mesh.pod_ip("files"), 8080).into(),
        b"GET / HTTP/1.1\r\nHost: files\r\nConnection: close\r\n\r\n",
    );
    assert_eq!(plain, "");
}
