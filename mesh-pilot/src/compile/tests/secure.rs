//! Gateways that end TLS or pass it on: which name, which certificate, which routes, and who gets which Secret.

use mesh_proto::discovery::{CERTIFICATE_RULES, FEATURES, TLS_PARAMETERS};
use mesh_proto::wire::mesh::v1 as wire;
use wire::tls_server::Action;

use super::super::fixture::{Mesh, gateway, labelled, object, viewer};
use super::super::{listener_ports, secret, secret_names};
use crate::snapshot::MeshOptions;
use crate::snapshot::Viewer;
use mesh_proto::model::TlsParameters;
use mesh_proto::model::tls::{CipherSuite, Group};

fn edge(name: &str, servers: &str) -> String {
    object("Gateway", name, &format!("{{selector: {{istio: ingressgateway}}, servers: [{servers}]}}"))
}

fn https(hosts: &str, tls: &str) -> String {
    format!("{{port: {{number: 443, name: https, protocol: HTTPS}}, hosts: [{hosts}], tls: {{{tls}}}}}")
}

fn bound(name: &str, hosts: &str) -> String {
    let spec = format!(
        "{{hosts: [{hosts}], gateways: [a, b], http: [{{route: [{{destination: {{host: reviews}}}}]}}]}}"
    );
    object("VirtualService", name, &spec)
}

fn servers(yaml: &str) -> Vec<wire::TlsServer> {
    Mesh::with(yaml).listener(443).map(|listener| listener.tls_servers).unwrap_or_default()
}

fn inside(server: &wire::TlsServer) -> &wire::TlsTermination {
    match server.action.as_ref().unwrap() {
        Action::Terminate(inside) => inside,
        Action::Forward(rule) => panic!("{rule:?}"),
    }
}

/// `hosts | certificates | clients | ca | virtual hosts`.
fn line(server: &wire::TlsServer) -> String {
    let inside = inside(server);
    let settings = inside.settings.as_ref().unwrap();
    let pair = |pair: &wire::KeyPair| match pair.source.as_ref().unwrap() {
        wire::key_pair::Source::Secret(name) => name.clone(),
        wire::key_pair::Source::Files(files) => format!("{}+{}", files.certificate_chain, files.private_key),
        wire::key_pair::Source::Mesh(_) => "mesh".to_owned(),
    };
    let pairs: Vec<String> = settings.key_pairs.iter().map(pair).collect();
    let ca = match settings.ca.as_ref().and_then(|ca| ca.source.as_ref()) {
        Some(wire::ca_certificates::Source::Secret(name) | wire::ca_certificates::Source::File(name)) => name,
        Some(wire::ca_certificates::Source::Mesh(_)) => "mesh",
        None => "-",
    };
    let clients = ["none", "required", "optional"][settings.clients as usize];
    let hosts: Vec<String> = inside.virtual_hosts.iter().map(|host| host.domains.join(",")).collect();
    format!("{} | {} | {clients} | {ca} | {}", server.hosts.join(","), pairs.join(","), hosts.join(","))
}

fn lines(yaml: &str) -> Vec<String> {
    servers(yaml).iter().map(line).collect()
}

#[test]
fn modes_and_where_certificates_come_from() {
    let of =
        |tls: &str| lines(&format!("{}{}", edge("a", &https("x.com", tls)), bound("v", "x.com"))).remove(0);
    assert_eq!(of("mode: SIMPLE, credentialName: c"), "x.com | istio-system/c | none | - | x.com");
    assert_eq!(
        of("mode: MUTUAL, credentialName: c"),
        "x.com | istio-system/c | required | istio-system/c | x.com"
    );
    assert_eq!(
        of("mode: MUTUAL, credentialName: c, caCertCredentialName: d"),
        "x.com | istio-system/c | required | istio-system/d | x.com"
    );
    assert_eq!(
        of("mode: OPTIONAL_MUTUAL, serverCertificate: c, privateKey: k, caCertificates: a"),
        "x.com | c+k | optional | a | x.com"
    );
    assert_eq!(of("mode: ISTIO_MUTUAL"), "x.com | mesh | required | mesh | x.com");
    assert_eq!(
        of("mode: SIMPLE, credentialNames: [c, d]"),
        "x.com | istio-system/c,istio-system/d | none | - | x.com"
    );
}

