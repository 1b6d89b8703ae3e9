//! ServiceEntry: hosts outside of the mesh as names, routes, clusters and endpoints.

use mesh_proto::wire::mesh::v1 as wire;

use super::super::fixture::{Mesh, object, viewer};

fn entry(name: &str, spec: &str) -> String {
    object("ServiceEntry", name, &format!("{{{spec}}}"))
}

const WEB: &str = "ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}, {number: 443, name: tls, protocol: TLS}]";

fn api(rest: &str) -> Mesh {
    Mesh::with(&entry("api", &format!("hosts: [api.example.com], {WEB}, {rest}")))
}

/// `uid address weight` of each endpoint.
fn endpoints(mesh: &Mesh, port: u16) -> Vec<String> {
    let text = |e: wire::Endpoint| format!("{} {} {}", e.uid, e.address, e.weight);
    mesh.endpoints("api.example.com", port).into_iter().map(text).collect()
}

#[test]
fn a_host_has_its_own_name_for_dns_and_each_port_its_target() {
    let mesh = api("resolution: DNS");
    assert_eq!(endpoints(&mesh, 80), ["default/api/api.example.com api.example.com:8080 1"]);
    assert_eq!(endpoints(&mesh, 443), ["default/api/api.example.com api.example.com:443 1"]);
    let cluster = mesh.cluster(&viewer("money"), "api.example.com", 80).unwrap();
    assert_eq!(cluster.kind(), wire::EntryKind::EntryExternal);
    assert_eq!(cluster.addresses(), wire::Addresses::All);
    assert_eq!(
        cluster.policy.unwrap().tls(),
        wire::UpstreamTls::Disable,
        "outside there is no mTLS of the mesh"
    );
    assert_eq!(mesh.backends("money", "api.example.com", 80), [["api.example.com:80/=1"]]);
    assert!(mesh.destination(&viewer("money"), "api.example.com", 81).is_none());
}

#[test]
fn endpoints_have_ports_weights_places_and_labels() {
    let rule = object(
        "DestinationRule",
        "api",
        "{host: api.example.com, subsets: [{name: v1, labels: {version: v1}}], trafficPolicy: {outlierDetection: {consecutive5xxErrors: 3}}}",
    );
    let spec = format!(
        "hosts: [api.example.com], {WEB}, resolution: STATIC, endpoints: [\
         {{address: 192.0.2.1, ports: {{http: 81}}, weight: 3, locality: r/z, labels: {{version: v1, other: x}}}}, \
         {{address: 192.0.2.1, ports: {{http: 82}}}}]"
    );
    let mesh = Mesh::with(&format!("{}{rule}", entry("api", &spec)));
    assert_eq!(
        endpoints(&mesh, 80),
        ["default/api/192.0.2.1 192.0.2.1:81 3", "default/api/192.0.2.1~1 192.0.2.1:82 1"]
    );
    let first = mesh.endpoints("api.example.com", 80).remove(0);
    assert_eq!(first.labels, [("version".to_owned(), "v1".to_owned())].into());
    assert_eq!((first.locality.as_str(), first.mtls, first.identity.as_str()), ("r/z", false, ""));
    let cluster = mesh.cluster(&viewer("default"), "api.example.com", 80).unwrap();
    assert_eq!(cluster.subsets[0].name, "v1");
    assert_eq!(cluster.policy.unwrap().outlier_detection.unwrap().consecutive_5xx, 3);
}

#[test]
fn resolution_says_where_requests_go() {
    let addresses = |resolution: &str| {
        let mesh = api(resolution);
        mesh.cluster(&viewer("default"), "api.example.com", 80).unwrap().addresses()
    };
    assert_eq!(addresses("resolution: NONE"), wire::Addresses::Dialled);
    assert_eq!(addresses("resolution: DNS"), wire::Addresses::All);
    assert_eq!(addresses("resolution: DNS_ROUND_ROBIN"), wire::Addresses::First);
    assert!(endpoints(&api("resolution: NONE"), 80).is_empty());
}

