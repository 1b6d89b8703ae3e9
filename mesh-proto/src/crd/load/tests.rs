//! What is told about files, and where.

use super::super::values::StringMatch;
use super::*;

const VIRTUAL_SERVICE: &str = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: reviews
  namespace: shop
spec:
  hosts:
  - reviews
  http:
  - match:
    - uri:
        prefix: /a
    route:
    - destination:
        host: reviews
        subset: v1
      weight: 90
    timeout: 1.5s
";

fn one(text: &str) -> Document {
    let mut documents = parse("a.yaml", text);
    assert_eq!(documents.len(), 1);
    documents.remove(0)
}

fn told(text: &str) -> Vec<String> {
    parse("a.yaml", text)
        .iter()
        .flat_map(|d| d.problems().iter().map(ToString::to_string).collect::<Vec<_>>())
        .collect()
}

fn accepted(text: &str) -> Resource {
    match one(text) {
        Document::Accepted(resource) => resource,
        other => panic!("{other:#?}"),
    }
}

#[test]
fn a_good_object_knows_where_its_fields_are() {
    let resource = accepted(VIRTUAL_SERVICE);
    assert_eq!(resource.reference, ObjectRef::new(Kind::VirtualService, "shop", "reviews"));
    assert_eq!(resource.origin.location("spec.http[0]"), "a.yaml:10");
    assert_eq!(resource.origin.location(""), "a.yaml:1");
    let Object::VirtualService(rules) = &resource.object else { panic!() };
    let route = &rules.spec.http[0];
    assert_eq!(route.timeout.unwrap().0, std::time::Duration::from_millis(1500));
    assert_eq!(route.r#match[0].uri, Some(StringMatch::Prefix("/a".into())));
    let again = from_value(resource.value.as_ref().clone(), Origin::default());
    assert!(matches!(again, Document::Accepted(again) if again.object == resource.object));
}

#[test]
fn a_mistake_is_told_at_its_field() {
    let text = VIRTUAL_SERVICE.replace("    timeout: 1.5s", "    timout: 1.5s");
    let lines = told(&text);
    assert_eq!(lines.len(), 1);
    assert!(lines[0].starts_with("a.yaml:18:5: error: VirtualService shop/reviews: spec.http[0].timout: unknown field timout, did you mean timeout? (expected one of"), "{}", lines[0]);
    let text = VIRTUAL_SERVICE.replace("weight: 90", "weight: many");
    assert_eq!(
        told(&text),
        [
            "a.yaml:17:15: error: VirtualService shop/reviews: spec.http[0].route[0].weight: invalid type: string \"many\" (expected a whole number)"
        ]
    );
}

/// One bad document in the middle: both neighbours live, and the lines of the last one are right.
#[test]
fn a_bad_document_disturbs_no_other() {
    let text = format!("{VIRTUAL_SERVICE}---\nkind: [\n---\n{VIRTUAL_SERVICE}");
    let documents = parse("a.yaml", &text);
    assert_eq!(documents.len(), 3);
    assert!(matches!(&documents[0], Document::Accepted(_)));
    assert!(matches!(&documents[1], Document::Refused(refused) if refused.reference.is_none()));
    let Document::Accepted(last) = &documents[2] else { panic!("{documents:#?}") };
    assert_eq!(last.origin.location("spec"), "a.yaml:27");
}

/// Broken YAML still says which object it was about.
#[test]
fn broken_yaml_is_refused_by_name() {
    let text = format!("{VIRTUAL_SERVICE}  tls: [\n");
    let Document::Refused(refused) = one(&text) else { panic!() };
    assert_eq!(refused.reference, Some(ObjectRef::new(Kind::VirtualService, "shop", "reviews")));
    assert!(refused.problems[0].to_string().starts_with("a.yaml:"), "{}", refused.problems[0]);
}

/// Every prefix of a file: never a panic.
#[test]
fn half_written_files() {
    let text = format!("{VIRTUAL_SERVICE}---\n{VIRTUAL_SERVICE}");
    for end in 0..text.len() {
        let _ = parse("a.yaml", &text[..end]);
    }
}

#[test]
fn versions_names_and_kinds() {
    for version in ["v1", "v1beta1", "v1alpha3"] {
        accepted(&VIRTUAL_SERVICE.replace("istio.io/v1", &format!("istio.io/{version}")));
    }
    let cases = [
        ("istio.io/v1", "istio.io/v2", "unknown version v2 of VirtualService"),
        (
            "kind: VirtualService",
            "kind: VirtualServices",
            "unknown kind VirtualServices, did you mean VirtualService?",
        ),
        ("networking.istio.io/v1", "apps/v1", "VirtualService is not of the group \"apps\""),
        ("  name: reviews", "  nam: reviews", "metadata.name is missing"),
        ("  name: reviews", "  name: 12", "metadata.name: 12 is not a text (expected a text (in quotes))"),
        ("  name: reviews", "  name: Reviews", "\"Reviews\" is not a name"),
        ("namespace: shop", "namespace: a.b", "\"a.b\" is not a namespace"),
        ("kind: VirtualService\n", "", "kind is missing"),
    ];
    for (from, to, expected) in cases {
        let lines = told(&VIRTUAL_SERVICE.replacen(from, to, 1));
        assert!(
            lines.iter().any(|line| line.contains("error") && line.contains(expected)),
            "{to}: {lines:?}"
        );
    }
}

/// A group of Istio's of which nothing is known: no empty list of what was expected.
#[test]
fn unknown_kinds_of_istio_are_refused() {
    let text = "apiVersion: install.istio.io/v1alpha1\nkind: IstioOperator\nmetadata: {name: a}\n";
    assert_eq!(told(text), ["a.yaml:2:7: error: kind: unknown kind IstioOperator"]);
}

#[test]
fn settings_of_a_whole_mesh_are_told() {
    let map = |name: &str, key: &str| {
        told(&format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{{key}: x}}\n"))
    };
    let line = "a.yaml:4:14: warning: ConfigMap default/istio: data.mesh: Istio's mesh configuration is read from another ConfigMap (expected the ConfigMap istio of istio-system)";
    assert_eq!(map("istio", "mesh"), [line]);
    assert_eq!(map("istio, namespace: istio-system", "mesh"), [""; 0]);
    assert_eq!(map("istio", "other"), [""; 0]);
    assert_eq!(map("shop", "mesh"), [""; 0]);
}

#[test]
fn kinds_of_others_are_left_out_and_told() {
    let document = one("apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {name: a}\n");
    assert!(matches!(document, Document::Ignored(problem) if !problem.is_error()));
}

#[test]
fn lists_are_taken_apart() {
    let text = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Namespace\n  metadata:\n    name: a\n- apiVersion: v1\n  kind: Service\n  metadata:\n    name: s\n  spec:\n    ports:\n    - port: zero\n";
    let documents = parse("a.yaml", text);
    assert!(matches!(&documents[0], Document::Accepted(_)));
    assert!(
        documents[1].problems()[0]
            .to_string()
            .starts_with("a.yaml:14:13: error: Service default/s: spec.ports[0].port")
    );
}

/// EnvoyFilter: by name, with the native way to the same effect.
#[test]
fn kinds_that_are_not_in_force_are_refused_by_name() {
    let text = "apiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata:\n  name: lua\n";
    let line = &told(text)[0];
    assert!(
        line.starts_with("a.yaml:2:7: error: EnvoyFilter default/lua: kind: EnvoyFilter patches Envoy"),
        "{line}"
    );
    assert!(line.contains("VirtualService retries") && line.contains("DestinationRule"), "{line}");
    for kind in Kind::ALL.iter().filter(|k| unsupported(**k).is_some()) {
        let name = if *kind == Kind::KubernetesGateway { "Gateway" } else { kind.as_str() };
        let api = format!("{}/{}", kind.group(), kind.versions()[0]);
        let document = one(&format!("apiVersion: {api}\nkind: {name}\nmetadata:\n  name: a\n"));
        assert!(
            matches!(&document, Document::Refused(r) if r.reference.as_ref().is_some_and(|r| r.kind == *kind)),
            "{kind}"
        );
    }
}

#[test]
fn a_refused_policy_says_whom_it_was_to_restrict() {
    let text = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a}\nspec: {action: CUSTOM, selector: {matchLabels: {app: x}}}\n";
    let Document::Refused(refused) = one(text) else { panic!() };
    let restriction = refused.restriction.unwrap();
    assert_eq!(
        restriction.targets,
        super::super::Targets::Workloads([("app".to_owned(), "x".to_owned())].into())
    );
    assert_eq!(restriction.location, "a.yaml:1");
    let text = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: a}\nspec: {mtls: {mode: STRIKT}}\n";
    let Document::Refused(refused) = one(text) else { panic!() };
    assert!(refused.restriction.is_some());
    assert!(
        refused.problems[0]
            .to_string()
            .contains("spec.mtls.mode: unknown variant STRIKT, did you mean STRICT?"),
        "{}",
        refused.problems[0]
    );
}

