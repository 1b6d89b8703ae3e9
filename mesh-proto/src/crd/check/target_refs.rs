//! `selector` and `targetRefs` of policies: one of them, and only what a policy may be for.

use super::super::meta::{ObjectMeta, WorkloadSelector, is_label_name, is_label_value, leaves_open};
use super::super::problem::Findings;
use super::super::target_ref::TargetRef;

/// As many as the resource may have in Istio.
const MAX_TARGETS: usize = 16;

pub(super) fn check(
    metadata: &ObjectMeta,
    selector: Option<&WorkloadSelector>,
    one: Option<&TargetRef>,
    many: &[TargetRef],
    findings: &mut Findings,
) {
    if let Some(target) = one {
        reference(metadata, target, "spec.targetRef", findings);
    }
    for (index, target) in many.iter().enumerate() {
        reference(metadata, target, &format!("spec.targetRefs[{index}]"), findings);
    }
    if many.len() > MAX_TARGETS {
        findings.error(
            "spec.targetRefs",
            format!("{} of them", many.len()),
            format!("at most {MAX_TARGETS}"),
        );
    }
    if one.is_some() && !many.is_empty() {
        findings.error("spec.targetRef", "there are targetRefs too", "one of them");
    }
    if selector.is_some() && (one.is_some() || !many.is_empty()) {
        findings.error("spec.selector", "there are targetRefs too", "one of them");
    }
    if let Some(selector) = selector {
        labels(selector, findings);
    }
}

/// A selector with a wildcard, which Istio refuses too, was meant to select somebody: it is refused. One with what no label
/// can be selects nobody, as in Istio: that is told.
pub(super) fn labels(selector: &WorkloadSelector, findings: &mut Findings) {
    if selector.match_labels.is_empty() {
        findings.warning(
            "spec.selector",
            "an empty selector selects the whole namespace",
            "matchLabels with a label",
        );
    }
    for (name, value) in &selector.match_labels {
        let path = "spec.selector.matchLabels";
        let nobody = "no pod has such a label: this selects nobody";
        if !is_label_name(name) {
            let (message, expected) =
                (format!("{name:?} is not the name of a label"), "[domain/]name, no wildcard");
            if leaves_open(name, "") {
                findings.error(path, message, expected);
            } else {
                findings.warning(path, format!("{message}; {nobody}"), expected);
            }
        }
        if !is_label_value(value) {
            let message = format!("{name}: {value:?} is not the value of a label");
            let expected = "letters, digits, '-', '_' and '.', at most 63; there are no wildcards";
            if leaves_open("_", value) {
                findings.error(path, message, expected);
            } else {
                findings.warning(path, format!("{message}; {nobody}"), expected);
            }
        }
    }
}

fn reference(metadata: &ObjectMeta, target: &TargetRef, path: &str, findings: &mut Findings) {
    if target.target().is_none() {
        findings.error(
            format!("{path}.kind"),
            format!("a policy cannot be for {:?} of the group {:?}", target.kind, target.group),
            "Gateway or GatewayClass of gateway.networking.k8s.io, Service, or ServiceEntry of networking.istio.io; \
             selector.matchLabels with the labels of its pods for a Gateway of networking.istio.io",
        );
    }
    if target.name.is_empty() {
        findings.error(format!("{path}.name"), "name is missing", "");
    }
    if target.namespace.as_ref().is_some_and(|namespace| *namespace != metadata.namespace) {
        let expected = format!("none, or {}", metadata.namespace);
        findings.error(format!("{path}.namespace"), "a policy is for what is in its own namespace", expected);
    }
}