#[test]
fn in_the_mesh_an_endpoint_has_the_identity_that_it_says() {
    let with = |location: &str, labels: &str| {
        let mesh = api(&format!(
            "location: {location}, resolution: STATIC, \
             endpoints: [{{address: 192.0.2.1, serviceAccount: vm, labels: {{{labels}}}}}]"
        ));
        let endpoint = mesh.endpoints("api.example.com", 80).remove(0);
        (endpoint.mtls, endpoint.identity)
    };
    let tls = "security.istio.io/tlsMode: istio";
    let identity = "spiffe://cluster.local/ns/default/sa/vm".to_owned();
    assert_eq!(with("MESH_INTERNAL", tls), (true, identity));
    assert_eq!(with("MESH_INTERNAL", ""), (false, String::new()));
    assert_eq!(with("MESH_EXTERNAL", tls), (false, String::new()));
}

#[test]
fn pods_of_its_namespace_are_selected() {
    let mesh = api("location: MESH_INTERNAL, resolution: STATIC, workloadSelector: {labels: {app: reviews}}");
    assert_eq!(endpoints(&mesh, 80), ["r1 10.1.0.1:8080 1", "r2 10.1.0.2:8080 1"]);
    assert!(mesh.endpoints("api.example.com", 80)[0].mtls);
    // The pod tells its metrics' name by its Service too.
    let own = mesh.self_config("reviews-v1-0");
    let port = own.ports.iter().find(|port| port.port == 8080).unwrap();
    assert_eq!(port.services[0].host, "api.example.com");
}

#[test]
fn who_sees_it_and_under_which_addresses() {
    let mesh = api("exportTo: [.], addresses: [192.0.2.7, 198.51.100.0/24], resolution: DNS");
    assert!(mesh.catalogue("money", "default").iter().all(|entry| entry.host != "api.example.com"));
    let entries = mesh.catalogue("default", "default");
    let entry = entries.iter().find(|entry| entry.host == "api.example.com").unwrap();
    assert_eq!(entry.kind(), wire::EntryKind::EntryExternal);
    assert_eq!(
        (&entry.vips[..], &entry.cidrs[..]),
        (&["192.0.2.7".to_owned()][..], &["198.51.100.0/24".to_owned()][..])
    );
    assert!(mesh.cluster(&viewer("money"), "api.example.com", 80).is_none());
}

#[test]
fn a_host_that_several_objects_have_is_the_services_then_the_oldest_entrys() {
    let entry_of = |name: &str, host: &str, at: &str| {
        entry(
            name,
            &format!(
                "hosts: [{host}], ports: [{{number: 80, name: http, protocol: HTTP}}], resolution: STATIC, endpoints: [{{address: {at}}}]"
            ),
        )
    };
    let host = "reviews.default.svc.cluster.local";
    let mesh = Mesh::with(&format!(
        "{}{}{}",
        entry_of("b", "x.example", "192.0.2.2"),
        entry_of("a", "x.example", "192.0.2.1"),
        entry_of("c", host, "192.0.2.3")
    ));
    assert_eq!(mesh.endpoints("x.example.", 80)[0].address, "192.0.2.1:80");
    assert!(mesh.endpoints("reviews", 9080).iter().all(|endpoint| endpoint.address.starts_with("10.1.")));
    let told = mesh.told();
    assert!(
        told.iter()
            .any(|t| t == "b: the host x.example is that of ServiceEntry default/a, which comes first"),
        "{told:?}"
    );
    assert!(
        told.iter().any(|t| t.starts_with(&format!("c: the host {host} is that of Service"))),
        "{told:?}"
    );
}

#[test]
fn routes_and_rules_that_name_it_know_it() {
    let routes = object(
        "VirtualService",
        "api",
        "{hosts: [api.example.com], http: [{timeout: 2s, route: [{destination: {host: api.example.com, port: {number: 80}}}]}]}",
    );
    let mesh = Mesh::with(&format!(
        "{}{routes}",
        entry("api", &format!("hosts: [api.example.com], {WEB}, resolution: DNS"))
    ));
    assert!(mesh.told().iter().all(|told| !told.starts_with("api")), "{:?}", mesh.told());
    let Some(wire::rule::Action::Route(route)) = mesh.rules("api.example.com", 80).remove(0).action else {
        panic!()
    };
    assert_eq!(route.timeout.unwrap().seconds, 2);
}

