//! Status conditions of an object, from how it stands. Pure: a report in, conditions out; and what of an object's status
//! is another one's and stays.

use serde_json::{Map, Value, json};

use crate::status::{ResourceReport, State};

/// The conditions that are ours. Others stay as they are.
const OURS: [&str; 2] = ["Accepted", "Programmed"];
/// A message is for people; whoever wants more asks `meshctl`.
const MAX_MESSAGE: usize = 1024;

/// One condition, without the time of its last change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    kind: &'static str,
    status: &'static str,
    reason: &'static str,
    message: String,
}

/// The conditions of an object: whether it is good, and whether the proxies that need it have it.
#[must_use]
pub fn conditions(report: &ResourceReport) -> Vec<Condition> {
    let condition =
        |kind, status, reason, message: String| Condition { kind, status, reason, message: bounded(message) };
    let counts = report.observers;
    let of = format!("{} of {} proxies", counts.acked, counts.subscribed);
    let accepted = match report.state {
        State::Refused => condition("Accepted", "False", "Invalid", report.message.clone()),
        _ if report.warnings.is_empty() => condition("Accepted", "True", "Accepted", String::new()),
        _ => condition("Accepted", "True", "AcceptedWithWarnings", report.warnings.join("; ")),
    };
    let programmed = match report.state {
        State::Refused if counts.subscribed > 0 => {
            let message = format!("the last good version stays in force in {of}");
            condition("Programmed", "False", "LastGood", message)
        }
        State::Refused => condition("Programmed", "False", "Invalid", "no version is in force".to_owned()),
        State::Superseded => condition("Programmed", "False", "Superseded", report.message.clone()),
        State::InForce => condition("Programmed", "True", "Programmed", format!("in force in {of}")),
        State::Accepted if counts.subscribed == 0 => {
            condition("Programmed", "Unknown", "Unused", "no proxy needs it".to_owned())
        }
        State::Accepted if counts.acked == counts.subscribed && !report.message.is_empty() => {
            // They have it, and cannot do all that it says: a certificate that is missing, a port that is taken.
            condition("Programmed", "False", "NotServed", report.message.clone())
        }
        State::Accepted => condition("Programmed", "False", "Pending", format!("in force in {of}")),
    };
    vec![accepted, programmed]
}

fn bounded(mut message: String) -> String {
    if message.len() > MAX_MESSAGE {
        let mut end = MAX_MESSAGE - 4;
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        message.push_str(" ...");
    }
    message
}

