//! Stories of rotations, on the state alone.

use std::collections::BTreeMap;

use super::*;

const OLD: &str = "old";
const NOW: u64 = 1_000_000;

fn facts(now: u64) -> Facts<'static> {
    Facts { now, signing_root: OLD, plugged: false, automatic: false, force: false }
}

fn new() -> (String, String) {
    ("new".to_owned(), "key".to_owned())
}

fn report(sequence: u64, behind: u32, at: u64) -> Report {
    Report { sequence, proxies: 10, behind, waiting: vec!["shop/reviews-0".to_owned()], ended: false, at }
}

/// A state whose bundle has the number 1, with the longest life of an hour.
fn steady() -> State {
    let mut state = State { root: OLD.to_owned(), longest: 3600, ..State::default() };
    state.settle("1".to_owned());
    state
}

fn step(state: &State, step: Step, facts: Facts<'_>) -> Result<State, Refused> {
    let mut next = state.step(&step, facts, new)?;
    // What the bundle is made of.
    let roots: Vec<_> = next.other_roots().collect();
    let hash = format!("{roots:?}");
    next.settle(hash);
    Ok(next)
}

fn heard(state: &State, report: Report) -> State {
    let mut state = state.clone();
    let at = report.at;
    state.hear(&[("pilot-1".to_owned(), report)].into(), at);
    state
}

#[test]
fn the_whole_way() {
    let prepared = step(&steady(), Step::Prepare, facts(NOW)).unwrap();
    assert_eq!(prepared.other_roots().count(), 0, "nobody has heard of it");
    let published = step(&prepared, Step::Publish, facts(NOW)).unwrap();
    assert_eq!(published.other_roots().collect::<Vec<_>>(), [OLD, "new"]);
    assert_eq!(published.rotation.as_ref().unwrap().sequence, published.sequence);
    assert!(published.sequence > prepared.sequence);
    let published = heard(&published, report(published.sequence, 0, NOW + 5));
    let activated = step(&published, Step::Activate, facts(NOW + 6)).unwrap();
    let rotation = activated.rotation.as_ref().unwrap();
    assert_eq!((rotation.key.as_ref(), rotation.longest, activated.longest), (None, 3600, 0));
    assert_eq!(activated.other_roots().count(), 2, "the old one is still trusted");
    let end = NOW + 6 + 3600 + LAG.as_secs();
    let early = heard(&activated, report(activated.sequence, 0, end - 1));
    assert_eq!(step(&early, Step::Retire, facts(end - 1)), Err(Refused::InUse { left: 1 }));
    let late = heard(&activated, report(activated.sequence, 0, end));
    let retired = step(&late, Step::Retire, facts(end)).unwrap();
    assert_eq!((retired.rotation, retired.sequence > activated.sequence), (None, true));
}

#[test]
fn every_other_order_is_refused_and_says_what_comes_next() {
    let steady = steady();
    let prepared = step(&steady, Step::Prepare, facts(NOW)).unwrap();
    let published = step(&prepared, Step::Publish, facts(NOW)).unwrap();
    let forced = Facts { force: true, ..facts(NOW) };
    let activated = step(&published, Step::Activate, forced).unwrap();
    for (state, good, next) in [
        (&steady, &[Step::Prepare][..], "prepare begins one"),
        (&prepared, &[Step::Publish, Step::Cancel], "publish has it trusted"),
        (&published, &[Step::Activate, Step::Cancel], "activate makes it sign"),
        (&activated, &[Step::Retire], "retire ends the trust"),
    ] {
        for one in [Step::Prepare, Step::Publish, Step::Activate, Step::Retire, Step::Cancel] {
            // Force does not change the order.
            match step(state, one.clone(), forced) {
                Ok(_) => assert!(good.contains(&one), "{one:?}"),
                Err(refused @ Refused::Order { .. }) => {
                    assert!(!good.contains(&one), "{one:?}");
                    let said = refused.to_string();
                    let typed = serde_json::to_value(&one).unwrap();
                    assert!(said.starts_with(typed.as_str().unwrap()) && said.contains(next), "{said}");
                }
                Err(other) => panic!("{other}"),
            }
        }
    }
    let cancelled = step(&published, Step::Cancel, facts(NOW)).unwrap();
    assert_eq!((cancelled.rotation, cancelled.sequence), (None, published.sequence + 1));
}

