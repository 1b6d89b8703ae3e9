//! VirtualService and DestinationRule over real sockets: matches, weights, subsets, balancing, timeouts, retries; edits at once.

use super::support::{BASE, Mesh, body, by_instance, eventually};

const RULES: &str = r"
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: { name: api }
spec:
  host: api
  subsets:
    - { name: one, labels: { version: v1 } }
    - { name: two, labels: { version: v2 } }
";

fn virtual_service(http: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{ name: api }}\nspec:\n  hosts: [api]\n  http:\n{http}"
    )
}

const TO_ONE: &str = "    - route: [{ destination: { host: api, subset: one } }]\n";

fn versions(mesh: &Mesh, arguments: &[&str]) -> std::collections::BTreeSet<String> {
    mesh.request(arguments).iter().map(|a| a["version"].as_str().unwrap_or("-").to_owned()).collect()
}

/// Every match kind, each with a request that has it and one that differs only there.
#[test]
fn matches_weights_timeouts_and_retries() {
    let mesh = Mesh::up(&[("base.yaml", BASE), ("rules.yaml", RULES)], &[]);
    let both = versions(&mesh, &["http://api:8080/", "-n", "40"]);
    assert_eq!(both.len(), 2, "without routes both versions answer: {both:?}");

    matches(&mesh);
    weights(&mesh);
    timeouts_and_retries(&mesh);
    deleted(&mesh);
}

fn matches(mesh: &Mesh) {
    let cases: [(&str, &[&str], &[&str]); 7] = [
        ("uri: { exact: /a }", &["http://api:8080/a"], &["http://api:8080/a/b"]),
        ("uri: { prefix: /a }", &["http://api:8080/abc?x=1"], &["http://api:8080/b"]),
        ("uri: { regex: '/v[0-9]+/x' }", &["http://api:8080/v12/x"], &["http://api:8080/v12/x/y"]),
        (
            "headers: { end-user: { exact: jason } }",
            &["http://api:8080/", "-H", "end-user: jason"],
            &["http://api:8080/", "-H", "end-user: jasons"],
        ),
        ("method: { exact: POST }", &["http://api:8080/", "-X", "POST"], &["http://api:8080/"]),
        ("queryParams: { v: { exact: '2' } }", &["http://api:8080/?v=2"], &["http://api:8080/?v=3"]),
        ("sourceLabels: { app: web }", &["http://api:8080/", "--from", "web"], &["http://api:8080/"]),
    ];
    for (rule, hit, miss) in cases {
        let route = "      route: [{ destination: { host: api, subset: two } }]\n";
        mesh.write("route.yaml", &virtual_service(&format!("    - match: [{{ {rule} }}]\n{route}{TO_ONE}")));
        mesh.until(&format!("{rule} hits"), hit, |answer| answer["version"] == "v2");
        let missed = versions(mesh, &[miss, &["-n", "5"]].concat());
        assert_eq!(missed.into_iter().collect::<Vec<_>>(), ["v1"], "{rule} must miss {miss:?}");
        let hits = versions(mesh, &[hit, &["-n", "5"]].concat());
        assert_eq!(hits.into_iter().collect::<Vec<_>>(), ["v2"], "{rule} must hit {hit:?}");
    }
}