#[test]
fn versions_and_suites() {
    let of = |tls: &str| {
        let server = servers(&edge("a", &https("x.com", &format!("mode: SIMPLE, credentialName: c{tls}"))));
        let said = inside(&server[0]).settings.clone().unwrap().parameters;
        let spoken = said.unwrap_or_else(|| (&TlsParameters::default()).into());
        (spoken.tls12, spoken.tls13, spoken.cipher_suites)
    };
    assert_eq!(of(""), (true, true, vec![]));
    assert_eq!(of(", minProtocolVersion: TLSV1_3"), (false, true, vec![]));
    assert_eq!(of(", maxProtocolVersion: TLSV1_2"), (true, false, vec![]));
    let suite = "ECDHE-RSA-AES128-GCM-SHA256";
    assert_eq!(of(&format!(", cipherSuites: [AES128-SHA, {suite}]")), (true, true, vec![suite.to_owned()]));
    // None of them is there: TLS 1.2 would have none.
    assert_eq!(of(", cipherSuites: [AES128-SHA]"), (false, true, vec![]));
}

/// `tlsDefaults` are for what a server does not say; `meshMTLS` is for servers that take members of the mesh. Both are for
/// what follows them, without a restart: see the index's stories of options.
#[test]
fn what_the_mesh_says_of_tls() {
    let suite = CipherSuite::EcdheRsaAes128Gcm;
    let options = MeshOptions {
        tls_defaults: TlsParameters {
            tls12: false,
            cipher_suites: vec![suite],
            groups: vec![Group::P256],
            ..TlsParameters::default()
        },
        mesh_tls: TlsParameters { groups: vec![Group::X25519Mlkem768], ..TlsParameters::default() },
        ..MeshOptions::default()
    };
    let of = |server: &str| {
        let mesh = Mesh::with_options(options.clone(), &edge("a", server));
        let servers = mesh.listener(443).unwrap().tls_servers;
        let spoken = inside(&servers[0]).settings.clone().unwrap().parameters.unwrap();
        format!("{} {} {:?} {:?}", spoken.tls12, spoken.tls13, spoken.cipher_suites, spoken.ecdh_curves)
    };
    let simple = |more: &str| of(&https("x.com", &format!("mode: SIMPLE, credentialName: c{more}")));
    let rsa = "ECDHE-RSA-AES128-GCM-SHA256";
    assert_eq!(simple(""), format!("false true [{rsa:?}] [\"P-256\"]"));
    assert_eq!(simple(", minProtocolVersion: TLSV1_2"), format!("true true [{rsa:?}] [\"P-256\"]"));
    let own = "ECDHE-ECDSA-CHACHA20-POLY1305";
    assert_eq!(simple(&format!(", cipherSuites: [{own}]")), format!("false true [{own:?}] [\"P-256\"]"));
    assert_eq!(of(&https("x.com", "mode: ISTIO_MUTUAL")), "true true [] [\"X25519MLKEM768\"]");
    let newest = "mode: ISTIO_MUTUAL, minProtocolVersion: TLSV1_3";
    assert_eq!(of(&https("x.com", newest)), "false true [] [\"X25519MLKEM768\"]");
    // TLS to the outside.
    let rule = "{host: reviews, trafficPolicy: {tls: {mode: SIMPLE}}}";
    let mesh = Mesh::with_options(options.clone(), &object("DestinationRule", "d", rule));
    let tls = mesh.policy("reviews", 9080).client_tls.unwrap();
    assert_eq!(tls.parameters.unwrap().ecdh_curves, ["P-256"]);
}

/// A proxy that would drop what narrows TLS in silence refuses the resource instead; nobody else is asked for anything.
#[test]
fn what_narrows_tls_has_to_be_known() {
    let parameters = TlsParameters { tls12: false, ..TlsParameters::default() };
    let narrow =
        MeshOptions { mesh_tls: parameters.clone(), tls_defaults: parameters, ..MeshOptions::default() };
    let of = |options: &MeshOptions, server: &str, tls: &str| {
        let rule = format!(
            "{{host: reviews, subsets: [{{name: v1, labels: {{}}, trafficPolicy: {{tls: {{{tls}}}}}}}]}}"
        );
        let yaml = format!("{}{}", edge("a", &https("x.com", server)), object("DestinationRule", "d", &rule));
        let mesh = Mesh::with_options(options.clone(), &yaml);
        let own = mesh.self_config("reviews-v1-0").requires;
        [
            own,
            mesh.listener(443).unwrap().requires,
            mesh.cluster(&viewer("default"), "reviews", 9080).unwrap().requires,
        ]
    };
    let none: [&[&str]; 3] = [&[], &[], &[]];
    let as_usual = MeshOptions::default();
    let simple = "mode: SIMPLE, credentialName: c";
    assert_eq!(of(&as_usual, simple, "mode: SIMPLE"), none);
    let all: &[&str] = &[TLS_PARAMETERS];
    assert_eq!(of(&narrow, simple, "mode: SIMPLE"), [all, all, all]);
    assert_eq!(of(&narrow, simple, "mode: DISABLE"), [all, all, &[]]);
    let rules: &[&str] = &[CERTIFICATE_RULES];
    let listed = "mode: SIMPLE, caCertificates: /a, caCrl: /b";
    assert_eq!(of(&as_usual, "mode: MUTUAL, credentialName: c, caCrl: /c", listed), [&[], rules, rules]);
    assert_eq!(
        of(&as_usual, "mode: MUTUAL, credentialName: c, subjectAltNames: [a]", "mode: SIMPLE"),
        [&[], rules, &[]]
    );
    let newest = "mode: SIMPLE, credentialName: c, minProtocolVersion: TLSV1_3";
    assert_eq!(of(&as_usual, newest, "mode: SIMPLE"), [&[], all, &[]]);
    assert!([TLS_PARAMETERS, CERTIFICATE_RULES].iter().all(|name| FEATURES.contains(name)));
}

