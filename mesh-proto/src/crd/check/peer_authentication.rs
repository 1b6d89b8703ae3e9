//! PeerAuthentication. A refused one makes its targets STRICT, so nothing here is only a warning that loosens.

use super::super::peer_authentication::PeerAuthenticationSpec;
use super::super::problem::Findings;
use super::target_refs;

pub(super) fn check(spec: &PeerAuthenticationSpec, findings: &mut Findings) {
    let selects = spec.selector.as_ref().is_some_and(|s| !s.match_labels.is_empty());
    if !spec.port_level_mtls.is_empty() && !selects {
        findings.error(
            "spec.portLevelMtls",
            "portLevelMtls needs a selector",
            "selector.matchLabels with a label",
        );
    }
    if spec.port_level_mtls.contains_key(&0) {
        findings.error("spec.portLevelMtls.0", "0 is not a port", "1 to 65535, the container's port");
    }
    if let Some(selector) = &spec.selector {
        target_refs::labels(selector, findings);
    }
}
