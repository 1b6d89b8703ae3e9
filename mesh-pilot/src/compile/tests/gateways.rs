//! Gateways: who serves what, and how VirtualServices are bound.

use super::super::fixture::{Mesh, backends, gateway, labelled, object};
use super::super::listener_ports;

fn edge(name: &str, hosts: &str, port: u16) -> String {
    let server = format!("{{port: {{number: {port}, name: http, protocol: HTTP}}, hosts: [{hosts}]}}");
    object("Gateway", name, &format!("{{selector: {{istio: ingressgateway}}, servers: [{server}]}}"))
}

fn bound(name: &str, gateways: &str, hosts: &str, to: &str) -> String {
    let spec = format!(
        "{{hosts: [{hosts}], gateways: [{gateways}], http: [{{route: [{{destination: {{host: {to}}}}}]}}]}}"
    );
    object("VirtualService", name, &spec)
}

/// `domain -> backend, backend` of each virtual host.
fn served(yaml: &str, port: u16) -> Vec<String> {
    let listener = Mesh::with(yaml).listener(port);
    let hosts = listener.map(|listener| listener.virtual_hosts).unwrap_or_default();
    let line = |host: &mesh_proto::wire::mesh::v1::VirtualHost| {
        let rules = &host.table.as_ref().unwrap().rules;
        format!(
            "{} -> {}",
            host.domains.join(","),
            rules.iter().flat_map(backends).collect::<Vec<_>>().join(", ")
        )
    };
    hosts.iter().map(line).collect()
}

#[test]
fn a_selected_workload_listens() {
    let mesh = Mesh::with(&format!("{}{}", edge("a", "'*'", 80), edge("b", "'*'", 8080)));
    assert_eq!(listener_ports(&mesh.snapshot.config, &gateway()), [80, 8080]);
    let other = labelled("istio-system", true, &[("istio", "egressgateway")]);
    assert!(listener_ports(&mesh.snapshot.config, &other).is_empty());
    let sidecar = labelled("istio-system", false, &[("istio", "ingressgateway")]);
    assert!(listener_ports(&mesh.snapshot.config, &sidecar).is_empty());
    // No VirtualService: it listens, and answers 404.
    assert!(mesh.listener(80).unwrap().virtual_hosts.is_empty());
    assert!(mesh.told()[0].starts_with("a: no VirtualService is bound to it"), "{:?}", mesh.told());
}

#[test]
fn hosts_meet_in_the_narrower_one() {
    let case = |server: &str, hosts: &str| {
        served(&format!("{}{}", edge("a", server, 80), bound("v", "a", hosts, "reviews")), 80)
    };
    let to = |host: &str| vec![format!("{host} -> reviews.default:9080/=1")];
    assert_eq!(case("'*'", "a.example.com"), to("a.example.com"));
    assert_eq!(case("a.example.com", "'*'"), to("a.example.com"));
    assert_eq!(case("'*.example.com'", "'*.a.example.com'"), to("*.a.example.com"));
    assert_eq!(case("A.Example.com", "a.example.com"), to("a.example.com"));
    assert!(case("'*.example.com'", "example.com").is_empty(), "*.x does not name x");
    assert!(case("a.example.com", "b.example.com").is_empty());
    assert_eq!(case("'*'", "'*'"), to("*"));
}

/// `name` is of the VirtualService's own namespace; the server says whose VirtualServices it takes.
#[test]
fn who_may_bind() {
    let case = |server: &str, name: &str, gateways: &str| {
        !served(
            &format!("{}{}", edge("edge/a", server, 80), bound(name, gateways, "x.com", "bank.money.svc")),
            80,
        )
        .is_empty()
    };
    assert!(case("'*'", "money/v", "edge/a"));
    assert!(!case("'*'", "money/v", "a"), "there is no money/a");
    assert!(!case("'*'", "money/v", "mesh"));
    assert!(case("'*'", "edge/v", "a"));
    assert!(case("money/x.com", "money/v", "edge/a"));
    assert!(!case("./x.com", "money/v", "edge/a"));
    assert!(case("./x.com", "edge/v", "a"));
    assert!(case("'*/x.com'", "money/v", "edge/a"));
}

#[test]
fn servers_of_one_port_are_merged() {
    let yaml = format!(
        "{}{}{}{}",
        edge("a", "a.com", 80),
        edge("b", "b.com", 80),
        bound("v", "a", "a.com", "reviews"),
        bound("w", "b", "b.com", "ratings")
    );
    assert_eq!(served(&yaml, 80), ["a.com -> reviews.default:9080/=1", "b.com -> ratings.default:80/=1"]);
    assert_eq!(Mesh::with(&yaml).listener(80).unwrap().origins.len(), 2);
}

