//! What fuzzers call: any bytes in; a panic is a bug. cargo-fuzz and the short run of the tests share these functions.

use serde_json::json;

use crate::mesh_config;
use crate::push::node::Node;
use crate::webhook::review::{injection, validation};
use crate::webhook::{ControlPlane, Settings};

/// Who a proxy says that it is.
pub fn node(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(node) = text.parse::<Node>() {
        assert_eq!(&*node.id, text);
        assert!(!node.pod.is_empty() && !node.namespace.is_empty() && !node.namespace.contains('.'));
    }
}

/// What the API server asks. Whatever is answered answers this question, and what is refused gets no patch.
pub fn admission(data: &[u8]) {
    let settings = Settings::read(&json!({}), &json!({}), ControlPlane::default());
    let settings = settings.expect("defaults are settings");
    for answer in [injection(data, &settings, "token"), validation(data)].into_iter().flatten() {
        let response = &answer.review["response"];
        assert!(response["uid"].is_string() && response["allowed"].is_boolean(), "{response}");
        assert!(response["allowed"] == true || response.get("patch").is_none(), "{response}");
    }
}

/// The settings of a whole mesh.
pub fn mesh_settings(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Err(told) = mesh_config::parse(text) {
        assert!(told.is_error, "{told:?}");
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use mesh_proto::runtime::testing::fuzz::short_run;

    use super::*;

    fn seeds(name: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name)
    }

    #[test]
    fn c7_nodes_of_any_bytes() {
        short_run(node, &seeds("node"), 20_000);
    }

    #[test]
    fn c7_c9_questions_of_any_bytes() {
        short_run(admission, &seeds("admission"), 1_000);
    }

    #[test]
    fn settings_of_any_bytes() {
        short_run(mesh_settings, &seeds("mesh_settings"), 1_000);
    }
}