/// The status fields to write into an object whose status is `before`; `None`: it says all that already.
#[must_use]
pub fn merged(before: &Value, wanted: &[Condition], generation: i64, now: &str) -> Option<Value> {
    let listed = before.get("conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let of = |kind: &str| listed.iter().find(|c| c.get("type").and_then(Value::as_str) == Some(kind));
    let said = |condition: &Condition| of(condition.kind).is_some_and(|c| condition.is_said(c, generation));
    // Istio's field at the top of status may be a text: its JSON of an int64.
    let observed = before.get("observedGeneration");
    let observed = observed.and_then(|v| v.as_i64().or_else(|| v.as_str()?.parse().ok()));
    if wanted.iter().all(said) && observed == Some(generation) {
        return None;
    }
    let foreign =
        |c: &&Value| !c.get("type").and_then(Value::as_str).is_some_and(|kind| OURS.contains(&kind));
    let mut conditions: Vec<Value> = listed.iter().filter(foreign).cloned().collect();
    conditions.extend(wanted.iter().map(|condition| condition.value(of(condition.kind), generation, now)));
    Some(json!({ "conditions": conditions, "observedGeneration": generation }))
}

impl Condition {
    fn is_said(&self, before: &Value, generation: i64) -> bool {
        let text = |field: &str| before.get(field).and_then(Value::as_str).unwrap_or_default();
        text("status") == self.status
            && text("reason") == self.reason
            && text("message") == self.message
            && before.get("observedGeneration").and_then(Value::as_i64) == Some(generation)
    }

    /// The time of the last change stays unless the status is another one.
    fn value(&self, before: Option<&Value>, generation: i64, now: &str) -> Value {
        let same = before.filter(|c| c.get("status").and_then(Value::as_str) == Some(self.status));
        let since = same.and_then(|c| c.get("lastTransitionTime")?.as_str()).unwrap_or(now);
        let mut value = Map::new();
        for (field, text) in [
            ("type", self.kind),
            ("status", self.status),
            ("reason", self.reason),
            ("message", &self.message),
            ("lastTransitionTime", since),
        ] {
            value.insert(field.to_owned(), text.into());
        }
        value.insert("observedGeneration".to_owned(), generation.into());
        Value::Object(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::ObserversReport;

    fn report(state: State, acked: usize, subscribed: usize, message: &str) -> ResourceReport {
        ResourceReport {
            kind: "VirtualService".into(),
            namespace: "default".into(),
            name: "a".into(),
            location: String::new(),
            generation: Some(3),
            state,
            message: message.into(),
            warnings: Vec::new(),
            observers: ObserversReport { acked, subscribed },
        }
    }

    fn told(report: &ResourceReport) -> Vec<String> {
        let text = |c: Condition| format!("{}={} {}: {}", c.kind, c.status, c.reason, c.message);
        conditions(report).into_iter().map(text).collect()
    }

    #[test]
    fn each_state_is_told() {
        let accepted = "Accepted=True Accepted: ";
        let all = [
            (State::InForce, 3, 3, "", accepted, "Programmed=True Programmed: in force in 3 of 3 proxies"),
            (State::Accepted, 1, 3, "", accepted, "Programmed=False Pending: in force in 1 of 3 proxies"),
            (State::Accepted, 0, 0, "", accepted, "Programmed=Unknown Unused: no proxy needs it"),
            (State::Accepted, 1, 1, "no such Secret", accepted, "Programmed=False NotServed: no such Secret"),
            (State::Superseded, 0, 0, "b is older", accepted, "Programmed=False Superseded: b is older"),
            (
                State::Refused,
                0,
                0,
                "bad",
                "Accepted=False Invalid: bad",
                "Programmed=False Invalid: no version is in force",
            ),
            (
                State::Refused,
                2,
                2,
                "bad",
                "Accepted=False Invalid: bad",
                "Programmed=False LastGood: the last good version stays in force in 2 of 2 proxies",
            ),
        ];
        for (state, acked, subscribed, message, first, second) in all {
            assert_eq!(told(&report(state, acked, subscribed, message)), [first, second]);
        }
        let mut warned = report(State::InForce, 1, 1, "");
        warned.warnings = vec!["look".into(), "here".into()];
        assert_eq!(told(&warned)[0], "Accepted=True AcceptedWithWarnings: look; here");
        let long = report(State::Refused, 0, 0, &"ä".repeat(2000));
        assert!(told(&long)[0].ends_with(" ...") && told(&long)[0].len() < 1100);
    }

    #[test]
    fn others_conditions_stay_and_what_is_said_is_not_written_again() {
        let before = json!({"conditions": [
            {"type": "Reconciled", "status": "True"},
            {"type": "Programmed", "status": "True", "reason": "Programmed", "message": "in force in 1 of 1 proxies",
                "lastTransitionTime": "then", "observedGeneration": 2},
        ], "theirs": 1});
        let wanted = conditions(&report(State::InForce, 3, 3, ""));
        let status = merged(&before, &wanted, 3, "now").unwrap();
        assert_eq!(status["conditions"][0], json!({"type": "Reconciled", "status": "True"}));
        let time =
            |index: usize| status["conditions"][index]["lastTransitionTime"].as_str().unwrap().to_owned();
        assert_eq!((time(1), time(2)), ("now".to_owned(), "then".to_owned()), "Programmed was True before");
        assert_eq!(
            (status["observedGeneration"].as_i64(), status.get("theirs")),
            (Some(3), None),
            "a merge keeps it"
        );
        assert_eq!(merged(&status, &wanted, 3, "later"), None);
        assert!(merged(&status, &wanted, 4, "later").is_some(), "a new generation was judged");
        let mut istio = status.clone();
        istio["observedGeneration"] = "3".into();
        assert_eq!(merged(&istio, &wanted, 3, "later"), None);
        assert!(merged(&Value::Null, &wanted, 3, "now").is_some());
    }
}
