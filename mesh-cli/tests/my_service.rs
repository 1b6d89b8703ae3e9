//! The user's own three files, as written: both instances in turn, then one client on one instance.

use super::support::{Mesh, by_instance, eventually};

const DEPLOYMENT: &str = include_str!("../examples/my-service/deployment.yaml");
const VIRTUAL_SERVICE: &str = include_str!("../examples/my-service/virtualservice.yaml");
const DESTINATION_RULE: &str = include_str!("../examples/my-service/destinationrule.yaml");

/// Both instances answer; with the DestinationRule one client stays on one instance, and moves when that one is stopped.
#[test]
fn in_turn_then_one_client_on_one_instance() {
    let mesh = Mesh::up(&[("deployment.yaml", DEPLOYMENT), ("virtualservice.yaml", VIRTUAL_SERVICE)], &[]);
    let counts = by_instance(&mesh.request(&["http://my-service:8080/", "-n", "40"]));
    assert_eq!(
        counts.keys().map(String::as_str).collect::<Vec<_>>(),
        ["my-service-0", "my-service-1"],
        "{counts:?}"
    );
    // The VirtualService takes every host.
    assert_eq!(mesh.one(&["http://anything.example.com/"])["status"], 200);

    mesh.write("destinationrule.yaml", DESTINATION_RULE);
    let chosen = eventually("one client on one instance", || {
        let counts = by_instance(&mesh.request(&["http://my-service:8080/", "-n", "20"]));
        if counts.len() == 1 { Ok(counts.into_keys().next().unwrap()) } else { Err(format!("{counts:?}")) }
    });
    mesh.must(&["stop", &chosen]);
    let counts = by_instance(&mesh.request(&["http://my-service:8080/", "-n", "20"]));
    assert_eq!(counts.len(), 1, "{counts:?}");
    assert!(!counts.contains_key(&chosen), "{counts:?}");

    mesh.must(&["start", &chosen]);
    eventually("the client is back where it was", || {
        let counts = by_instance(&mesh.request(&["http://my-service:8080/", "-n", "5"]));
        if counts.contains_key(&chosen) { Ok(()) } else { Err(format!("{counts:?}")) }
    });
}