/// Which clients: names, pins (two spellings of one), what was revoked.
#[test]
fn which_clients() {
    let hash = "ab".repeat(32);
    let colons = vec!["AB"; 32].join(":");
    let pin = "q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s=";
    let of = |tls: &str| {
        let server = servers(&edge("a", &https("x.com", &format!("mode: MUTUAL, credentialName: c{tls}"))));
        inside(&server[0]).settings.clone().unwrap()
    };
    assert_eq!((of("").rules, of("").crl), (None, None));
    let settings = of(&format!(
        ", subjectAltNames: [a, b], verifyCertificateSpki: ['{pin}'], verifyCertificateHash: ['{hash}', '{colons}'], \
         caCrl: /crl.pem"
    ));
    let rules = settings.rules.unwrap();
    let bytes = bytes::Bytes::from(vec![0xab; 32]);
    assert_eq!(rules.subject_alt_names, ["a", "b"]);
    assert_eq!(
        (rules.spki_sha256, rules.certificate_sha256),
        (vec![bytes.clone()], vec![bytes.clone(), bytes])
    );
    assert_eq!(settings.crl.unwrap().source, Some(wire::ca_certificates::Source::File("/crl.pem".into())));
}

/// AUTO_PASSTHROUGH: each service of the mesh that is exported to the gateway and that its hosts name, each port, each subset.
#[test]
fn mtls_of_the_mesh_is_passed_on_by_name() {
    let server = |host: &str| {
        edge(
            "a",
            &format!(
                "{{port: {{number: 443, name: tls, protocol: TLS}}, hosts: ['{host}'], tls: {{mode: AUTO_PASSTHROUGH}}}}"
            ),
        )
    };
    let more = "---
{apiVersion: v1, kind: Service, metadata: {name: hidden, annotations: {networking.istio.io/exportTo: '.'}}, spec: {clusterIP: 10.0.0.9, ports: [{port: 80, name: http}]}}
---
{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: outside}, spec: {hosts: [api.example.com], ports: [{number: 443, name: tls, protocol: TLS}], resolution: DNS}}
---
{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: d}, spec: {host: reviews, subsets: [{name: v1, labels: {version: v1}}]}}
";
    let names = |host: &str| -> Vec<String> {
        let servers = servers(&format!("{}{more}", server(host)));
        let forwarded = |server: &wire::TlsServer| match server.action.as_ref().unwrap() {
            Action::Forward(rule) => rule.mesh_tls,
            Action::Terminate(_) => false,
        };
        assert!(servers.iter().all(forwarded), "{servers:?}");
        servers.into_iter().flat_map(|server| server.hosts).collect()
    };
    assert_eq!(
        names("*.local"),
        [
            "outbound_.443_._.bank.money.svc.cluster.local",
            "outbound_.80_._.ratings.default.svc.cluster.local",
            "outbound_.3306_._.ratings.default.svc.cluster.local",
            "outbound_.9080_._.reviews.default.svc.cluster.local",
            "outbound_.9080_.v1_.reviews.default.svc.cluster.local",
        ]
    );
    assert_eq!(names("*.money.svc.cluster.local"), ["outbound_.443_._.bank.money.svc.cluster.local"]);
    assert_eq!(names("money/*"), ["outbound_.443_._.bank.money.svc.cluster.local"]);
    assert_eq!(names("*.global"), [""; 0]);
    // Without a VirtualService, and its clusters are there before the gateway is ready.
    let listener = Mesh::with(&server("bank.money.svc.cluster.local")).listener(443).unwrap();
    let cluster = listener.backends().next().unwrap().cluster.clone().unwrap();
    assert_eq!((cluster.host.as_str(), cluster.port), ("bank.money.svc.cluster.local", 443));
}