/// Each thing that could make somebody refuse what the new root signs.
#[test]
fn activation_waits_for_every_proxy() {
    let prepared = step(&steady(), Step::Prepare, facts(NOW)).unwrap();
    let published = step(&prepared, Step::Publish, facts(NOW)).unwrap();
    let sequence = published.sequence;
    let refused = |state: &State, now| match step(state, Step::Activate, facts(now)) {
        Err(Refused::Behind(why)) => why,
        other => panic!("{other:?}"),
    };
    assert!(refused(&published, NOW).contains("no pilot has said"));
    assert!(
        refused(&heard(&published, report(sequence - 1, 0, NOW)), NOW).contains("has not heard of it yet")
    );
    let behind = refused(&heard(&published, report(sequence, 3, NOW)), NOW);
    assert_eq!(behind, "3 of 10 proxies have not got it: shop/reviews-0");
    let silent = heard(&published, report(sequence, 0, NOW));
    assert!(refused(&silent, NOW + 31).contains("for 31 s"));
    assert!(step(&silent, Step::Activate, facts(NOW + 30)).is_ok());
    // One of two pilots is enough to wait for.
    let mut two = silent;
    two.hear(&[("pilot-2".to_owned(), report(sequence, 1, NOW))].into(), NOW);
    assert!(refused(&two, NOW).contains("1 of 10"));
    assert!(step(&two, Step::Activate, Facts { force: true, ..facts(NOW) }).is_ok());
    // A pilot that is gone for long counts no more.
    two.hear(&[("pilot-1".to_owned(), report(sequence, 0, NOW + 300))].into(), NOW + 300);
    assert!(step(&two, Step::Activate, facts(NOW + 300)).is_ok());
}

/// Its proxies come back to another pilot, which speaks for them; it is not waited for until it is taken for gone.
#[test]
fn a_pilot_that_says_goodbye_is_soon_not_waited_for() {
    let prepared = step(&steady(), Step::Prepare, facts(NOW)).unwrap();
    let published = step(&prepared, Step::Publish, facts(NOW)).unwrap();
    let sequence = published.sequence;
    let ended = |at| Report { ended: true, ..report(sequence - 1, 10, at) };
    let mut state = heard(&published, report(sequence, 0, NOW));
    state.hear(&[("pilot-2".to_owned(), ended(NOW))].into(), NOW);
    let why = state.waiting(NOW + 9).unwrap();
    assert_eq!(why, "the pilot pilot-2 has just ended, and its proxies go to another one");
    assert_eq!(state.waiting(NOW + 10), None);
    // Another replica of ours that had heard it before its end does not bring it back.
    state.hear(&[("pilot-2".to_owned(), report(sequence - 1, 10, NOW - 1))].into(), NOW + 10);
    assert_eq!(state.waiting(NOW + 10), None);
    // Where all have ended, nobody says how proxies stand.
    let alone = heard(&published, Report { ended: true, ..report(sequence, 0, NOW) });
    assert!(alone.waiting(NOW + 100).unwrap().contains("no pilot has said"));
    // It is back under its name.
    let back = heard(&state, report(sequence, 1, NOW + 20));
    assert!(
        heard(&back, Report { ended: false, ..report(sequence, 1, NOW + 20) }).waiting(NOW + 20).is_some()
    );
}

