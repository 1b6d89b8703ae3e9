//! The charts, as part of this program: what comes out is a directory that Helm reads.

use std::path::Path;

use anyhow::Context as _;

macro_rules! files {
    ($($path:literal)+) => {
        &[$(($path, include_str!(concat!("../../../../charts/", $path))),)+]
    };
}

/// Path below `charts/`, content. A test compares it with what is there.
const FILES: &[(&str, &str)] = files![
    "base/.helmignore"
    "base/Chart.yaml"
    "base/values.yaml"
    "base/values.schema.json"
    "base/templates/NOTES.txt"
    "base/templates/crds.yaml"
    "base/files/crds/authorizationpolicies.security.istio.io.yaml"
    "base/files/crds/destinationrules.networking.istio.io.yaml"
    "base/files/crds/envoyfilters.networking.istio.io.yaml"
    "base/files/crds/gateways.networking.istio.io.yaml"
    "base/files/crds/peerauthentications.security.istio.io.yaml"
    "base/files/crds/proxyconfigs.networking.istio.io.yaml"
    "base/files/crds/requestauthentications.security.istio.io.yaml"
    "base/files/crds/serviceentries.networking.istio.io.yaml"
    "base/files/crds/sidecars.networking.istio.io.yaml"
    "base/files/crds/telemetries.telemetry.istio.io.yaml"
    "base/files/crds/trafficextensions.extensions.istio.io.yaml"
    "base/files/crds/virtualservices.networking.istio.io.yaml"
    "base/files/crds/wasmplugins.extensions.istio.io.yaml"
    "base/files/crds/workloadentries.networking.istio.io.yaml"
    "base/files/crds/workloadgroups.networking.istio.io.yaml"
    "control-plane/.helmignore"
    "control-plane/Chart.yaml"
    "control-plane/values.yaml"
    "control-plane/values.schema.json"
    "control-plane/templates/NOTES.txt"
    "control-plane/templates/_helpers.tpl"
    "control-plane/templates/_webhooks.tpl"
    "control-plane/templates/ca.yaml"
    "control-plane/templates/config.yaml"
    "control-plane/templates/network-policy.yaml"
    "control-plane/templates/pilot.yaml"
    "control-plane/templates/rbac.yaml"
    "control-plane/templates/service-monitor.yaml"
    "control-plane/templates/tests/check.yaml"
    "control-plane/templates/webhooks.yaml"
    "gateway/.helmignore"
    "gateway/Chart.yaml"
    "gateway/values.yaml"
    "gateway/values.schema.json"
    "gateway/templates/NOTES.txt"
    "gateway/templates/_helpers.tpl"
    "gateway/templates/gateway.yaml"
    "gateway/templates/scaling.yaml"
    "gateway/templates/service.yaml"
    "gateway/templates/tests/check.yaml"
];

/// A chart of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chart {
    /// With `base` inside.
    ControlPlane,
    Gateway,
}

impl Chart {
    /// Its directory.
    #[must_use]
    pub fn directory(self) -> &'static str {
        match self {
            Self::ControlPlane => "control-plane",
            Self::Gateway => "gateway",
        }
    }
}

/// Writes all charts below `directory`.
///
/// # Errors
/// When they cannot be written.
pub fn unpack(directory: &Path) -> anyhow::Result<()> {
    for (path, text) in FILES {
        write(&directory.join(path), text)?;
        // The checkout has a link there.
        if path.starts_with("base/") {
            write(&directory.join("control-plane/charts").join(path), text)?;
        }
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let parent = path.parent().context("a file has a directory")?;
    std::fs::create_dir_all(parent)
        .and_then(|()| std::fs::write(path, text))
        .with_context(|| format!("cannot unpack the charts: {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(directory: &Path, below: &str, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{below}{}", entry.file_name().to_string_lossy());
            // The link is not a directory of its own.
            if entry.file_type().unwrap().is_dir() {
                walk(&entry.path(), &format!("{name}/"), found);
            } else if entry.file_type().unwrap().is_file() {
                found.push(name);
            }
        }
    }

    #[test]
    fn every_file_of_a_chart_is_here() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts");
        let mut found = Vec::new();
        for chart in ["base", "control-plane", "gateway"] {
            walk(&root.join(chart), &format!("{chart}/"), &mut found);
        }
        found.sort();
        let mut ours: Vec<_> = FILES.iter().map(|(path, _)| (*path).to_owned()).collect();
        ours.sort();
        assert_eq!(ours, found, "FILES of mesh-cli/src/cmd/install/charts.rs");
    }

    #[test]
    fn the_control_plane_has_the_base_inside() {
        let directory = tempfile::tempdir().unwrap();
        unpack(directory.path()).unwrap();
        assert!(directory.path().join("control-plane/charts/base/Chart.yaml").is_file());
        assert!(directory.path().join(Chart::Gateway.directory()).join("Chart.yaml").is_file());
    }
}
