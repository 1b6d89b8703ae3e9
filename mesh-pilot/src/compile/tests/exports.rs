//! Who sees an object: by its `exportTo`, or else by MeshConfig's `default...ExportTo`.

use super::super::fixture::{Mesh, object, viewer};
use crate::snapshot::{DefaultExport, MeshOptions};

fn with(default_export: DefaultExport, yaml: &str) -> Mesh {
    Mesh::with_options(MeshOptions { default_export, ..MeshOptions::default() }, yaml)
}

fn own() -> Vec<String> {
    vec![".".to_owned()]
}

/// C8 (ISTIO-SECURITY-2026-002): whoever may write VirtualServices in one namespace routes the hosts of all, as Istio documents it,
/// until the mesh says that they are each namespace's own.
#[test]
fn c8_a_route_of_another_namespace_is_its_own_matter() {
    let spec = "{hosts: [reviews.default.svc.cluster.local], http: [{route: [{destination: {host: bank}}]}]}";
    let hijack = &object("VirtualService", "money/hijack", spec);
    let (from, to) = (["default", "money", "other"], "reviews");
    let led =
        |mesh: &Mesh| from.map(|namespace| mesh.backends(namespace, "reviews.default", 9080)[0][0].clone());
    let open = Mesh::with(hijack);
    assert!(led(&open).iter().all(|backend| backend.starts_with("bank.money")), "{:?}", led(&open));
    let closed = with(DefaultExport { virtual_services: own(), ..DefaultExport::default() }, hijack);
    let [theirs, mine, others] = led(&closed);
    assert!(
        theirs.starts_with(to) && others.starts_with(to) && mine.starts_with("bank.money"),
        "{theirs} {mine} {others}"
    );
    // What says itself that it is everybody's is: an admission policy can ask for that field.
    let said = object("VirtualService", "money/hijack", &spec.replacen('{', "{exportTo: ['*'], ", 1));
    let closed = with(DefaultExport { virtual_services: own(), ..DefaultExport::default() }, &said);
    assert!(led(&closed).iter().all(|backend| backend.starts_with("bank.money")));
}

#[test]
fn services_and_rules_that_do_not_say_who_sees_them() {
    let pool = &object(
        "DestinationRule",
        "pool",
        "{host: reviews, trafficPolicy: {loadBalancer: {simple: RANDOM}}}",
    );
    let balancer = |mesh: &Mesh, from: &str| {
        mesh.cluster(&viewer(from), "reviews.default", 9080).unwrap().policy.unwrap().load_balancer.unwrap()
    };
    let everybodys = Mesh::with(pool);
    let default = balancer(&Mesh::with(""), "default");
    assert!(
        balancer(&everybodys, "default") == balancer(&everybodys, "money")
            && default != balancer(&everybodys, "money")
    );
    let closed = with(DefaultExport { destination_rules: own(), ..DefaultExport::default() }, pool);
    assert_eq!(
        (balancer(&closed, "money"), balancer(&closed, "default")),
        (default, balancer(&everybodys, "default"))
    );

    let named = vec![".".to_owned(), "money".to_owned()];
    let mesh = with(DefaultExport { services: named, ..DefaultExport::default() }, "");
    let hosts = |from: &str| mesh.catalogue(from, "default").len();
    assert!(hosts("default") > 0 && hosts("money") == hosts("default") && hosts("other") == 0);
    assert!(mesh.destination(&viewer("other"), "reviews.default", 9080).is_none());
}
