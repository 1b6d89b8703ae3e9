//! More than one response can carry: several, and what cannot be carried at all.

use super::*;
use crate::push::stream::{BUDGET, MAX_RESOURCE};

/// `count` destinations of a MiB each that lead to themselves, and what a proxy subscribes to get them.
fn fill(mesh: &Mesh, count: usize) -> Vec<String> {
    let padding = "x".repeat(1 << 20);
    let one = |i: usize| {
        mesh.set(&format!("destination/d{i}:80"), &format!("d{i}:80 {padding}"));
        mesh.set(&format!("cluster/d{i}:80"), "policy");
        format!("destination/d{i}:80")
    };
    (0..count).map(one).collect()
}

/// One tenant's object can make every destination of every proxy large: nobody is cut off by it.
#[test]
fn what_is_too_much_for_one_response_comes_in_several() {
    let mut mesh = Mesh::new(1);
    let names = fill(&mesh, 70);
    mesh.configure();
    let mut proxy = mesh.proxy(0, &names.iter().map(String::as_str).collect::<Vec<_>>());
    let (mut more, mut seen) = (Vec::new(), BTreeSet::new());
    while let Some(outgoing) = proxy.take() {
        let size: usize = outgoing.resources.iter().map(|r| r.bytes.len()).sum();
        assert!(size < BUDGET + (2 << 20), "{size}");
        seen.extend(outgoing.resources.iter().map(|r| r.name.to_string()));
        more.push(outgoing.more);
        assert!(mesh.hub.proxies()[0].pending > 0);
        proxy.ack(&outgoing);
    }
    assert!(more.len() > 8, "{more:?}");
    let last = more.pop();
    assert_eq!((last, more.contains(&false)), (Some(false), false), "only the last one ends it");
    for name in &names {
        let cluster = name.replace("destination/", "cluster/");
        assert!(seen.contains(name) && seen.contains(&cluster), "{name}");
    }
    assert!(seen.contains("catalogue/default"));
    assert_eq!(mesh.hub.proxies()[0].pending, 0);
    // Who comes back with all of it, and with what the pilot has not any more, is sent only that.
    let mut resumed = Proxy::new(&mesh, mesh.open("sidecar", 0), &[]);
    (resumed.held, resumed.wants) = (proxy.held.clone(), names);
    resumed.held.insert("catalogue/left".into(), Arc::from("1"));
    resumed.start();
    let (sent, mut removed) = resumed.settle();
    removed.retain(|name| !name.starts_with("endpoints/"));
    assert_eq!((sent, removed), (vec![], vec!["catalogue/left".into()]));
}

#[test]
fn what_routes_in_force_name_goes_after_all_that_is_new() {
    let mut mesh = Mesh::new(1);
    let names = fill(&mesh, 20);
    mesh.set("destination/a:80", "b:80");
    mesh.configure();
    let mut wants: Vec<_> = names.iter().map(String::as_str).collect();
    wants.push("destination/a:80");
    let id = {
        let mut proxy = mesh.proxy(0, &wants);
        proxy.settle();
        proxy.id
    };
    mesh.world.lock().remove("cluster/b:80");
    for name in &names {
        mesh.set(name, &"y".repeat(1 << 20));
    }
    mesh.set("destination/a:80", "a:80");
    mesh.configure();
    let mut proxy = Proxy::new(&mesh, id, &[]);
    let mut told = Vec::new();
    while let Some(outgoing) = proxy.take() {
        told.push((outgoing.more, outgoing.removed.clone()));
        proxy.ack(&outgoing);
    }
    assert!(told.len() > 2);
    let early = told.iter().filter(|(more, removed)| *more && !removed.is_empty()).count();
    assert_eq!(early, 0, "{told:?}");
}

#[test]
fn what_no_response_can_carry_is_refused_by_name_and_all_else_arrives() {
    let mut mesh = Mesh::new(1);
    mesh.set("destination/a:80", &"x".repeat(MAX_RESOURCE + 1));
    mesh.configure();
    let id = {
        let mut proxy = mesh.proxy(0, &["destination/a:80", "destination/b:80"]);
        let (sent, _) = proxy.settle();
        assert_eq!(
            sent,
            ["self/self", "endpoints/b:80", "cluster/b:80", "destination/b:80", "catalogue/default"]
        );
        proxy.id
    };
    let report = &mesh.hub.proxies()[0];
    let (name, why) = &report.rejected[0];
    assert_eq!((name.to_string().as_str(), report.pending), ("destination/a:80", 0));
    assert!(why.starts_with("it would have 32 MiB"), "{why}");
    mesh.set("destination/a:80", "a:80");
    mesh.configure();
    let mut proxy = Proxy::new(&mesh, id, &[]);
    assert_eq!(proxy.settle().0, ["endpoints/a:80", "cluster/a:80", "destination/a:80"]);
    assert!(mesh.hub.proxies()[0].rejected.is_empty());
}
