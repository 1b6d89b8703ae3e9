//! AuthorizationPolicy CUSTOM: who is asked, about what, and what is told where nobody can be.

use std::time::Duration;

use mesh_proto::discovery::EXTERNAL_AUTHORIZATION;
use mesh_proto::model::HostPort;
use mesh_proto::wire::mesh::v1 as wire;

use super::super::external::cluster_of;
use super::super::fixture::{Mesh, object};
use crate::snapshot::{Authorizer, ExtensionProvider, MeshOptions, Provider, Speaks};

const RATINGS: &str = "ratings.default.svc.cluster.local";
const APP: &str = "selector: {matchLabels: {app: reviews}}, ";
const V1: &str = "selector: {matchLabels: {version: v1}}, ";

fn authorizer(service: &str, port: u16) -> Authorizer {
    Authorizer {
        service: service.into(),
        port,
        timeout: Duration::from_secs(600),
        fail_open: true,
        status_on_error: 503,
        body: Some(wire::CheckedBody { max_bytes: 9, ..Default::default() }),
        clear_route_cache: true,
        speaks: Speaks::Grpc,
    }
}

fn mesh(providers: Vec<(&str, Provider)>, yaml: &str) -> Mesh {
    let providers = providers.into_iter().map(|(name, is)| ExtensionProvider { name: name.into(), is });
    let options = MeshOptions { extension_providers: providers.collect(), ..MeshOptions::default() };
    Mesh::with_options(options, yaml)
}

fn good(service: &str, port: u16) -> Provider {
    Provider::Authorizer(Box::new(authorizer(service, port)))
}

fn ask(name: &str, provider: &str, more: &str) -> String {
    object(
        "AuthorizationPolicy",
        name,
        &format!("{{{more}action: CUSTOM, provider: {{name: {provider}}}, rules: [{{}}]}}"),
    )
}

fn asked(mesh: &Mesh) -> Option<wire::ExternalAuthorization> {
    mesh.self_config("reviews-v1-0").external_authorization
}

#[test]
fn who_is_asked_about_what() {
    let deny = object("AuthorizationPolicy", "no", "{action: DENY, rules: [{}]}");
    let mesh = mesh(
        vec![("p", good(RATINGS, 80))],
        &format!("{}{}{deny}", ask("b", "p", V1), ask("istio-system/a", "p", APP)),
    );
    let config = mesh.self_config("reviews-v1-0");
    assert_eq!(config.requires, [EXTERNAL_AUTHORIZATION]);
    assert_eq!(cluster_of(&config), Some(HostPort::new(RATINGS, 80)));
    assert_eq!(config.authorization.len(), 1, "what is asked about is not decided");
    let external = config.external_authorization.unwrap();
    let names: Vec<_> = external.policies.iter().map(|p| p.origin.clone().unwrap().name).collect();
    assert_eq!(names, ["b", "a"]);
    assert_eq!((external.provider.as_str(), external.trouble.as_str()), ("p", ""));
    assert_eq!((external.fail_open, external.status_on_error, external.clear_route_cache), (true, 503, true));
    assert_eq!(external.timeout.unwrap().seconds, 600);
    assert_eq!(external.body.unwrap().max_bytes, 9);
    assert_eq!(external.protocol, Some(wire::external_authorization::Protocol::Grpc(wire::Empty {})));
    assert_eq!(mesh.told(), [""; 0]);
    // Who is not selected is not asked about, and an old proxy may have its settings.
    let other = mesh_of(&ask("b", "p", V1)).self_config("reviews-v2-0");
    assert_eq!((other.external_authorization, other.requires.len()), (None, 0));
}

fn mesh_of(yaml: &str) -> Mesh {
    mesh(vec![("p", good(RATINGS, 80)), ("q", good(RATINGS, 80))], yaml)
}