/// Of several VirtualServices for one host: the oldest first, but what takes everything last.
#[test]
fn rules_of_one_host_follow_one_another() {
    let exact = |name: &str, to: &str| {
        let spec = format!(
            "{{hosts: [x.com], gateways: [a], http: [{{match: [{{uri: {{prefix: /p}}}}], route: [{{destination: {{host: {to}}}}}]}}]}}"
        );
        object("VirtualService", name, &spec)
    };
    let yaml = format!(
        "{}{}{}{}",
        edge("a", "'*'", 80),
        bound("a", "a", "x.com", "reviews"),
        exact("b", "ratings"),
        exact("c", "bank.money")
    );
    assert_eq!(
        served(&yaml, 80),
        ["x.com -> ratings.default:80/=1, bank.money:443/=1, reviews.default:9080/=1"]
    );
}

/// A match's own `gateways` and `port` are looked at for this gateway.
#[test]
fn static_selectors_at_gateways() {
    let case = |selector: &str| {
        let spec = format!(
            "{{hosts: [x.com], gateways: [a, mesh], http: [{{match: [{{{selector}}}], route: [{{destination: {{host: reviews}}}}]}}]}}"
        );
        served(&format!("{}{}", edge("a", "'*'", 80), object("VirtualService", "v", &spec)), 80)
            == ["x.com -> reviews.default:9080/=1"]
    };
    assert!(case("gateways: [a]"));
    assert!(!case("gateways: [mesh]"));
    assert!(!case("gateways: [b]"));
    assert!(case("port: 80"));
    assert!(!case("port: 81"));
}

/// A server that cannot be served as it says is left unserved: serving it without would be worse.
#[test]
fn servers_that_cannot_be_served_are_left_out() {
    let plain = edge("a", "'*'", 80);
    let ports = |yaml: &str| listener_ports(&Mesh::with(yaml).snapshot.config, &gateway());
    assert_eq!(ports(&plain), [80]);
    let only_auth = plain.replace(
        "servers:",
        "auth: {policy: {rules: [{hosts: ['*'], tls: [{mode: STRICT, verify: {caCertificates: c}}]}]}}, servers:",
    );
    assert!(ports(&only_auth).is_empty(), "a CA without a certificate");
    let elsewhere = only_auth
        .replace("rules: [{hosts: ['*']", "rules: [{hosts: ['b.com']")
        .replace("hosts: ['*']}", "hosts: ['a.com']}");
    assert_eq!(ports(&elsewhere), [80], "the CA is for other hosts");
    let told = Mesh::with(&format!("{only_auth}{}", bound("v", "a", "x.com", "reviews"))).told();
    assert_eq!(told, ["v: no server of Gateway default/a is served"]);
}

/// Istio's mapping: the port of the Service in front is the Gateway's, its targetPort is bound.
#[test]
fn a_service_in_front_moves_the_port() {
    let service = "---\n{apiVersion: v1, kind: Service, metadata: {name: edge, namespace: istio-system}, spec: {clusterIP: 10.0.0.9, selector: {istio: ingressgateway}, ports: [{port: 80, name: http, targetPort: 8080}, {port: 81, name: http-b}]}}\n";
    let target = |yaml: &str, port| Mesh::with(yaml).listener(port).unwrap().target_port;
    let both = format!("{}{}", edge("a", "'*'", 80), edge("b", "'*'", 81));
    assert_eq!(target(&both, 80), 0);
    assert_eq!(target(&format!("{both}{service}"), 80), 8080);
    assert_eq!(target(&format!("{both}{service}"), 81), 81);
    let elsewhere = service.replace("istio: ingressgateway", "istio: other");
    assert_eq!(target(&format!("{both}{elsewhere}"), 80), 0);
}

#[test]
fn the_line_that_binds_is_named() {
    let told = |rules: &str| Mesh::with(&format!("{}{rules}", edge("a", "'*'", 80))).told().remove(0);
    let told_of = |spec: &str| told(&object("VirtualService", "v", spec));
    let http = "http: [{route: [{destination: {host: reviews}}]}]";
    let line = told_of(&format!("{{hosts: [x.com], {http}}}"));
    assert!(
        line.contains("add the line `gateways: [mesh, a]` to spec of VirtualService default/v (mesh.yaml:"),
        "{line}"
    );
    assert!(told("").ends_with("by the line `gateways: [default/a]` in its spec"));
}

#[test]
fn hosts_that_no_server_has_are_told() {
    let told =
        Mesh::with(&format!("{}{}", edge("a", "a.com", 80), bound("v", "a", "b.com", "reviews"))).told();
    assert_eq!(told, ["v: no server of Gateway default/a has one of its hosts (IST0132)"]);
}
