//! The user's own `istio-proxy` container over ours. In: both. Out: ours, with what the user says in its place.
//!
//! As Kubernetes' strategic merge has it: maps field by field, lists of named things by name, other lists replaced.

use serde_json::{Map, Value};

/// Lists whose items are known by a field.
const KEYED: [(&str, &str); 4] = [
    ("env", "name"),
    ("volumeMounts", "mountPath"),
    ("ports", "containerPort"),
    ("volumeDevices", "devicePath"),
];

/// Puts `over` over `base`.
pub fn merge(base: &mut Map<String, Value>, over: &Map<String, Value>) {
    let ours = over.get("image").and_then(Value::as_str) == Some("auto");
    for (field, value) in over {
        // `image: auto` asks for ours. To the API server that is an image without a tag: it has put its default for those beside it.
        let defaulted = field == "imagePullPolicy" && value.as_str() == Some("Always");
        if ours && (field == "image" || defaulted) {
            continue;
        }
        let key = KEYED.iter().find(|(list, _)| list == field).map(|(_, key)| *key);
        match (base.get_mut(field), value, key) {
            (Some(Value::Object(base)), Value::Object(over), _) => merge(base, over),
            (Some(Value::Array(base)), Value::Array(over), Some(key)) => merge_list(base, over, key),
            _ => drop(base.insert(field.clone(), value.clone())),
        }
    }
}

fn merge_list(base: &mut Vec<Value>, over: &[Value], key: &str) {
    for item in over {
        let same = base.iter_mut().find(|b| b.get(key).is_some() && b.get(key) == item.get(key));
        match same {
            // What a variable is has one form: a value and a reference do not mix.
            Some(place) => *place = item.clone(),
            None => base.push(item.clone()),
        }
    }
}
