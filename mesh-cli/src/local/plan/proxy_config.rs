//! A pod's own settings for its proxy: the annotation `proxy.istio.io/config`, YAML within YAML. In: annotations; out: what
//! is followed, and what has to be said about the rest.

use mesh_proto::crd::{Labels, yaml};
use serde_json::Value;

/// Where Istio reads it.
const ANNOTATION: &str = "proxy.istio.io/config";
/// More workers than any machine has CPUs are a slip of the pen.
const MAX_WORKERS: u64 = 256;

/// How many workers the proxy gets (0: as many as CPUs) if the pod says so; and what is not followed.
pub fn concurrency(annotations: &Labels) -> (Option<u16>, Vec<String>) {
    let Some(text) = annotations.get(ANNOTATION) else { return (None, Vec::new()) };
    let settings = match read(text) {
        Ok(Value::Object(settings)) => settings,
        Ok(Value::Null) => return (None, Vec::new()),
        Ok(_) => {
            return (
                None,
                vec![format!("annotation {ANNOTATION} is not followed: expected e.g. `concurrency: 2`")],
            );
        }
        Err(why) => return (None, vec![format!("annotation {ANNOTATION} is not followed: {why}")]),
    };
    let mut workers = None;
    let mut notices = Vec::new();
    for (name, value) in &settings {
        if name != "concurrency" {
            notices.push(format!("annotation {ANNOTATION}: {name} is not in force yet"));
            continue;
        }
        match value.as_u64().filter(|n| *n <= MAX_WORKERS).and_then(|n| u16::try_from(n).ok()) {
            Some(count) => workers = Some(count),
            None => notices.push(format!(
                "annotation {ANNOTATION}: concurrency {value} is not followed: expected a number from 0 (one worker a \
                 CPU) to {MAX_WORKERS}"
            )),
        }
    }
    (workers, notices)
}

fn read(text: &str) -> Result<Value, String> {
    let tree = match yaml::split(text)[..] {
        [] => return Ok(Value::Null),
        [one] => yaml::read(one).map_err(|error| error.to_string())?,
        _ => return Err("expected one document, without ---".to_owned()),
    };
    Ok(tree.map_or(Value::Null, |tree| tree.value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> (Option<u16>, String) {
        let annotations = Labels::from([(ANNOTATION.to_owned(), text.to_owned())]);
        let (workers, notices) = concurrency(&annotations);
        (workers, notices.join("\n"))
    }

    #[test]
    fn yaml_and_json_say_how_many_workers() {
        assert_eq!(concurrency(&Labels::new()), (None, vec![]));
        for text in [r#"{ "concurrency": 4 }"#, "concurrency: 4", "concurrency: 4\n"] {
            assert_eq!(of(text), (Some(4), String::new()), "{text}");
        }
        assert_eq!(of("concurrency: 0"), (Some(0), String::new()));
        assert_eq!(of(""), (None, String::new()));
    }

    #[test]
    fn what_is_not_followed_is_said() {
        let (workers, notice) = of("{concurrency: 2, drainDuration: 5s}");
        assert_eq!(workers, Some(2));
        assert!(notice.contains("drainDuration is not in force yet"), "{notice}");
        let two = "concurrency: 1\n---\nconcurrency: 2";
        for bad in
            ["concurrency: many", "concurrency: -1", "concurrency: 1000", "[1]", "{concurrency: 4", two]
        {
            let (workers, notice) = of(bad);
            assert!(workers.is_none() && notice.contains("is not followed"), "{bad}: {notice}");
        }
    }
}