#[test]
fn services_as_istio_finds_them() {
    let of = |service: &str, port: u16, more: &str| {
        let mesh = mesh(vec![("p", good(service, port))], &format!("{}{more}", ask("a", "p", V1)));
        let external = asked(&mesh).unwrap();
        (external.cluster.map(|cluster| cluster.host).unwrap_or_default(), external.trouble)
    };
    for service in
        [RATINGS, "default/ratings.default.svc.cluster.local", "ratings.default", "ratings.default.svc"]
    {
        assert_eq!(of(service, 80, ""), (RATINGS.into(), String::new()), "{service}");
    }
    for (service, port, why) in [
        ("ratings", 80, "extensionProvider p: no service has the host ratings"),
        ("money/ratings.default.svc.cluster.local", 80, "no service has the host money/"),
        ("nobody.default.svc.cluster.local", 80, "no service has the host nobody."),
        (RATINGS, 81, "has no port 81"),
    ] {
        let (host, trouble) = of(service, port, "");
        assert!(host.is_empty() && trouble.contains(why), "{service}: {trouble}");
    }
    let entry = |resolution: &str| {
        object(
            "ServiceEntry",
            "out",
            &format!(
                "{{hosts: [authz.example.com], ports: [{{number: 443, name: https, protocol: HTTPS}}], {resolution}}}"
            ),
        )
    };
    let dns = "resolution: DNS";
    assert_eq!(of("authz.example.com", 443, &entry(dns)), ("authz.example.com".into(), String::new()));
    let (_, trouble) = of("authz.example.com", 443, &entry("resolution: NONE"));
    assert!(trouble.contains("no address of its own"), "{trouble}");
    let hidden = entry("resolution: DNS, exportTo: [money]");
    let (_, trouble) = of("authz.example.com", 443, &hidden);
    assert!(trouble.contains("is not exported to default"), "{trouble}");
}

#[test]
fn nobody_who_could_be_asked() {
    let cases = [
        (vec![], "no extensionProvider of MeshConfig is called p"),
        (
            vec![("p", Provider::Other("zipkin".into()))],
            "extensionProvider p is zipkin, which cannot be asked",
        ),
        (vec![("p", Provider::Wrong("port 0".into()))], "extensionProvider p: port 0"),
        (vec![("p", good("a.b", 80))], "extensionProvider p: no service has the host a.b"),
    ];
    for (providers, why) in cases {
        let mesh = mesh(providers, &ask("a", "p", ""));
        let external = asked(&mesh).unwrap();
        assert_eq!((external.trouble.as_str(), external.cluster, external.policies.len()), (why, None, 1));
        assert_eq!(mesh.told(), [format!("a: {why}: what the policy matches is denied")]);
    }
}

/// Only one may be asked about a workload: otherwise all that is to be asked about is denied.
#[test]
fn two_providers_for_one_workload() {
    let mesh = mesh_of(&format!("{}{}", ask("a", "p", APP), ask("b", "q", V1)));
    let external = asked(&mesh).unwrap();
    assert_eq!(
        external.trouble,
        "two providers for one workload: p (AuthorizationPolicy default/a) and q (AuthorizationPolicy default/b)"
    );
    assert_eq!((external.policies.len(), external.cluster), (2, None));
    let told = mesh.told();
    assert!(
        told.len() == 2 && told.iter().all(|text| text.contains("denies what either matches")),
        "{told:?}"
    );
    // Different workloads may have different ones.
    let apart = mesh_of(&format!(
        "{}{}",
        ask("a", "p", "selector: {matchLabels: {version: v2}}, "),
        ask("b", "q", V1)
    ));
    assert_eq!((asked(&apart).unwrap().provider, apart.told().len()), ("q".into(), 0));
}

/// Each question would be asked about, too.
#[test]
fn nobody_asks_himself() {
    let reviews = "reviews.default.svc.cluster.local";
    let mesh = mesh(vec![("p", good(reviews, 9080))], &ask("a", "p", ""));
    let external = asked(&mesh).unwrap();
    assert_eq!(external.trouble, format!("extensionProvider p: {reviews} would ask itself"));
    let told = mesh.told();
    assert!(told.len() == 1 && told[0].contains("would ask themselves"), "{told:?}");
}
