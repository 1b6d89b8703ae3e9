//! Which state an object has, from what is told of it and who has it.

use std::sync::Arc;

use mesh_proto::crd::{Kind, ObjectRef, Position, Problem, Severity};

use super::*;

fn problem(severity: Severity, message: &str) -> Problem {
    Problem {
        file: Arc::from("a.yaml"),
        position: Position { line: 3, column: 7 },
        object: None,
        path: "spec.http".to_owned(),
        message: message.to_owned(),
        expected: String::new(),
        severity,
    }
}

fn standing() -> Standing {
    Standing {
        generation: None,
        reference: ObjectRef::new(Kind::VirtualService, "", "a"),
        location: "a.yaml:1".to_owned(),
        revision: Some(7),
        refused: None,
        warnings: Vec::new(),
    }
}

fn report(standing: Standing, notes: &[Note], acked: usize, subscribed: usize) -> ResourceReport {
    let told = Told { standings: vec![standing], notes: notes.to_vec(), ..Told::default() };
    let observers = HashMap::from([(7, Observers { subscribed, acked })]);
    resources(&told, &observers, &Troubles::new(), &Others::default()).remove(0)
}

#[test]
fn in_force_means_that_everyone_who_wants_it_has_it() {
    assert_eq!(report(standing(), &[], 0, 0).state, State::Accepted);
    let some = report(standing(), &[], 1, 2);
    assert_eq!((some.state, &*some.message), (State::Accepted, "1 of 2 proxies have it in force"));
    assert_eq!(report(standing(), &[], 2, 2).state, State::InForce);
}

#[test]
fn a_refused_version_says_where_why_and_what_is_in_force_instead() {
    let problems = vec![problem(Severity::Warning, "hm"), problem(Severity::Error, "no")];
    let refused = |revision| Standing { revision, refused: Some(problems.clone()), ..standing() };
    let kept = report(refused(Some(7)), &[], 2, 2);
    assert_eq!(kept.state, State::Refused);
    assert_eq!(kept.message, "a.yaml:3:7: error: spec.http: no; the last good version stays in force");
    assert_eq!(report(refused(None), &[], 0, 0).message, "a.yaml:3:7: error: spec.http: no");
}

#[test]
fn notes_are_warnings_or_supersede() {
    let note =
        |text: &str, superseded| Note { reference: standing().reference, text: text.to_owned(), superseded };
    let warned = Standing { warnings: vec![problem(Severity::Warning, "hm")], ..standing() };
    let told = report(warned, &[note("no such host", false)], 1, 1);
    assert_eq!((told.state, told.warnings.len()), (State::InForce, 2));
    let older = report(standing(), &[note("b is older", true), note("x", false)], 1, 1);
    assert_eq!((older.state, &*older.message, older.warnings.len()), (State::Superseded, "b is older", 1));
    assert_eq!(serde_json::to_value(State::InForce).unwrap(), "in_force");
}

#[test]
fn files_are_told_with_the_place() {
    let files = BTreeMap::from([(PathBuf::from("a.yaml"), vec![problem(Severity::Error, "no")])]);
    let told = Told { files, ..Told::default() };
    let report = resources(&told, &HashMap::new(), &Troubles::new(), &Others::default()).remove(0);
    assert_eq!((&*report.kind, &*report.location, report.state), ("File", "a.yaml:3", State::Refused));
}

fn other(generation: i64, acked: u32, subscribed: u32) -> ObjectStanding {
    ObjectStanding {
        kind: "VirtualService".into(),
        namespace: "default".into(),
        name: "a".into(),
        generation,
        acked,
        subscribed,
        ..ObjectStanding::default()
    }
}

#[test]
fn what_other_replicas_tell_is_added() {
    let told = |standing: Standing, others: Vec<ObjectStanding>| {
        let told = Told { standings: vec![standing], ..Told::default() };
        let ours = HashMap::from([(7, Observers { subscribed: 1, acked: 1 })]);
        resources(&told, &ours, &Troubles::new(), &Others::new(others)).remove(0)
    };
    let third = || Standing { generation: Some(3), ..standing() };
    let counts =
        |report: &ResourceReport| (report.state, report.observers.acked, report.observers.subscribed);
    assert_eq!(counts(&told(third(), vec![other(3, 2, 2), other(3, 1, 1)])), (State::InForce, 4, 4));
    assert_eq!(counts(&told(third(), vec![other(3, 1, 2)])), (State::Accepted, 2, 3));
    // What has acknowledged another version has not acknowledged this one.
    assert_eq!(counts(&told(third(), vec![other(2, 2, 2)])), (State::Accepted, 1, 3));
    // Nobody here wants it, somebody there does.
    let unknown = Standing { revision: Some(8), ..third() };
    assert_eq!(counts(&told(unknown, vec![other(3, 2, 2)])), (State::InForce, 2, 2));
    let elsewhere = ObjectStanding { name: "b".into(), ..other(3, 0, 9) };
    assert_eq!(counts(&told(third(), vec![elsewhere])), (State::InForce, 1, 1));
}