fn weights(mesh: &Mesh) {
    let weighted = |one: u32, two: u32| {
        let to = |subset: &str, weight: u32| {
            format!("{{ destination: {{ host: api, subset: {subset} }}, weight: {weight} }}")
        };
        virtual_service(&format!("    - route: [{}, {}]\n", to("one", one), to("two", two)))
    };
    mesh.write("route.yaml", &weighted(0, 100));
    mesh.until("all to two", &["http://api:8080/"], |answer| answer["version"] == "v2");
    assert_eq!(versions(mesh, &["http://api:8080/", "-n", "30"]).len(), 1);
    mesh.write("route.yaml", &weighted(80, 20));
    eventually("both get some", || {
        let seen = versions(mesh, &["http://api:8080/", "-n", "30"]);
        if seen.len() == 2 { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    let answers = mesh.request(&["http://api:8080/", "-n", "500", "-c", "4"]);
    let two = answers.iter().filter(|answer| answer["version"] == "v2").count();
    // Binomial(500, 0.2): 100 with a deviation of 9; six of them either way.
    assert!((46..=154).contains(&two), "{two} of 500 went to the subset with weight 20");
}

fn timeouts_and_retries(mesh: &Mesh) {
    mesh.write(
        "route.yaml",
        &virtual_service("    - timeout: 0.3s\n      route: [{ destination: { host: api, subset: one } }]\n"),
    );
    let late =
        mesh.until("the timeout ends it", &["http://api:8080/delay/5"], |answer| answer["status"] == 504);
    assert!(late["millis"].as_f64().unwrap() < 4000.0, "{late}");
    assert_eq!(mesh.one(&["http://api:8080/delay/0"])["status"], 200);
    // An instance that fails half of the time: retries hide it, and without them it shows.
    let fault = r#"{"status":503,"rate":0.5}"#;
    let pod = format!("http://{}:8080/fault", mesh.pod_ip("api-v1"));
    let json = "content-type: application/json";
    assert_eq!(mesh.one(&[&pod, "-X", "POST", "-H", json, "-d", fault])["status"], 200);
    mesh.write(
        "route.yaml",
        &virtual_service(
            "    - retries: { attempts: 0 }\n      route: [{ destination: { host: api, subset: one } }]\n",
        ),
    );
    eventually("failures show without retries", || {
        let statuses = mesh.statuses(&["http://api:8080/", "-n", "50"]);
        let failed = statuses.iter().filter(|status| **status == 503).count();
        if (5..=45).contains(&failed) { Ok(()) } else { Err(format!("{statuses:?}")) }
    });
    let retries = "    - retries: { attempts: 12, retryOn: 5xx }\n      route: [{ destination: { host: api, subset: one } }]\n";
    mesh.write("route.yaml", &virtual_service(retries));
    eventually("retries hide them", || {
        let statuses = mesh.statuses(&["http://api:8080/", "-n", "50"]);
        if statuses.iter().all(|status| *status == 200) { Ok(()) } else { Err(format!("{statuses:?}")) }
    });
    assert_eq!(mesh.one(&[&pod, "-X", "DELETE"])["status"], 200);
}

fn deleted(mesh: &Mesh) {
    mesh.write(
        "route.yaml",
        &virtual_service("    - route: [{ destination: { host: api, subset: three } }]\n"),
    );
    let answer = mesh.until("an unknown subset", &["http://api:8080/"], |answer| answer["status"] == 503);
    assert_eq!(answer["status"], 503);
    mesh.delete("route.yaml");
    eventually("both again", || {
        let seen = versions(mesh, &["http://api:8080/", "-n", "30"]);
        if seen.len() == 2 { Ok(()) } else { Err(format!("{seen:?}")) }
    });
}

/// Names, addresses and balancers of a plain service.
#[test]
fn names_and_balancers() {
    let mesh = Mesh::up(&[("base.yaml", BASE)], &[]);
    for host in ["web", "web.default", "web.default.svc", "web.default.svc.cluster.local", "WEB", "web:80"] {
        let answer = mesh.one(&[&format!("http://{host}/")]);
        assert_eq!(answer["status"], 200, "{host}: {answer}");
    }
    // A service of one port is known without it.
    assert_eq!(mesh.one(&["http://api/"])["status"], 200);
    let unknown = mesh.one(&["http://nobody.default.svc.cluster.local/"]);
    assert!([502, 503, 404].contains(&unknown["status"].as_u64().unwrap()), "{unknown}");
    // A pod's address is that pod's.
    let ip = mesh.pod_ip("web");
    let counts = by_instance(&mesh.request(&[&format!("http://{ip}:8080/"), "-n", "10"]));
    assert_eq!(counts.into_iter().collect::<Vec<_>>(), [("web-0".to_owned(), 10)]);

    let rule = |balancer: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{ name: web }}\nspec:\n  host: web\n  trafficPolicy: {{ loadBalancer: {{ {balancer} }} }}\n"
        )
    };
    mesh.write("rule.yaml", &rule("simple: ROUND_ROBIN"));
    mesh.status_says("DestinationRule");
    eventually("strictly in turn", || {
        let counts = by_instance(&mesh.request(&["http://web/", "-n", "100"]));
        if counts.values().all(|n| *n == 50) && counts.len() == 2 {
            Ok(())
        } else {
            Err(format!("{counts:?}"))
        }
    });
    mesh.write("rule.yaml", &rule("consistentHash: { httpHeaderName: user }"));
    let homes = eventually("each user has a home", || {
        let home = |user: String| {
            let counts =
                by_instance(&mesh.request(&["http://web/", "-n", "4", "-H", &format!("user: {user}")]));
            if counts.len() == 1 {
                Ok(counts.into_keys().next().unwrap())
            } else {
                Err(format!("{counts:?}"))
            }
        };
        (0..12).map(|n| home(format!("u{n}"))).collect::<Result<Vec<_>, _>>()
    });
    assert!(homes.contains(&"web-0".to_owned()) && homes.contains(&"web-1".to_owned()), "{homes:?}");
    mesh.write("rule.yaml", &rule("simple: RANDOM"));
    eventually("both at random", || {
        let counts = by_instance(&mesh.request(&["http://web/", "-n", "60", "-H", "user: u0"]));
        if counts.len() == 2 { Ok(()) } else { Err(format!("{counts:?}")) }
    });
    // What the application saw: its sidecar's word on who called.
    let seen = body(&mesh.one(&["http://web/", "--from", "api-v1"]));
    assert_eq!(seen["peer"], "spiffe://cluster.local/ns/default/sa/api");
}