/// Each server has its own routes; a name that two servers have is the first one's.
#[test]
fn names_choose_servers() {
    let one = https("a.com, '*.b.com'", "mode: SIMPLE, credentialName: c");
    let two = https("d.com, a.com", "mode: SIMPLE, credentialName: e");
    let yaml = format!("{}{}{}", edge("a", &one), edge("b", &two), bound("v", "a.com, x.b.com, d.com"));
    assert_eq!(
        lines(&yaml),
        [
            "*.b.com,a.com | istio-system/c | none | - | a.com,x.b.com",
            "d.com | istio-system/e | none | - | a.com,d.com"
        ]
    );
    let told = Mesh::with(&yaml).told();
    assert!(
        told.iter().any(|text| text
            == "b: servers[0]: a.com on port 443 is served by servers[0] of Gateway default/a, which comes first (IST0145)"),
        "{told:?}"
    );
}

#[test]
fn plaintext_and_tls_do_not_share_a_port() {
    let plain = "{port: {number: 443, name: http, protocol: HTTP}, hosts: ['*']}";
    let yaml = format!(
        "{}{}{}",
        edge("a", &https("a.com", "mode: SIMPLE, credentialName: c")),
        edge("b", plain),
        bound("v", "a.com")
    );
    let listener = Mesh::with(&yaml).listener(443).unwrap();
    assert_eq!((listener.tls_servers.len(), listener.virtual_hosts.len()), (1, 0));
    let told = Mesh::with(&yaml).told();
    assert!(told.iter().any(|text| text.starts_with("b: servers[0] is not served: port 443")), "{told:?}");
}

#[test]
fn redirects_need_no_routes() {
    let plain = "{port: {number: 80, name: http, protocol: HTTP}, hosts: [a.com, './b.com'], tls: {httpsRedirect: true}}";
    let yaml = format!("{}{}", edge("a", plain), bound("v", "a.com"));
    let hosts = Mesh::with(&yaml).listener(80).unwrap().virtual_hosts;
    let told: Vec<_> = hosts
        .iter()
        .map(|h| (h.domains[0].as_str(), h.https_redirect, h.table.as_ref().unwrap().rules.len()))
        .collect();
    assert_eq!(told, [("a.com", true, 1), ("b.com", true, 0)]);
}

/// The user's own form: the certificate of `spec.tls` for servers whose hosts match, `spec.auth` demands client certificates.
#[test]
fn the_forms_of_this_mesh() {
    let own = |server: &str, tls: &str, auth: &str| {
        let spec = format!(
            "{{selector: {{istio: ingressgateway}}, servers: [{{port: {{number: 443, name: http, protocol: HTTP}}, hosts: [{server}]}}], tls: [{tls}], auth: {{policy: {{rules: [{auth}]}}}}}}"
        );
        lines(&format!("{}{}", object("Gateway", "a", &spec), bound("v", "'*'")))
    };
    let cert = |hosts: &str, name: &str| {
        format!("{{hosts: [{hosts}], serverCertificate: {name}.crt, privateKey: {name}.key}}")
    };
    let rule = |hosts: &str| {
        format!("{{hosts: [{hosts}], tls: [{{mode: STRICT, verify: {{caCertificates: ca.pem}}}}]}}")
    };
    assert_eq!(own("'*'", &cert("'*'", "c"), &rule("'*'")), ["* | c.crt+c.key | required | ca.pem | *"]);
    assert_eq!(own("'*'", &cert("'*'", "c"), ""), ["* | c.crt+c.key | none | - | *"]);
    assert_eq!(
        own("a.com, b.com", &format!("{}, {}", cert("a.com", "a"), cert("b.com", "b")), &rule("b.com")),
        ["a.com | a.crt+a.key | none | - | a.com", "b.com | b.crt+b.key | required | ca.pem | b.com"]
    );
}

#[test]
fn passthrough_follows_sni() {
    let server =
        "{port: {number: 443, name: tls, protocol: TLS}, hosts: ['*.x.com'], tls: {mode: PASSTHROUGH}}";
    let spec = "{hosts: ['*.x.com', y.com], gateways: [a], tls: [{match: [{sniHosts: [a.x.com], port: 443}], route: [{destination: {host: bank.money, port: {number: 443}}}]}, {match: [{sniHosts: [y.com]}, {sniHosts: [b.x.com], port: 444}], route: [{destination: {host: reviews}}]}]}";
    let servers = servers(&format!("{}{}", edge("a", server), object("VirtualService", "v", spec)));
    assert_eq!(servers.len(), 1, "{servers:?}");
    assert_eq!(servers[0].hosts, ["a.x.com"]);
    let Some(Action::Forward(rule)) = &servers[0].action else { panic!("{servers:?}") };
    assert_eq!(rule.backends[0].cluster.as_ref().unwrap().host, "bank.money.svc.cluster.local");
}