fn secured(
    tls: &str,
    entry_more: &str,
    viewer: &crate::snapshot::Viewer,
) -> (wire::UpstreamTls, Option<wire::ClientTls>) {
    let rule = object(
        "DestinationRule",
        "api",
        &format!("{{host: api.example.com, trafficPolicy: {{tls: {{{tls}}}}}}}"),
    );
    let mesh = Mesh::with(&format!(
        "{}{rule}",
        entry("api", &format!("hosts: [api.example.com], {WEB}, resolution: DNS{entry_more}"))
    ));
    let policy = mesh.cluster(viewer, "api.example.com", 443).unwrap().policy.unwrap();
    (policy.tls(), policy.client_tls)
}

#[test]
fn tls_to_the_outside_is_what_the_rule_says() {
    use wire::ca_certificates::Source as CaSource;
    use wire::key_pair::Source as KeySource;
    let sidecar = viewer("default");
    let of = |tls: &str| {
        let (mode, tls) = secured(tls, "", &sidecar);
        assert_eq!(mode, wire::UpstreamTls::Originate);
        tls.unwrap()
    };
    assert_eq!(of("mode: SIMPLE"), wire::ClientTls::default(), "the machine's authorities, the host's name");
    let simple = of("mode: SIMPLE, caCertificates: /ca.pem, sni: A.example, subjectAltNames: [b.example]");
    assert_eq!(simple.ca.unwrap().source, Some(CaSource::File("/ca.pem".into())));
    assert_eq!((simple.sni.as_str(), simple.subject_alt_names), ("a.example", vec!["b.example".to_owned()]));
    let mutual = of("mode: MUTUAL, clientCertificate: /c.pem, privateKey: /k.pem");
    let files = wire::FileKeyPair { certificate_chain: "/c.pem".into(), private_key: "/k.pem".into() };
    assert_eq!(mutual.key_pair.unwrap().source, Some(KeySource::Files(files)));
    assert!(of("mode: SIMPLE, insecureSkipVerify: true").insecure_skip_verify);
    let (mode, named) = secured("mode: ISTIO_MUTUAL, sni: a.example", "", &sidecar);
    assert_eq!((mode, named.unwrap().sni.as_str()), (wire::UpstreamTls::IstioMutual, "a.example"));
}

#[test]
fn the_names_of_a_service_entry_count_where_the_rule_has_none() {
    let names =
        |tls: &str| secured(tls, ", subjectAltNames: [partner.example]", &viewer("default")).1.unwrap();
    assert_eq!(names("mode: SIMPLE").subject_alt_names, ["partner.example"]);
    assert_eq!(names("mode: SIMPLE, subjectAltNames: [b.example]").subject_alt_names, ["b.example"]);
    assert!(names("mode: SIMPLE, insecureSkipVerify: true").subject_alt_names.is_empty());
}

/// TLS of the mesh: identities that are written down take the place of the endpoints' own.
#[test]
fn identities_that_are_written_down() {
    let id = "spiffe://cluster.local/ns/partner/sa/api";
    let entry = |names: &str| {
        let spec = format!(
            "{{hosts: [api.example.com], {WEB}, location: MESH_INTERNAL, resolution: STATIC, endpoints: [{{address: 10.9.9.9}}]{names}}}"
        );
        object("ServiceEntry", "api", &spec)
    };
    let of = |rule: &str, names: &str| {
        let rule = format!("{{host: api.example.com, trafficPolicy: {{tls: {{{rule}}}}}}}");
        let rule = if rule.contains("mode") { object("DestinationRule", "r", &rule) } else { String::new() };
        let mesh = Mesh::with(&format!("{rule}{}", entry(names)));
        let policy = mesh.cluster(&viewer("default"), "api.example.com", 443).unwrap().policy.unwrap();
        (policy.tls(), policy.client_tls.unwrap_or_default().subject_alt_names)
    };
    let (auto, mutual) = (wire::UpstreamTls::Auto, wire::UpstreamTls::IstioMutual);
    let named = format!(", subjectAltNames: [dns.example, '{id}']");
    assert_eq!(of("", ""), (auto, vec![]));
    assert_eq!(of("", &named), (auto, vec![id.to_owned()]));
    assert_eq!(of("mode: ISTIO_MUTUAL", &named), (mutual, vec![id.to_owned()]));
    let other = "spiffe://cluster.local/ns/a/sa/b";
    let rule = format!("mode: ISTIO_MUTUAL, subjectAltNames: ['{other}']");
    assert_eq!(of(&rule, &named), (mutual, vec![other.to_owned()]));
    assert_eq!(of("mode: DISABLE", &named), (wire::UpstreamTls::Disable, vec![]));
}

