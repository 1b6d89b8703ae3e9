//! Nothing is lost: the control plane killed under load, replicas stopped and started in turn, a sidecar restarted.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::support::{BASE, Mesh, eventually, pause};

/// Sends steadily while `work` goes on; every status that came, and nothing that did not.
fn under_load(mesh: &Mesh, url: &str, work: impl FnOnce()) -> Vec<u64> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut statuses = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                statuses.extend(mesh.statuses(&[url, "-n", "200", "-c", "4"]));
            }
            statuses
        });
        work();
        stop.store(true, Ordering::Relaxed);
        load.join().expect("the load ends")
    })
}

fn lost(statuses: &[u64]) -> usize {
    statuses.iter().filter(|status| **status != 200).count()
}

/// The pilot and the CA are killed and come back: no request is lost; meanwhile a name never used before says why it waits.
#[test]
fn the_control_plane_may_die() {
    let mesh = Mesh::up(&[("base.yaml", BASE)], &[]);
    assert_eq!(mesh.one(&["http://web/"])["status"], 200);
    let statuses = under_load(&mesh, "http://web/", || {
        mesh.must(&["stop", "mesh-pilot", "--kill"]);
        mesh.must(&["stop", "mesh-ca", "--kill"]);
        pause(Duration::from_secs(1));
        // It is waited for a while: most pilots that go come back.
        let cold = mesh.one(&["http://api:8080/", "--from", "web"]);
        assert_eq!(cold["status"], 503, "{cold}");
        assert!(cold.to_string().contains("discovery_timeout"), "{cold}");
        mesh.must(&["start", "mesh-ca"]);
        mesh.must(&["start", "mesh-pilot"]);
        mesh.until("the cold name is served", &["http://api:8080/", "--from", "web"], |a| a["status"] == 200);
    });
    assert!(statuses.len() >= 200);
    assert_eq!(lost(&statuses), 0, "{} of {} requests were lost", lost(&statuses), statuses.len());
}

/// A sidecar that restarts while the pilot is away serves the names that it used before.
#[test]
fn a_sidecar_restarts_from_its_disk() {
    let mesh = Mesh::up(&[("base.yaml", BASE)], &[]);
    assert_eq!(mesh.one(&["http://api:8080/", "--from", "web"])["status"], 200);
    // What was used is written down within a moment.
    pause(Duration::from_secs(2));
    mesh.must(&["stop", "mesh-pilot", "--kill"]);
    let sidecars = ["web-0/sidecar", "web-1/sidecar"];
    for sidecar in sidecars {
        mesh.must(&["stop", sidecar, "--kill"]);
        mesh.must(&["start", sidecar]);
    }
    mesh.until("a name used before", &["http://api:8080/", "--from", "web"], |a| a["status"] == 200);
    mesh.must(&["start", "mesh-pilot"]);
    mesh.until("everything again", &["http://web/", "--from", "api-v1"], |a| a["status"] == 200);
}

/// Replicas are stopped (drained) and started in turn under load: none lost. A killed one is retried elsewhere.
#[test]
fn replicas_in_turn() {
    let mesh = Mesh::up(&[("base.yaml", BASE)], &[]);
    let statuses = under_load(&mesh, "http://web/", || {
        for instance in ["web-0", "web-1"] {
            mesh.must(&["stop", instance]);
            mesh.must(&["start", instance]);
            ready(&mesh, instance);
        }
    });
    assert_eq!(lost(&statuses), 0, "{} of {} requests were lost", lost(&statuses), statuses.len());
    mesh.must(&["stop", "web-0", "--kill"]);
    let statuses = mesh.statuses(&["http://web/", "-n", "50"]);
    assert_eq!(
        lost(&statuses),
        0,
        "connections to a killed instance are refused, and the request goes elsewhere"
    );
    mesh.must(&["start", "web-0"]);
    ready(&mesh, "web-0");
}

fn ready(mesh: &Mesh, instance: &str) {
    let workload = instance.rsplit_once('-').map_or(instance, |(workload, _)| workload);
    eventually(&format!("{instance} is ready"), || {
        let found = mesh.instances(workload).into_iter().find(|i| i["name"] == instance).unwrap_or_default();
        if found["state"] == "ready" { Ok(()) } else { Err(found.to_string()) }
    });
}