const SECRETS: &str = "---
{apiVersion: v1, kind: Secret, metadata: {name: c, namespace: istio-system}, type: kubernetes.io/tls, stringData: {tls.crt: CERT, tls.key: KEY, ca.crt: CA}}
---
{apiVersion: v1, kind: Secret, metadata: {name: g, namespace: istio-system}, data: {cert: Q0VSVA==, key: S0VZ}}
---
{apiVersion: v1, kind: Secret, metadata: {name: g-cacert, namespace: istio-system}, stringData: {cacert: CA2}}
---
{apiVersion: v1, kind: Secret, metadata: {name: c, namespace: default}, stringData: {tls.crt: OTHER, tls.key: OTHER}}
---
{apiVersion: v1, kind: Secret, metadata: {name: db, namespace: istio-system}, stringData: {password: x}}
";

fn got(yaml: &str, viewer: &Viewer, name: &str) -> Option<(String, String, String)> {
    let text = |bytes: &bytes::Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    let made = secret(&Mesh::with(yaml).snapshot.config, viewer, name)?.message;
    Some((text(&made.certificate_chain), text(&made.private_key), text(&made.ca_certificates)))
}

/// Only what a server of the workload's own names, of its own namespace, and not more of it than is needed.
#[test]
fn who_gets_which_secret() {
    let all = |pair: (&str, &str, &str)| Some((pair.0.to_owned(), pair.1.to_owned(), pair.2.to_owned()));
    let with = |tls: &str| format!("{}{SECRETS}", edge("a", &https("x.com", tls)));
    let (simple, mutual) = (with("mode: SIMPLE, credentialName: c"), with("mode: MUTUAL, credentialName: c"));
    assert_eq!(got(&simple, &gateway(), "istio-system/c"), all(("CERT", "KEY", "")));
    assert_eq!(got(&mutual, &gateway(), "istio-system/c"), all(("CERT", "KEY", "CA")));
    let generic = with("mode: MUTUAL, credentialName: g");
    assert_eq!(got(&generic, &gateway(), "istio-system/g"), all(("CERT", "KEY", "CA2")));
    // What was revoked comes with the CA, and not without.
    let revoking = |yaml: &str| {
        let more = "---\n{apiVersion: v1, kind: Secret, metadata: {name: c-cacert, namespace: istio-system}, stringData: {cacert: CA3, crl: CRL}}\n";
        let made =
            secret(&Mesh::with(&format!("{yaml}{more}")).snapshot.config, &gateway(), "istio-system/c");
        let made = made.unwrap().message;
        (
            String::from_utf8(made.ca_certificates.to_vec()).unwrap(),
            String::from_utf8(made.crl.to_vec()).unwrap(),
        )
    };
    assert_eq!(revoking(&mutual), ("CA3".to_owned(), "CRL".to_owned()));
    assert_eq!(revoking(&simple), (String::new(), String::new()));
    let ca_only = with("mode: MUTUAL, serverCertificate: a, privateKey: b, caCertCredentialName: c");
    assert_eq!(got(&ca_only, &gateway(), "istio-system/c"), all(("", "", "CA")));
    // Not named, of another namespace, or not for this workload.
    for (viewer, name) in [
        (gateway(), "istio-system/db"),
        (gateway(), "istio-system/g"),
        (gateway(), "default/c"),
        (labelled("default", true, &[("istio", "ingressgateway")]), "istio-system/c"),
        (labelled("istio-system", true, &[("istio", "other")]), "istio-system/c"),
        (labelled("istio-system", false, &[("istio", "ingressgateway")]), "istio-system/c"),
    ] {
        assert_eq!(got(&simple, &viewer, name), None, "{viewer:?} {name}");
    }
    let config = &Mesh::with(&simple).snapshot.config;
    assert_eq!(secret_names(config, &gateway()), ["istio-system/c"]);
    assert_eq!(config.secrets.len(), 2, "no other Secret is kept");
    assert_eq!(listener_ports(config, &gateway()), [443]);
    let none = edge("a", &https("x.com", "mode: SIMPLE, credentialName: c"));
    assert_eq!(got(&none, &gateway(), "istio-system/c"), None);
}
