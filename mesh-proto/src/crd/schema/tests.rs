//! The schemas against what the mesh reads: whatever is accepted here must be accepted, and kept whole, there.

use super::*;
use crate::crd::{Document, parse};

fn of(kind: Kind) -> Definition {
    definition(kind).expect("no recursion")
}

fn schema_of(definition: &Definition) -> &Value {
    &definition.object["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
}

/// What an API server would refuse, or prune, of a value. Empty: nothing.
fn lost(value: &Value, schema: &Value, path: &str, out: &mut Vec<String>) {
    let open = schema["x-kubernetes-preserve-unknown-fields"] == true;
    if let Some(values) = schema["enum"].as_array()
        && !values.contains(value)
    {
        out.push(format!("{path}: {value} is none of {values:?}"));
    }
    match (value, schema["type"].as_str()) {
        (Value::Object(map), Some("object")) => {
            for name in schema["required"].as_array().into_iter().flatten() {
                if !map.contains_key(name.as_str().unwrap_or_default()) {
                    out.push(format!("{path}: {name} is required"));
                }
            }
            for (key, value) in map {
                let path = format!("{path}.{key}");
                match schema["properties"].get(key).or(schema.get("additionalProperties")) {
                    Some(schema) => lost(value, schema, &path, out),
                    None if open => {}
                    None => out.push(format!("{path} is pruned")),
                }
            }
        }
        (Value::Array(items), Some("array")) => {
            for (i, item) in items.iter().enumerate() {
                lost(item, &schema["items"], &format!("{path}[{i}]"), out);
            }
        }
        (Value::String(_), Some("string")) | (Value::Bool(_), Some("boolean")) => {}
        (Value::Number(n), Some("integer")) if n.is_i64() || n.is_u64() => {}
        (Value::Number(_), Some("number")) => {}
        (Value::String(_) | Value::Number(_), None) if schema["x-kubernetes-int-or-string"] == true => {}
        (_, None) if open => {}
        (value, expected) => out.push(format!("{path}: {value} is no {expected:?}")),
    }
}

fn check(text: &str) -> usize {
    let mut checked = 0;
    for document in parse("test.yaml", text) {
        let Document::Accepted(resource) = document else { panic!("refused: {:?}", document.problems()) };
        let kind = resource.reference.kind;
        if !kind.group().ends_with(".istio.io") {
            continue;
        }
        checked += 1;
    }
    for chunk in crate::crd::yaml::split(text) {
        let Ok(Some(tree)) = crate::crd::yaml::read(chunk) else { continue };
        let group =
            tree.value["apiVersion"].as_str().unwrap_or_default().split('/').next().unwrap_or_default();
        let Some(kind) = Kind::of(group, tree.value["kind"].as_str().unwrap_or_default()) else { continue };
        if kind.group().ends_with(".istio.io") {
            let mut out = Vec::new();
            lost(&tree.value["spec"], &schema_of(&of(kind))["properties"]["spec"], "spec", &mut out);
            assert!(out.is_empty(), "{out:#?}");
        }
    }
    checked
}

/// The user's files as they were given: two forms in them are this mesh's own.
#[test]
fn the_users_forms_are_kept() {
    let rule = "apiVersion: networking.istio.io/v1alpha3\nkind: DestinationRule\nmetadata: {name: my-service}\n\
        spec: {host: my-service, trafficPolicy: {loadBalancer: {consistentHash: {rings: 1, ringSize: 4}}}}\n";
    let gateway = "apiVersion: networking.istio.io/v1alpha3\nkind: Gateway\nmetadata: {name: my-gateway}\nspec:\n\
        \x20 selector: {istio: ingressgateway}\n\
        \x20 servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [\"*\"]}]\n\
        \x20 tls: [{hosts: [\"*\"], serverCertificate: /a/tls.crt, privateKey: /a/tls.key}]\n\
        \x20 auth: {policy: {rules: [{hosts: [\"*\"], tls: [{mode: STRICT, verify: {caCertificates: /a/ca.pem}}]}]}}\n";
    let routes = "apiVersion: networking.istio.io/v1alpha3\nkind: VirtualService\nmetadata: {name: my-service}\n\
        spec: {hosts: [\"*\"], http: [{route: [{destination: {host: my-service}}]}]}\n";
    assert_eq!(check(&format!("{rule}---\n{gateway}---\n{routes}")), 3);
}

#[test]
fn the_examples_are_kept() {
    let mut checked = 0;
    let examples = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../mesh-cli/examples");
    for file in crate::crd::yaml_files(&[examples]).expect("the examples are there") {
        checked += check(&std::fs::read_to_string(file).expect("readable"));
    }
    assert!(checked >= 5, "{checked}");
}

/// Kubernetes' rules for structural schemas: one type each, no defaults, no references, properties or values but not both.
#[test]
fn every_schema_is_structural() {
    fn walk(schema: &Value, path: &str) {
        let map = schema.as_object().unwrap_or_else(|| panic!("{path}: {schema}"));
        let typed = map.get("type").is_some_and(Value::is_string)
            || map.contains_key("x-kubernetes-int-or-string")
            || map.contains_key("x-kubernetes-preserve-unknown-fields");
        assert!(typed, "{path} has no type: {schema}");
        for odd in ["default", "$ref", "anyOf", "allOf", "patternProperties", "nullable", "title"] {
            assert!(!map.contains_key(odd), "{path} has {odd}");
        }
        assert!(!(map.contains_key("properties") && map.contains_key("additionalProperties")), "{path}");
        for (name, schema) in map.get("properties").and_then(Value::as_object).into_iter().flatten() {
            walk(schema, &format!("{path}.{name}"));
        }
        for inner in ["items", "additionalProperties"] {
            if let Some(schema) = map.get(inner) {
                walk(schema, &format!("{path}[{inner}]"));
            }
        }
    }
    let all = definitions().expect("no recursion");
    assert_eq!(all.len(), 15);
    for definition in &all {
        walk(schema_of(definition), &definition.name);
        assert!(!definition.name.starts_with('.'), "{} has no plural", definition.kind);
        let storage = definition.object["spec"]["versions"].as_array().expect("versions");
        assert_eq!(storage.iter().filter(|v| v["storage"] == true).count(), 1, "{}", definition.name);
        let about = schema_of(definition)["description"].as_str().expect("a description");
        assert!(about.len() > 10, "{}: {about}", definition.name);
    }
}

/// Every kind that is in force has a schema of its own.
#[test]
fn no_kind_in_force_is_untyped() {
    for definition in definitions().expect("no recursion") {
        let open =
            schema_of(&definition)["properties"]["spec"]["x-kubernetes-preserve-unknown-fields"] == true;
        assert_eq!(open, unsupported(definition.kind).is_some(), "{}: see kinds::spec", definition.kind);
    }
}

#[test]
fn values_have_their_forms() {
    let routes = of(Kind::VirtualService);
    let http = &schema_of(&routes)["properties"]["spec"]["properties"]["http"]["items"]["properties"];
    assert_eq!(http["timeout"]["type"], "string");
    assert_eq!(http["match"]["items"]["properties"]["port"]["maximum"], 65535);
    assert!(http["match"]["items"]["properties"]["uri"]["oneOf"].is_array());
    let policy = of(Kind::PeerAuthentication);
    let mtls =
        &schema_of(&policy)["properties"]["spec"]["properties"]["portLevelMtls"]["additionalProperties"];
    assert_eq!(mtls["properties"]["mode"]["enum"], json!(["UNSET", "DISABLE", "PERMISSIVE", "STRICT"]));
}
