//! ExternalName Services.

use mesh_proto::wire::mesh::v1 as wire;

use super::super::fixture::{Mesh, backends, object, routes, viewer};
use crate::snapshot::{MeshOptions, Outbound};

fn alias(name: &str, target: &str) -> String {
    let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
    format!(
        "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: {namespace}}}, spec: {{type: ExternalName, externalName: {target}}}}}\n"
    )
}

const REVIEWS: &str = "reviews.default.svc.cluster.local";

fn entry(entries: &[wire::CatalogueEntry], host: &str) -> Option<wire::CatalogueEntry> {
    entries.iter().find(|entry| entry.host == host).cloned()
}

/// The name is there with the ports of its target and no address of its own; requests go to the target.
#[test]
fn an_alias_is_its_target() {
    let mesh = Mesh::with(
        &[alias("web/feedback", "Reviews.default.svc.cluster.local."), routes("r", "reviews", "ratings")]
            .concat(),
    );
    let entry = entry(&mesh.catalogue("default", "web"), "feedback.web.svc.cluster.local").unwrap();
    assert_eq!(entry.kind(), wire::EntryKind::EntryService);
    assert!(entry.vips.is_empty());
    assert_eq!(entry.ports.iter().map(|port| port.number).collect::<Vec<_>>(), [9080]);
    let destination = mesh.destination(&viewer("default"), "feedback.web", 9080).unwrap();
    assert_eq!(destination.name.unwrap().host, "feedback.web.svc.cluster.local");
    assert_eq!(destination.service.unwrap().host, REVIEWS);
    // The routes of the target.
    assert_eq!(backends(&destination.http.unwrap().rules[0]), ["ratings.default:9080/=1"]);
    assert!(
        mesh.destination(&viewer("default"), "feedback.web", 80).is_none(),
        "a port that the target has not"
    );
    let plain = Mesh::with(&alias("feedback", REVIEWS));
    let destination = plain.destination(&viewer("default"), "feedback", 9080).unwrap();
    assert_eq!(backends(&destination.http.unwrap().rules[0]), ["reviews.default:9080/=1"]);
    assert_eq!(destination.tcp[0].backends[0].cluster.as_ref().unwrap().host, REVIEWS);
    assert!(plain.cluster(&viewer("default"), "feedback", 9080).is_none(), "it has no policy of its own");
}

#[test]
fn a_route_may_name_it_and_be_for_it() {
    let shop =
        [alias("feedback", REVIEWS), routes("a", "ratings", "feedback"), routes("b", "feedback", "ratings")];
    let mesh = Mesh::with(&shop.concat());
    assert_eq!(mesh.backends("default", "ratings", 80), [["reviews.default:9080/=1"]]);
    assert_eq!(mesh.backends("default", "feedback", 9080), [["ratings.default:9080/=1"]]);
    assert_eq!(mesh.backends("default", "reviews", 9080), [["reviews.default:9080/=1"]]);
    // The route of `ratings` leads to a known name; that of `feedback` is for one.
    let told = mesh.told().join("\n");
    assert!(!told.contains("unknown") && !told.contains("no service has the host"), "{told}");
    let rule =
        object("DestinationRule", "d", "{host: feedback, trafficPolicy: {loadBalancer: {simple: RANDOM}}}");
    let told = Mesh::with(&[alias("feedback", REVIEWS), rule].concat()).told().join("\n");
    assert!(
        told.contains(
            "d: feedback.default.svc.cluster.local is another name of reviews.default.svc.cluster.local"
        ),
        "{told}"
    );
}

#[test]
fn aliases_of_aliases_rings_and_names_of_the_outside() {
    let mesh = Mesh::with(
        &[
            alias("a", "b.default.svc.cluster.local"),
            alias("b", REVIEWS),
            alias("c", "d.default.svc.cluster.local"),
            alias("d", "c.default.svc.cluster.local"),
            alias("out", "db.example.com"),
            alias("partner", "api.example.com"),
            object("ServiceEntry", "api", "{hosts: [api.example.com], ports: [{number: 443, name: tls, protocol: TLS}], resolution: DNS}"),
        ]
        .concat(),
    );
    assert_eq!(mesh.backends("default", "a", 9080), [["reviews.default:9080/=1"]]);
    for nothing in ["c", "d", "out"] {
        assert!(mesh.destination(&viewer("default"), nothing, 9080).is_none(), "{nothing}");
        assert!(
            entry(&mesh.catalogue("default", "default"), &format!("{nothing}.default.svc.cluster.local"))
                .is_none()
        );
    }
    let partner = mesh.destination(&viewer("default"), "partner", 443).unwrap();
    assert_eq!(partner.tcp[0].backends[0].cluster.as_ref().unwrap().host, "api.example.com");
    let told = mesh.told();
    assert_eq!(told.len(), 2, "only of the ring: {told:?}");
    let closed = MeshOptions { outbound: Outbound::RegistryOnly, ..MeshOptions::default() };
    let told = Mesh::with_options(closed, &alias("out", "db.example.com")).told();
    assert!(told[0].starts_with("out: db.example.com") && told[0].contains("ServiceEntry"), "{told:?}");
}

/// `exportTo` of either closes the way.
#[test]
fn only_who_may_see_both_sees_it() {
    let private = "---\n{apiVersion: v1, kind: Service, metadata: {name: own, annotations: {networking.istio.io/exportTo: .}}, spec: {type: ExternalName, externalName: reviews.default.svc.cluster.local}}\n";
    let hidden = "---\n{apiVersion: v1, kind: Service, metadata: {name: vault, namespace: money, annotations: {networking.istio.io/exportTo: .}}, spec: {clusterIP: 10.0.0.9, ports: [{port: 80}]}}\n";
    let mesh = Mesh::with(&[private, hidden, &alias("safe", "vault.money.svc.cluster.local")].concat());
    assert!(mesh.destination(&viewer("default"), "own", 9080).is_some());
    assert!(mesh.destination(&viewer("money"), "own", 9080).is_none());
    assert!(mesh.destination(&viewer("default"), "safe", 80).is_none());
    assert!(mesh.destination(&viewer("money"), "safe", 80).is_some());
}

#[test]
fn names_that_lead_nowhere_are_told() {
    let of = |name: &str| format!("{name}.default.svc.cluster.local");
    let shop = [
        alias("self", &of("self")),
        alias("one", &of("two")),
        alias("two", &of("one")),
        alias("short", "reviews.default"),
        alias("good", REVIEWS),
        alias("outside", "example.com"),
    ];
    let told = Mesh::with(&shop.concat()).told().join("\n");
    for (name, text) in [
        ("self", format!("it leads nowhere, no request for it has an answer: {0} is {0}", of("self"))),
        ("one", format!("{} is {} is {}", of("one"), of("two"), of("one"))),
        (
            "short",
            format!(
                "reviews.default is no whole name, and a name of the outside: {REVIEWS} is the Service's"
            ),
        ),
    ] {
        assert!(told.contains(&text), "{name}: {told}");
    }
    assert!(!told.contains("good") && !told.contains("example.com"), "{told}");
}