/// Of those that are not remembered nobody knows how their proxies stand.
#[test]
fn more_pilots_than_are_remembered_are_waited_for() {
    let many = |count: usize| {
        let mut state = steady();
        let reports = (0..count).map(|pilot| (format!("pilot-{pilot:03}"), report(1, 0, NOW)));
        state.hear(&reports.collect(), NOW);
        state
    };
    assert_eq!(many(64).waiting_for(1, NOW), None);
    for count in [65, 66, 1000] {
        let state = many(count);
        assert!(state.reports.len() <= 65);
        assert!(state.waiting_for(1, NOW).is_some_and(|why| why.contains("more than 64 pilots")));
    }
    // They leave.
    let mut fewer = many(1000);
    let later = NOW + GONE.as_secs();
    fewer.hear(&[("pilot-000".to_owned(), report(1, 0, later))].into(), later);
    assert_eq!(fewer.waiting_for(1, later), None);
}

#[test]
fn a_rotation_by_itself_takes_each_step_when_it_is_safe() {
    let automatic = Facts { automatic: true, ..facts(NOW) };
    let prepared = step(&steady(), Step::Prepare, automatic).unwrap();
    assert_eq!(prepared.due(NOW), Some(Step::Publish));
    let published = step(&prepared, Step::Publish, facts(NOW)).unwrap();
    assert_eq!(published.due(NOW), None);
    let behind = heard(&published, report(published.sequence, 1, NOW));
    assert_eq!(behind.due(NOW), None);
    assert_eq!(heard(&behind, report(published.sequence, 0, NOW + 1)).due(NOW + 1), Some(Step::Activate));
    // Pilots that are away have not said that everybody has it, however long they are away.
    let mut away = behind;
    away.hear(&BTreeMap::new(), NOW + GONE.as_secs());
    assert!(away.reports.is_empty());
    assert_eq!(away.due(NOW + GONE.as_secs() + SPREAD.as_secs()), None);
    // Nobody has ever said anything: after the time that files need to spread.
    assert_eq!(published.due(NOW + SPREAD.as_secs() - 1), None);
    assert_eq!(published.due(NOW + SPREAD.as_secs()), Some(Step::Activate));
    let mut activated = published;
    activated.activated(NOW);
    assert_eq!(activated.due(NOW + 3600 + LAG.as_secs() - 1), None);
    assert_eq!(activated.due(NOW + 3600 + LAG.as_secs()), Some(Step::Retire));
    // By hand, nothing is due.
    let by_hand = step(&steady(), Step::Prepare, facts(NOW)).unwrap();
    assert_eq!(by_hand.due(NOW), None);
}

#[test]
fn what_is_plugged_in_is_not_ours_to_replace() {
    let plugged = Facts { plugged: true, ..facts(NOW) };
    assert_eq!(step(&steady(), Step::Prepare, plugged), Err(Refused::PluggedIn));
    let mut state = steady();
    state.plugged_in("theirs", NOW).unwrap();
    assert_eq!(state.other_roots().collect::<Vec<_>>(), [OLD, "theirs"]);
    assert_eq!(state.due(NOW + SPREAD.as_secs()), Some(Step::Activate));
}

#[test]
fn tainted_identities_are_bounded_and_numbered() {
    let taint = |reason: &str| Some(Taint { since: NOW, reason: reason.to_owned(), sequence: 0 });
    let mut state = steady();
    for i in 0..MAX_TAINTED {
        state = state.taint(&format!("spiffe://td/ns/a/sa/b{i}"), taint("")).unwrap();
    }
    assert_eq!(state.taint("spiffe://td/ns/a/sa/c", taint("")), Err(Refused::TooMany));
    state = state.taint("spiffe://td/ns/a/sa/b0", taint("again")).unwrap();
    state.settle("2".to_owned());
    assert!(state.tainted.values().all(|taint| taint.sequence == 2));
    assert_eq!(state.taint("spiffe://td/ns/a/sa/b0", None).unwrap().tainted.len(), MAX_TAINTED - 1);
    assert!(state.waiting_for(2, NOW).is_some(), "no pilot has said anything");
    assert_eq!(heard(&state, report(2, 0, NOW)).waiting_for(2, NOW), None);
}