#[test]
fn a_gateway_gets_the_secret_that_a_rule_names() {
    use super::super::fixture::gateway;
    let rule = object(
        "DestinationRule",
        "api",
        "{host: api.example.com, exportTo: [default, istio-system], trafficPolicy: {portLevelSettings: [{port: {number: 443}, tls: {mode: MUTUAL, credentialName: c}}]}}",
    );
    let secret = |namespace: &str| {
        format!(
            "---\n{{apiVersion: v1, kind: Secret, metadata: {{name: c, namespace: {namespace}}}, stringData: {{cert: C, key: K, cacert: A}}}}\n"
        )
    };
    let text = [
        entry("api", &format!("hosts: [api.example.com], {WEB}, resolution: DNS")),
        rule,
        secret("istio-system"),
        secret("default"),
    ];
    let mesh = Mesh::with(&text.concat());
    let config = &mesh.snapshot.config;
    assert_eq!(super::super::secret_names(config, &gateway()), ["istio-system/c"]);
    let made = super::super::secret(config, &gateway(), "istio-system/c").unwrap().message;
    assert_eq!((&made.private_key[..], &made.ca_certificates[..]), (&b"K"[..], &b"A"[..]));
    assert!(super::super::secret(config, &gateway(), "default/c").is_none(), "of its own namespace only");
    let elsewhere = super::super::fixture::labelled("money", true, &[]);
    assert!(super::super::secret_names(config, &elsewhere).is_empty(), "it does not see the rule");
    let tls = mesh.cluster(&gateway(), "api.example.com", 443).unwrap().policy.unwrap().client_tls.unwrap();
    let source = wire::key_pair::Source::Secret("istio-system/c".into());
    assert_eq!(tls.key_pair.unwrap().source, Some(source));
}

#[test]
fn tls_rules_of_sidecars_lead_where_the_server_name_says() {
    let rules = |gateways: &str| {
        object(
            "VirtualService",
            "api",
            &format!(
                "{{hosts: ['*.example.com'], gateways: [{gateways}], tls: [{{match: [{{port: 443, sniHosts: [api.example.com]}}], route: [{{destination: {{host: reviews, port: {{number: 9080}}}}}}]}}]}}"
            ),
        )
    };
    let of = |gateways: &str, port: u16| {
        let mesh = Mesh::with(&format!(
            "{}{}",
            entry("api", &format!("hosts: [api.example.com], {WEB}, resolution: DNS")),
            rules(gateways)
        ));
        mesh.destination(&viewer("default"), "api.example.com", port).unwrap().tls
    };
    let made = of("mesh", 443);
    assert_eq!(made[0].sni_hosts, ["api.example.com"]);
    let to = made[0].rule.as_ref().unwrap().backends[0].cluster.as_ref().unwrap();
    assert_eq!((to.host.as_str(), to.port), ("reviews.default.svc.cluster.local", 9080));
    assert!(of("mesh", 80).is_empty());
    assert!(of("g", 443).is_empty(), "of a gateway only");
}

#[test]
fn a_gateways_pod_has_an_identity_and_takes_no_mtls_by_itself() {
    let mesh = Mesh::with(
        "{apiVersion: v1, kind: Service, metadata: {name: exit}, spec: {clusterIP: 10.0.0.9, selector: {app: exit}, ports: [{port: 80, name: http}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: exit-0, uid: e0, labels: {app: exit}, annotations: {inject.istio.io/templates: gateway, sidecar.istio.io/status: injected}}, spec: {serviceAccountName: exit, containers: [{name: istio-proxy}]}, status: {podIP: 10.1.0.9, phase: Running, conditions: [{type: Ready, status: 'True'}]}}",
    );
    let endpoint = mesh.endpoints("exit", 80).remove(0);
    assert_eq!(
        (endpoint.mtls, endpoint.identity.as_str()),
        (false, "spiffe://cluster.local/ns/default/sa/exit")
    );
}
