//! Bad input: refused by name with its place; the last good version stays in force, over a restart of the pilot too.

use super::support::{BASE, Mesh, eventually, meshctl, text};

const GOOD: &str = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: { name: web }\nspec:\n  hosts: [web]\n  http:\n    - route: [{ destination: { host: api } }]\n";

/// Whether requests to `web` are answered by `api`: the good version is in force.
fn diverted(mesh: &Mesh) -> Result<(), String> {
    let answer = mesh.one(&["http://web/"]);
    let by = answer["instance"].as_str().unwrap_or_default();
    if by.starts_with("api-") { Ok(()) } else { Err(answer.to_string()) }
}

#[test]
fn the_last_good_version_stays() {
    let mesh = Mesh::up(&[("base.yaml", BASE), ("route.yaml", GOOD)], &[]);
    eventually("the good version is in force", || diverted(&mesh));
    let bad = [
        ("unknown field", GOOD.replace("  hosts", "  hsots: [x]\n  hosts"), "hsots"),
        ("wrong type", GOOD.replace("[{ destination: { host: api } }]", "17"), "route.yaml:7"),
        ("half-written", GOOD[..GOOD.len() - 20].to_owned(), "route.yaml"),
        (
            "not in force yet",
            GOOD.replace("    - route", "    - rewrite: { uri: / }\n      route"),
            "rewrite",
        ),
    ];
    for (what, yaml, wanted) in &bad {
        mesh.write("route.yaml", yaml);
        mesh.status_says(wanted);
        diverted(&mesh).unwrap_or_else(|seen| panic!("{what}: the last good version is gone: {seen}"));
        // Nothing else is disturbed.
        assert_eq!(mesh.one(&["http://api:8080/"])["status"], 200, "{what}");
    }
    mesh.must(&["stop", "mesh-pilot", "--kill"]);
    mesh.must(&["start", "mesh-pilot"]);
    mesh.status_says("rewrite");
    diverted(&mesh).unwrap_or_else(|seen| panic!("the last good version did not survive a restart: {seen}"));
    mesh.write("route.yaml", "");
    mesh.until("deleted", &["http://web/"], |a| {
        a["instance"].as_str().unwrap_or_default().starts_with("web-")
    });
}

#[test]
fn validate_says_where_and_what() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let piped = |yaml: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_meshctl"));
        command.args(["validate", "-f", "-"]).stdin(std::fs::File::open(file("piped.yaml", yaml)).unwrap());
        command.output().unwrap()
    };
    assert!(piped(GOOD).status.success(), "{}", text(&piped(GOOD)));
    let bad = piped(&GOOD.replace("host: api", "hots: api"));
    assert!(bad.status.code() == Some(1) && text(&bad).contains("stdin:7:"), "{}", text(&bad));
    let twice = piped(&format!("{GOOD}---\n{GOOD}"));
    assert!(twice.status.success() && text(&twice).contains("there twice"), "{}", text(&twice));
    let alias = "apiVersion: v1\nkind: Service\nmetadata: { name: db }\nspec: { type: ExternalName, externalName: db.example.com }\n";
    assert!(piped(alias).status.success(), "{}", text(&piped(alias)));
    let nameless = piped(&alias.replace("db.example.com", "\"\""));
    assert!(text(&nameless).contains("spec.externalName"), "{}", text(&nameless));
    let good = meshctl(&["validate", "-f", &file("good.yaml", GOOD)]);
    assert!(good.status.success(), "{}", text(&good));
    let bad = meshctl(&["validate", "-f", &file("bad.yaml", &GOOD.replace("host: api", "hots: api"))]);
    assert_eq!(bad.status.code(), Some(1), "{}", text(&bad));
    assert!(text(&bad).contains("bad.yaml:7:") && text(&bad).contains("hots"), "{}", text(&bad));
    let filter =
        "apiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: { name: lua }\nspec: {}\n";
    let filter = meshctl(&["validate", "-f", &file("filter.yaml", filter)]);
    assert_eq!(filter.status.code(), Some(1), "{}", text(&filter));
    assert!(text(&filter).contains("EnvoyFilter"), "{}", text(&filter));
}

/// The user's Gateway, in its own form: accepted with warnings that name the standard one.
#[test]
fn the_users_gateway() {
    let gateway = "apiVersion: networking.istio.io/v1alpha3\nkind: Gateway\nmetadata:\n  name: my-gateway\nspec:\n  selector:\n    istio: ingressgateway\n  servers:\n  - port:\n      number: 80\n      name: http\n      protocol: HTTP\n    hosts:\n    - \"*\"\n  tls:\n  - hosts:\n    - \"*\"\n    serverCertificate: /etc/istio/ingressgateway-certs/tls.crt\n    privateKey: /etc/istio/ingressgateway-certs/tls.key\n  auth:\n    policy:\n      rules:\n      - hosts:\n        - \"*\"\n        tls:\n        - mode: STRICT\n          verify:\n            caCertificates: /etc/istio/ingressgateway-certs/ca-cert.pem\n";
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gateway.yaml");
    std::fs::write(&path, gateway).unwrap();
    let output = meshctl(&["validate", "-f", &path.display().to_string()]);
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("warning") && said.contains("MUTUAL"), "{said}");
}

/// What restricts and cannot be enforced closes its targets, and says so.
#[test]
fn an_unenforceable_policy_closes_its_targets() {
    let mesh = Mesh::up(&[("base.yaml", BASE)], &[]);
    assert_eq!(mesh.one(&["http://api:8080/"])["status"], 200);
    let policy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: { name: api-readers }\nspec:\n  action: DENY\n  selector: { matchLabels: { app: api } }\n  rules: [{ when: [{ key: source.colour, values: [red] }] }]\n";
    mesh.write("policy.yaml", policy);
    mesh.until("api lets nothing in", &["http://api:8080/"], |answer| {
        answer["status"] == 403 || answer["status"] == 503
    });
    assert_eq!(mesh.one(&["http://web/"])["status"], 200, "others are not touched");
    mesh.status_says("api-readers");
    mesh.delete("policy.yaml");
    mesh.until("api is open again", &["http://api:8080/"], |answer| answer["status"] == 200);
}

#[test]
fn a_reader_that_goes_away_ends_the_command_quietly() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("many.yaml");
    // More than a pipe holds.
    let many = format!("---\n{}", GOOD.replace("hosts", "hsots")).repeat(2000);
    std::fs::write(&file, many).unwrap();
    let command = format!(
        "{} validate -f {} | true; echo ${{PIPESTATUS[0]}}",
        env!("CARGO_BIN_EXE_meshctl"),
        file.display()
    );
    let told = std::process::Command::new("bash").args(["-c", &command]).output().unwrap();
    assert_eq!(text(&told), "141\n");
}