#[test]
fn what_is_kept_is_read_and_what_a_newer_one_kept_is_not_lost() {
    let prepared = step(&steady(), Step::Prepare, facts(NOW)).unwrap();
    let text = serde_json::to_string(&prepared).unwrap();
    assert_eq!(serde_json::from_str::<State>(&text).unwrap(), prepared);
    assert!(!format!("{prepared:?}").contains("key"), "a key is never printed");
    assert!(serde_json::from_str::<State>(&text.replacen("sequence", "newer", 1)).is_err());
    assert_eq!(serde_json::from_str::<State>("{}").unwrap(), State::default());
}

#[test]
fn what_pilots_say_is_kept_only_where_replicas_need_it() {
    let steady = steady();
    let said = heard(&steady, report(1, 0, NOW));
    assert!(!said.is_news(&steady, true), "no rotation waits for it");
    let prepared = step(&steady, Step::Prepare, facts(NOW)).unwrap();
    assert!(prepared.is_news(&steady, false));
    let first = heard(&prepared, report(1, 0, NOW));
    assert!(first.is_news(&prepared, true) && first.is_news(&prepared, false), "there are pilots at all");
    assert!(!heard(&first, report(1, 1, NOW + 1)).is_news(&first, false));
    assert!(!heard(&first, report(1, 0, NOW + 9)).is_news(&first, true), "the same again");
    assert!(heard(&first, report(1, 0, NOW + 10)).is_news(&first, true));
    assert!(heard(&first, report(1, 1, NOW + 1)).is_news(&first, true));
    // What is too long or too much is cut.
    let long = Report { waiting: vec!["x\n".repeat(1000); 50], ..report(1, 1, NOW) }.bounded();
    assert!(long.waiting.len() == 5 && long.waiting[0].len() == 253 && !long.waiting[0].contains('\n'));
}

/// A root that took over does not make the one before it leave early, nor does the next one that is plugged in.
#[test]
fn a_root_stays_as_long_as_its_certificates_live() {
    let mut state = steady();
    state.plugged_in("second", NOW).unwrap();
    state.activated(NOW + 130);
    state.root = "second".to_owned();
    state.longest = 60;
    let end = NOW + 130 + 3600 + LAG.as_secs();
    state.plugged_in("third", NOW + 200).unwrap();
    let others = |state: &State| state.other_roots().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(others(&state), ["second", "third", OLD]);
    // It takes over, and the second one's few certificates end; the first one's have not.
    state.activated(NOW + 400);
    state.root = "third".to_owned();
    let forced = Facts { force: true, signing_root: "third", ..facts(NOW + 500) };
    let retired = step(&state, Step::Retire, Facts { force: false, ..forced });
    assert!(matches!(retired, Err(Refused::Behind(_))), "{retired:?}");
    let state = heard(&state, report(state.sequence, 0, NOW + 500));
    let retired = step(&state, Step::Retire, Facts { force: false, ..forced }).unwrap();
    assert_eq!(others(&retired), [OLD]);
    let left = end - NOW - 500;
    assert_eq!(
        step(&retired, Step::Retire, Facts { force: false, ..forced }),
        Err(Refused::InUse { left }),
        "there is something to retire"
    );
    // Whoever insists ends the trust in all of them.
    assert!(others(&step(&state, Step::Retire, forced).unwrap()).is_empty());
    assert!(others(&step(&retired, Step::Retire, forced).unwrap()).is_empty());
    // By itself it leaves when its last certificate has ended.
    let mut late = retired;
    late.forget_earlier(end - 1);
    assert_eq!(others(&late), [OLD]);
    late.forget_earlier(end);
    assert!(others(&late).is_empty());
    // It comes back before that, and leaves again: what it signed first counts too.
    let mut back = state;
    back.plugged_in(OLD, NOW + 500).unwrap();
    back.activated(NOW + 600);
    back.root = OLD.to_owned();
    back.longest = 1;
    back.plugged_in("fourth", NOW + 700).unwrap();
    back.activated(NOW + 800);
    back.root = "fourth".to_owned();
    back.rotation = None;
    back.forget_earlier(end - 1);
    assert!(others(&back).contains(&OLD.to_owned()));
}

