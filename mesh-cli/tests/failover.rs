//! The example to watch: three instances that fail in every way there is, and what a client sees of it.

use std::time::Duration;

use super::support::{Answer, Mesh, by_instance, eventually, pause};

const FILES: &[(&str, &str)] = &[
    ("numbers.yaml", include_str!("../examples/failover/numbers.yaml")),
    ("random.yaml", include_str!("../examples/failover/random.yaml")),
    ("dynamic.yaml", include_str!("../examples/failover/dynamic.yaml")),
];
const RANDOM: &str = "http://random:8080/";
const DYNAMIC: &str = "http://dynamic:8080/";

fn lost(answers: &[Answer]) -> usize {
    answers.iter().filter(|answer| answer["status"] != 200).count()
}

fn share(answers: &[Answer], instance: &str) -> usize {
    by_instance(answers).get(instance).copied().unwrap_or_default()
}

/// Random failover: whichever way one of three fails, the others answer, and nobody sees a failure.
#[test]
fn random_failover() {
    let mesh = Mesh::up(FILES, &[]);
    let all = mesh.request(&[RANDOM, "-n", "90"]);
    assert_eq!((lost(&all), by_instance(&all).len()), (0, 3), "{:?}", by_instance(&all));
    for fault in [&["--close"][..], &["--status", "503"], &["--hang"]] {
        mesh.must(&[&["fault", "numbers-1"][..], fault].concat());
        let answers = mesh.request(&[RANDOM, "-n", "30", "-c", "4"]);
        assert_eq!(lost(&answers), 0, "{fault:?}");
        assert_eq!(share(&answers, "numbers-1"), 0, "{fault:?}");
        mesh.must(&["fault", "numbers-1", "--clear"]);
    }
    // Killed: nobody listens there from one moment to the next.
    mesh.must(&["stop", "numbers-1", "--kill"]);
    let answers = mesh.request(&[RANDOM, "-n", "60", "-c", "4"]);
    assert_eq!((lost(&answers), share(&answers, "numbers-1")), (0, 0));
    mesh.must(&["start", "numbers-1"]);
    eventually("it is back", || {
        let answers = mesh.request(&[RANDOM, "-n", "30"]);
        if share(&answers, "numbers-1") > 0 { Ok(()) } else { Err(format!("{:?}", by_instance(&answers))) }
    });
    stopped_in_turn(&mesh);
}

/// Stopped (drained) and started in turn under load: none is lost.
fn stopped_in_turn(mesh: &Mesh) {
    let done = std::sync::atomic::AtomicBool::new(false);
    let answers = std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut answers = Vec::new();
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                answers.extend(mesh.request(&[DYNAMIC, "-n", "100", "-c", "4"]));
            }
            answers
        });
        for instance in ["numbers-0", "numbers-1", "numbers-2"] {
            mesh.must(&["stop", instance]);
            mesh.must(&["start", instance]);
            eventually("it is ready", || {
                let found = mesh.instances("numbers").into_iter().find(|i| i["name"] == instance);
                let state = found.map(|i| i["state"].to_string()).unwrap_or_default();
                if state == "\"ready\"" { Ok(()) } else { Err(state) }
            });
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        load.join().expect("the load ends")
    });
    assert_eq!(lost(&answers), 0, "of {}", answers.len());
}

/// Dynamic failover: a slow instance gets less within seconds; one that fails is out, and comes back when it is well.
#[test]
fn dynamic_failover() {
    let mesh = Mesh::up(FILES, &[]);
    let even = mesh.request(&[DYNAMIC, "-n", "150"]);
    assert!(by_instance(&even).values().all(|count| *count > 15), "{:?}", by_instance(&even));
    mesh.must(&["fault", "numbers-1", "--slow", "0.5"]);
    mesh.request(&[DYNAMIC, "-n", "60", "-c", "4"]);
    let answers = mesh.request(&[DYNAMIC, "-n", "200", "-c", "4"]);
    let slow = share(&answers, "numbers-1");
    assert!(lost(&answers) == 0 && slow < 30, "{slow} of 200 to the slow one");
    mesh.must(&["fault", "numbers-1", "--clear"]);
    eventually("it has its share again", || {
        let answers = mesh.request(&[DYNAMIC, "-n", "100"]);
        let share = share(&answers, "numbers-1");
        if share > 15 { Ok(()) } else { Err(format!("{share} of 100")) }
    });

    mesh.must(&["fault", "numbers-1", "--status", "500"]);
    let answers = mesh.request(&[DYNAMIC, "-n", "100"]);
    // Three, then it is out for 5 s; on a slow machine it comes back meanwhile for three more. Without ejection: a third.
    assert!((3..25).contains(&lost(&answers)), "{:?}", by_instance(&answers));
    let log = mesh.must(&["logs", "client-0/sidecar", "--tail", "200"]);
    assert!(log.contains("ejected by outlier detection"), "{log}");
    mesh.must(&["fault", "numbers-1", "--clear"]);
    // As long as it is out it gets nothing, though it is well.
    pause(Duration::from_millis(100));
    eventually("it is readmitted", || {
        let answers = mesh.request(&[DYNAMIC, "-n", "30"]);
        if share(&answers, "numbers-1") > 0 { Ok(()) } else { Err(format!("{:?}", by_instance(&answers))) }
    });
}