/// Of what cannot be read at all, the kind says enough: a typo in YAML must not open what a policy was to close.
#[test]
fn a_policy_in_broken_yaml_restricts_everybody_that_it_may_be_for() {
    let policy = |kind: &str, spec: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata:\n  name: a\n  namespace: shop\nspec:\n{spec}\n"
        )
    };
    let broken =
        ["  mtls: {mode: STRICT", "\tmtls: {mode: STRICT}", "  mtls: {mode: STRICT}\n  mtls: {mode: STRICT}"];
    for spec in broken {
        for kind in ["PeerAuthentication", "AuthorizationPolicy", "RequestAuthentication"] {
            let Document::Refused(refused) = one(&policy(kind, spec)) else { panic!("{spec}") };
            let restriction = refused.restriction.unwrap_or_else(|| panic!("{kind} {spec}"));
            assert_eq!(
                restriction.targets,
                super::super::Targets::Workloads(Default::default()),
                "{kind} {spec}"
            );
            assert_eq!(&*restriction.reference.namespace, "shop");
        }
        let flow = policy("AuthorizationPolicy", spec)
            .replace("metadata:\n  name: a\n  namespace: shop", "metadata: { name: a, namespace: shop }");
        let Document::Refused(refused) = one(&flow) else { panic!("{spec}") };
        assert_eq!(
            refused.restriction.map(|r| r.reference.to_string()).as_deref(),
            Some("AuthorizationPolicy shop/a")
        );
        let Document::Refused(refused) = one(&policy("EnvoyFilter", spec)) else { panic!("{spec}") };
        assert_eq!(refused.restriction, None);
    }
}