#[test]
fn roots_that_are_still_trusted_are_bounded() {
    let mut state = steady();
    for turn in 0..5 {
        let name = format!("root {turn}");
        state.plugged_in(&name, NOW).unwrap();
        state.activated(NOW);
        (state.root, state.longest) = (name, 3600);
    }
    assert_eq!(state.other_roots().count(), 6);
    let before = state.clone();
    let refused = state.plugged_in("one more", NOW + 10).unwrap_err().to_string();
    assert_eq!(state, before, "nothing has changed");
    assert!(refused.starts_with("4 roots before") && refused.contains("3620 s"), "{refused}");
    state.forget_earlier(NOW + 3600 + LAG.as_secs());
    state.plugged_in("one more", NOW + 3600 + LAG.as_secs()).unwrap();
}

/// Whoever once had a certificate for 90 days delays the old root's end until that certificate's, not for 90 days more.
#[test]
fn one_long_life_counts_from_when_it_was_given() {
    const DAY: u64 = 86400;
    let mut state = State { longest: DAY, ..steady() };
    assert!(state.covers(NOW, DAY) && !state.covers(NOW, DAY + 1));
    state.gives(NOW, 90 * DAY);
    assert_eq!(state.longest, DAY, "what everybody gets is not longer for that");
    assert!(state.covers(NOW, 90 * DAY) && state.covers(NOW + 89 * DAY, DAY));
    assert!(!state.covers(NOW + DAY, 90 * DAY), "another one of it ends later");
    // Not every certificate is a write: a few that follow each other are covered by one.
    state.gives(NOW, 90 * DAY);
    assert!(state.covers(NOW + 10, 90 * DAY));
    let mut activated = step(&state, Step::Prepare, facts(NOW + 80 * DAY)).unwrap();
    activated = step(&activated, Step::Publish, facts(NOW + 80 * DAY)).unwrap();
    let forced = Facts { force: true, ..facts(NOW + 80 * DAY) };
    activated = step(&activated, Step::Activate, forced).unwrap();
    let left = activated.old_in_use(NOW + 80 * DAY);
    let exact = 10 * DAY + LAG.as_secs();
    assert!(left >= exact && left <= exact + DAY / 24, "{left}");
    assert!(!activated.covers(NOW + 80 * DAY, 2 * DAY), "the new root has given nothing yet");
    // Where it has ended long ago, the ordinary ones count.
    let mut later = step(&state, Step::Prepare, facts(NOW + 200 * DAY)).unwrap();
    later = step(&later, Step::Publish, facts(NOW + 200 * DAY)).unwrap();
    let forced = Facts { force: true, ..facts(NOW + 200 * DAY) };
    later = step(&later, Step::Activate, forced).unwrap();
    assert_eq!(later.old_in_use(NOW + 200 * DAY), DAY + LAG.as_secs());
}

/// Replicas of two versions share the state: an older one reads what a newer one has kept as long as nothing of it is new.
#[test]
fn what_an_older_one_kept_is_read_and_the_other_way_round() {
    let old = r#"{"sequence":3,"bundle":"b","root":"r","longest":7776000,"rotation":{"phase":"activated",
        "automatic":true,"old":"o","new":"r","since":1000,"sequence":3,"longest":86400}}"#;
    let state: State = serde_json::from_str(old).unwrap();
    assert_eq!(state.old_in_use(1000), 86400 + LAG.as_secs());
    assert!(state.covers(NOW, 7_776_000), "what it has given is remembered");
    let again: serde_json::Value = serde_json::to_value(&state).unwrap();
    let before: serde_json::Value = serde_json::from_str(old).unwrap();
    let names = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&again), names(&before));
    assert_eq!(names(&again["rotation"]), names(&before["rotation"]));
}
