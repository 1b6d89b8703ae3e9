//! The API server's trust in our webhooks: the roots of our authority, in the `caBundle` of each.
//!
//! In: our roots, and the two configurations that the chart writes (without a bundle). Out: patches of that field alone. All
//! replicas of a pilot do it, as all have the same roots; a configuration that is as it should be costs one read.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use json_patch::Patch as Operations;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::{Api, Client};
use mesh_proto::runtime::identity::{Identity, pem};
use serde_json::{Value, json};

use super::settings::ControlPlane;

/// How often to look: a change of the chart or of somebody's hand is put right that soon.
const LOOK: Duration = Duration::from_secs(5);

/// The names of our two configurations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    injector: String,
    validator: String,
}

impl Names {
    /// As the chart makes them.
    #[must_use]
    pub fn of(control_plane: &ControlPlane) -> Self {
        let ControlPlane { namespace, revision, .. } = control_plane;
        let suffix = if revision == "default" { String::new() } else { format!("-{revision}") };
        Self {
            injector: format!("istio-sidecar-injector{suffix}"),
            validator: format!("istio-validator{suffix}-{namespace}"),
        }
    }
}

/// Keeps the bundle of both as our roots are; never ends.
pub async fn keep(client: Client, names: Names, identity: Identity) {
    let mut changed = identity.roots_handle().changed();
    let kinds = [
        (ApiResource::erase::<MutatingWebhookConfiguration>(&()), names.injector),
        (ApiResource::erase::<ValidatingWebhookConfiguration>(&()), names.validator),
    ];
    let mut told = String::new();
    loop {
        let bundle = bundle(&identity);
        let mut failures = Vec::new();
        for (kind, name) in &kinds {
            let api = Api::<DynamicObject>::all_with(client.clone(), kind);
            match put(&api, name, &bundle).await {
                Ok(0) => {}
                Ok(count) => tracing::info!(name, count, "the API server trusts the webhooks"),
                Err(error) => failures.push(format!("{name}: {error}")),
            }
        }
        let failed = failures.join("; ");
        if failed != told && !failed.is_empty() {
            tracing::warn!(why = failed, "caBundle not written; trying again");
        }
        told = failed;
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            gone = changed.changed() => if gone.is_err() { std::future::pending::<()>().await },
        }
    }
}

/// Writes where it differs; in how many webhooks.
async fn put(api: &Api<DynamicObject>, name: &str, bundle: &str) -> Result<usize, kube::Error> {
    // None: not installed, which is nobody's fault.
    let Some(found) = api.get_opt(name).await? else { return Ok(0) };
    let (count, operations) = patch(&found.data, bundle);
    if count > 0 {
        api.patch(name, &PatchParams::default(), &Patch::Json::<()>(operations)).await?;
    }
    Ok(count)
}

/// Our roots as the field holds them: PEM in base64.
fn bundle(identity: &Identity) -> String {
    let roots = identity.roots();
    let domain = roots.domain(identity.id().trust_domain());
    let text: String = domain.into_iter().flat_map(|d| &d.certificates).map(|c| pem(c)).collect();
    BASE64_STANDARD.encode(text)
}

/// What has to change: the field of each webhook that differs, if it is still the webhook that we looked at.
fn patch(configuration: &Value, bundle: &str) -> (usize, Operations) {
    let webhooks = configuration["webhooks"].as_array();
    let differs = |webhook: &Value| webhook["clientConfig"]["caBundle"].as_str() != Some(bundle);
    let mut operations = Vec::new();
    for (index, webhook) in webhooks.into_iter().flatten().enumerate().filter(|(_, w)| differs(w)) {
        operations
            .push(json!({"op": "test", "path": format!("/webhooks/{index}/name"), "value": webhook["name"]}));
        operations.push(
            json!({"op": "add", "path": format!("/webhooks/{index}/clientConfig/caBundle"), "value": bundle}),
        );
    }
    let count = operations.len() / 2;
    (count, serde_json::from_value(operations.into()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use mesh_proto::runtime::testing::TestCa;

    use super::*;

    #[test]
    fn only_the_bundle_and_only_where_it_differs() {
        let service = json!({"name": "mesh-pilot"});
        let mut configuration = json!({"webhooks": [
            {"name": "a", "clientConfig": {"service": service}, "failurePolicy": "Fail"},
            {"name": "b", "clientConfig": {"service": service, "caBundle": "b3RoZXI="}},
            {"name": "c", "clientConfig": {"service": service, "caBundle": "cm9vdHM="}},
        ]});
        let (count, operations) = patch(&configuration, "cm9vdHM=");
        assert_eq!((count, operations.0.len()), (2, 4));
        let before = configuration.clone();
        json_patch::patch(&mut configuration, &operations).unwrap();
        for (index, name) in ["a", "b", "c"].iter().enumerate() {
            assert_eq!(configuration["webhooks"][index]["clientConfig"]["caBundle"], "cm9vdHM=", "{name}");
            assert_eq!(configuration["webhooks"][index]["clientConfig"]["service"], service);
        }
        assert_eq!(configuration["webhooks"][0]["failurePolicy"], "Fail");
        assert_eq!(patch(&configuration, "cm9vdHM=").0, 0);
        // Somebody has put another webhook in that place meanwhile: nothing is written.
        let mut other = before;
        other["webhooks"].as_array_mut().unwrap().reverse();
        assert!(json_patch::patch(&mut other, &operations).is_err());
        assert_eq!(patch(&json!({}), "x").0, 0);
    }

    #[test]
    fn the_bundle_is_pem() {
        let ca = TestCa::new();
        let text = BASE64_STANDARD.decode(bundle(&ca.identity("istio-system", "mesh-pilot"))).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert_eq!(text.matches("BEGIN CERTIFICATE").count(), 1);
    }

    #[test]
    fn names_are_the_charts() {
        let names = Names::of(&ControlPlane::default());
        assert_eq!(
            (names.injector.as_str(), names.validator.as_str()),
            ("istio-sidecar-injector", "istio-validator-istio-system")
        );
        let canary =
            ControlPlane { revision: "canary".into(), namespace: "mesh".into(), ..ControlPlane::default() };
        let names = Names::of(&canary);
        assert_eq!(
            (names.injector.as_str(), names.validator.as_str()),
            ("istio-sidecar-injector-canary", "istio-validator-canary-mesh")
        );
    }
}
