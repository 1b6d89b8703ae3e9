//! The authority as an operator has it: a root that takes another one's place under load, an identity that is refused.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::support::{BASE, Mesh, eventually, pause, text};

/// `meshctl ca ... -o json`.
fn ca(mesh: &Mesh, arguments: &[&str]) -> Result<Value, String> {
    let output = mesh.run(&[&["ca"], arguments, &["-o", "json"]].concat());
    match output.status.success() {
        true => Ok(serde_json::from_slice(&output.stdout).expect("JSON")),
        false => Err(text(&output)),
    }
}

/// Every step, a restart of the authority between two of them, and load all the while. Nothing is lost; what would lose
/// something is refused.
#[test]
fn a_root_takes_another_ones_place_under_load() {
    let mesh = Mesh::up(&[("base.yaml", BASE)], &["--cert-ttl", "20"]);
    let (over, good) = (AtomicBool::new(false), AtomicUsize::new(0));
    let lost = std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut lost = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let statuses = mesh.statuses(&["http://web/", "-n", "50", "-c", "4"]);
                good.fetch_add(statuses.iter().filter(|status| **status == 200).count(), Ordering::Relaxed);
                lost.extend(statuses.into_iter().filter(|status| *status != 200));
                let echoed = mesh.one(&["tcp://web:9000", "-d", "hello"]);
                if echoed["body"] != "hello" {
                    lost.push(0);
                }
            }
            lost
        });
        // What fails in here must end the load too.
        let rotated = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| rotate(&mesh)));
        over.store(true, Ordering::Relaxed);
        let lost = load.join().expect("the load");
        if let Err(failed) = rotated {
            std::panic::resume_unwind(failed);
        }
        lost
    });
    assert_eq!(lost, [0_u64; 0], "of {}", good.load(Ordering::Relaxed));
    assert!(good.load(Ordering::Relaxed) > 500);
}

fn rotate(mesh: &Mesh) {
    let step = |step: &str| ca(mesh, &["rotate", step]);
    let root = |status: &Value, role: &str| {
        let roots = status["roots"].as_array().expect("roots");
        roots.iter().find(|root| root["role"] == role).map(|root| root["sha256"].to_string())
    };
    let begin = ca(mesh, &["status"]).unwrap();
    let old = root(&begin, "signs");
    let early = step("activate").unwrap_err();
    assert!(
        early.contains("activate is not the next step") && early.contains("prepare begins one"),
        "{early}"
    );
    step("prepare").unwrap();
    assert_eq!(root(&ca(mesh, &["status"]).unwrap(), "next"), None, "nobody has heard of it");
    step("publish").unwrap();
    mesh.must(&["stop", "mesh-ca"]);
    mesh.must(&["start", "mesh-ca"]);
    let next = eventually("the new root is still published", || {
        let status = ca(mesh, &["status"])?;
        root(&status, "next").ok_or(status.to_string())
    });
    // Refused until every proxy has said that it trusts it; then done.
    let activated = eventually("every proxy trusts the new root", || step("activate"));
    assert_eq!(root(&activated, "signs"), Some(next));
    assert_eq!(root(&activated, "old"), old);
    let since = Instant::now();
    let early = step("retire").unwrap_err();
    assert!(early.contains("--force"), "{early}");
    // Every proxy has a certificate of the new root long before the old one leaves.
    let retired = loop {
        match step("retire") {
            Ok(status) => break status,
            Err(why) => assert!(since.elapsed() < Duration::from_secs(120), "{why}"),
        }
        pause(Duration::from_secs(1));
    };
    assert!(since.elapsed() > Duration::from_secs(45), "certificates of the old root were valid until then");
    assert_eq!((retired["roots"].as_array().map(Vec::len), &retired["rotation"]), (Some(1), &Value::Null));
    pause(Duration::from_secs(2));
    let told = mesh.must(&["ca", "rotate", "status"]);
    assert!(told.contains("no rotation is under way"), "{told}");
}

/// Revoked by name: refused by everybody within the time of a command, and back again.
#[test]
fn an_identity_is_refused_and_taken_back() {
    let mesh = Mesh::up(&[("base.yaml", BASE)], &[]);
    assert_eq!(mesh.one(&["http://web/"])["status"], 200);
    let since = Instant::now();
    let told = mesh.must(&["ca", "taint", "default/client", "--reason", "stolen"]);
    assert!(told.contains("is refused by all") && told.contains("stolen"), "{told}");
    assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
    // Every proxy has said that it refuses: not one request more.
    let refused = mesh.one(&["http://web/"]);
    assert_ne!(refused["status"], 200, "{refused}");
    // It is kept, and a new certificate is not to be had.
    mesh.must(&["stop", "mesh-ca"]);
    mesh.must(&["start", "mesh-ca"]);
    let listed = eventually("the authority is back", || ca(&mesh, &["tainted"]));
    assert_eq!(listed["tainted"][0]["identity"], "spiffe://cluster.local/ns/default/sa/client");
    assert_ne!(mesh.one(&["http://web/"])["status"], 200);
    let control = mesh.run(&["ca", "taint", "istio-system/mesh-pilot"]);
    assert!(!control.status.success() && text(&control).contains("control plane"), "{}", text(&control));
    mesh.must(&["ca", "untaint", "default/client"]);
    mesh.until("it is let in again", &["http://web/"], |answer| answer["status"] == 200);
}