/// AUDIT only writes down: it is not in force, and closes nothing.
#[test]
fn only_what_restricts_is_said_to_let_nothing_in() {
    let policy = |action: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name}\nspec: {{action: {action}}}\n",
            name = "{name: a}"
        )
    };
    let closes = |action: &str| match one(&policy(action)) {
        Document::Refused(refused) => refused.restriction.is_some(),
        _ => false,
    };
    assert!(closes("CUSTOM") && closes("SOMETHING"));
    assert!(!closes("AUDIT") && !closes("DENY"));
}

#[test]
fn keys_that_are_ports() {
    let text = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: a}\nspec:\n  selector: {matchLabels: {app: a}}\n  portLevelMtls:\n    8080: {mode: DISABLE}\n";
    let Object::PeerAuthentication(policy) = accepted(text).object else { panic!() };
    assert!(policy.spec.port_level_mtls.contains_key(&8080));
    let lines = told(&text.replace("8080", "99999"));
    assert!(lines[0].starts_with("a.yaml:7:"), "{lines:?}");
}

/// `labels:` with nothing after it is legal in Kubernetes.
#[test]
fn nulls_in_maps_are_absent() {
    accepted(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: a\n  labels:\nspec:\n  selector:\n  ports:\n  - port: 80\n",
    );
}

#[test]
fn files_and_directories() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::create_dir(path("sub")).unwrap();
    std::fs::write(path("b.yaml"), VIRTUAL_SERVICE).unwrap();
    std::fs::write(path("sub/a.yml"), VIRTUAL_SERVICE).unwrap();
    std::fs::write(path(".hidden.yaml"), "[").unwrap();
    std::fs::write(path("README.md"), "[").unwrap();
    let report = validate_files(&[directory.path().to_owned()]);
    assert_eq!(report.documents.len(), 2);
    assert!(!report.has_errors());
    assert!(report.problems[0].message.contains("there twice"), "{:?}", report.problems);
    std::fs::write(path("c.yaml"), [0xff, 0xfe, 0x00]).unwrap();
    assert!(validate_files(&[path("c.yaml"), path("none.yaml")]).problems.iter().all(Problem::is_error));
}
