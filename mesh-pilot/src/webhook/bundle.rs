//! The API server's trust in our webhooks: the roots of our authority, in the `caBundle` of each; and that nothing gets past
//! the validating one as soon as it can be asked.
//!
//! In: our roots, and the two configurations that the chart writes (without a bundle, the validating one with `failurePolicy:
//! Ignore`, so that resources can be applied together with the mesh). Out: patches of these fields alone. All replicas of a
//! pilot do it, as all have the same roots; a configuration that is as it should be costs one read.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use json_patch::Patch as Operations;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams};
use kube::{Api, Client};
use mesh_proto::runtime::identity::{Identity, pem};
use serde_json::{Value, json};

use super::settings::ControlPlane;
use crate::cluster::bundle::MANAGER;

/// How often to look: a change of the chart or of somebody's hand is put right that soon.
const LOOK: Duration = Duration::from_secs(5);

/// The names of our two configurations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    injector: String,
    validator: String,
    /// Where the API server finds us: namespace and name of a Service.
    service: (String, String),
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
            service: (namespace.clone(), format!("mesh-pilot{suffix}")),
        }
    }
}

/// Keeps both as they should be; never ends.
pub async fn keep(client: Client, names: Names, identity: Identity) {
    let mut changed = identity.roots_handle().changed();
    let mut told = String::new();
    loop {
        let bundle = bundle(&identity);
        let mut failures = Vec::new();
        for (name, result) in [
            (&names.injector, put_injector(&client, &names, &bundle).await),
            (&names.validator, put_validator(&client, &names, &bundle).await),
        ] {
            match result {
                Ok(0) => {}
                Ok(count) => tracing::info!(name, count, "the API server trusts the webhooks"),
                Err(error) => failures.push(format!("{name}: {error}")),
            }
        }
        let failed = failures.join("; ");
        if failed != told && !failed.is_empty() {
            tracing::warn!(why = failed, "the webhooks' configuration is not written; trying again");
        }
        told = failed;
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            gone = changed.changed() => if gone.is_err() { std::future::pending::<()>().await },
        }
    }
}

/// Writes where it differs; in how many webhooks. Its policy is the chart's.
async fn put_injector(client: &Client, names: &Names, bundle: &str) -> Result<usize, kube::Error> {
    let api = Api::<DynamicObject>::all_with(
        client.clone(),
        &ApiResource::erase::<MutatingWebhookConfiguration>(&()),
    );
    // None: not installed, which is nobody's fault.
    let Some(found) = api.get_opt(&names.injector).await? else { return Ok(0) };
    let (count, operations) = patch(&found.data, bundle, false);
    write(&api, &names.injector, operations).await?;
    Ok(count)
}

/// The same; and closed as soon as somebody answers.
async fn put_validator(client: &Client, names: &Names, bundle: &str) -> Result<usize, kube::Error> {
    let api = Api::<DynamicObject>::all_with(
        client.clone(),
        &ApiResource::erase::<ValidatingWebhookConfiguration>(&()),
    );
    let Some(found) = api.get_opt(&names.validator).await? else { return Ok(0) };
    let close = webhooks(&found.data).any(is_open) && is_reachable(client, names).await?;
    let (count, operations) = patch(&found.data, bundle, close);
    let now = write(&api, &names.validator, operations).await?.unwrap_or(found);
    write(&api, &names.validator, disown(&now)).await?;
    Ok(count)
}

/// Whether the API server finds a pilot behind the Service: until then a closed webhook would refuse everything.
async fn is_reachable(client: &Client, names: &Names) -> Result<bool, kube::Error> {
    let (namespace, service) = &names.service;
    let of = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
    let slices = Api::<EndpointSlice>::namespaced(client.clone(), namespace).list(&of).await?;
    Ok(slices.items.iter().any(has_ready))
}

/// Absent is ready, as everywhere with endpoints.
fn has_ready(slice: &EndpointSlice) -> bool {
    slice.endpoints.iter().any(|one| one.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true))
}

/// What came of it; nothing to do costs nothing.
async fn write(
    api: &Api<DynamicObject>,
    name: &str,
    operations: Operations,
) -> Result<Option<DynamicObject>, kube::Error> {
    if operations.0.is_empty() {
        return Ok(None);
    }
    let ours = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    api.patch(name, &ours, &Patch::Json::<()>(operations)).await.map(Some)
}

/// Our roots as the field holds them: PEM in base64.
fn bundle(identity: &Identity) -> String {
    let roots = identity.roots();
    let domain = roots.domain(identity.id().trust_domain());
    let text: String = domain.into_iter().flat_map(|d| &d.certificates).map(|c| pem(c)).collect();
    BASE64_STANDARD.encode(text)
}

fn webhooks(configuration: &Value) -> impl Iterator<Item = &Value> {
    configuration["webhooks"].as_array().into_iter().flatten()
}

/// Whether what it cannot be asked about passes.
fn is_open(webhook: &Value) -> bool {
    webhook["failurePolicy"] == "Ignore"
}

/// What has to change, and in how many webhooks: the bundle where it differs, and with `close` the policy where it is open; if
/// it is still the webhook that we looked at.
fn patch(configuration: &Value, bundle: &str, close: bool) -> (usize, Operations) {
    let (mut count, mut operations) = (0, Vec::new());
    for (index, webhook) in webhooks(configuration).enumerate() {
        let mut fields = Vec::new();
        if webhook["clientConfig"]["caBundle"].as_str() != Some(bundle) {
            fields.push(("clientConfig/caBundle", bundle));
        }
        if close && is_open(webhook) {
            fields.push(("failurePolicy", "Fail"));
        }
        if fields.is_empty() {
            continue;
        }
        count += 1;
        let at = |field: &str| format!("/webhooks/{index}/{field}");
        operations.push(json!({"op": "test", "path": at("name"), "value": webhook["name"]}));
        operations.extend(
            fields.into_iter().map(|(field, value)| json!({"op": "add", "path": at(field), "value": value})),
        );
    }
    (count, serde_json::from_value(operations.into()).unwrap_or_default())
}

/// What has to change so that the policy is nobody's: with us as its owner, Helm could not put an earlier release back, whose
/// policy is another one, for a conflict. Who puts it back to open, finds it closed at our next look.
fn disown(configuration: &DynamicObject) -> Operations {
    let mut operations = Vec::new();
    for (index, entry) in configuration.metadata.managed_fields.iter().flatten().enumerate() {
        let Some(fields) = entry.fields_v1.as_ref().filter(|_| entry.manager.as_deref() == Some(MANAGER))
        else {
            continue;
        };
        let owned = fields.0["f:webhooks"].as_object().into_iter().flatten();
        for (key, _) in owned.filter(|(_, fields)| fields.get("f:failurePolicy").is_some()) {
            let entry = format!("/metadata/managedFields/{index}");
            let key = key.replace('~', "~0").replace('/', "~1");
            operations.push(json!({"op": "test", "path": format!("{entry}/manager"), "value": MANAGER}));
            let field = format!("{entry}/fieldsV1/f:webhooks/{key}/f:failurePolicy");
            operations.push(json!({"op": "remove", "path": field}));
        }
    }
    serde_json::from_value(operations.into()).unwrap_or_default()
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
        let (count, operations) = patch(&configuration, "cm9vdHM=", false);
        assert_eq!((count, operations.0.len()), (2, 4));
        let before = configuration.clone();
        json_patch::patch(&mut configuration, &operations).unwrap();
        for (index, name) in ["a", "b", "c"].iter().enumerate() {
            assert_eq!(configuration["webhooks"][index]["clientConfig"]["caBundle"], "cm9vdHM=", "{name}");
            assert_eq!(configuration["webhooks"][index]["clientConfig"]["service"], service);
        }
        assert_eq!(configuration["webhooks"][0]["failurePolicy"], "Fail");
        assert_eq!(patch(&configuration, "cm9vdHM=", false).0, 0);
        // Somebody has put another webhook in that place meanwhile: nothing is written.
        let mut other = before;
        other["webhooks"].as_array_mut().unwrap().reverse();
        assert!(json_patch::patch(&mut other, &operations).is_err());
        assert_eq!(patch(&json!({}), "x", true).0, 0);
    }

    #[test]
    fn a_webhook_is_closed_when_it_can_be_asked_and_stays_so() {
        let mut configuration = json!({"webhooks": [
            {"name": "a", "clientConfig": {}, "failurePolicy": "Ignore"},
            {"name": "b", "clientConfig": {"caBundle": "x"}, "failurePolicy": "Fail"},
        ]});
        let (_, operations) = patch(&configuration, "x", false);
        json_patch::patch(&mut configuration, &operations).unwrap();
        assert_eq!(configuration["webhooks"][0]["failurePolicy"], "Ignore");
        let (count, operations) = patch(&configuration, "x", true);
        assert_eq!((count, operations.0.len()), (1, 2));
        json_patch::patch(&mut configuration, &operations).unwrap();
        assert_eq!(configuration["webhooks"][0]["failurePolicy"], "Fail");
        assert_eq!(configuration["webhooks"][0]["clientConfig"]["caBundle"], "x");
        assert_eq!(patch(&configuration, "x", true).0, 0);
    }

    #[test]
    fn the_policy_is_nobodys() {
        let key = r#"k:{"name":"rev.validation.istio.io"}"#;
        let of = |manager: &str| {
            json!({"manager": manager, "operation": "Update", "fieldsType": "FieldsV1", "fieldsV1": {"f:webhooks": {
                key: {"f:failurePolicy": {}, "f:clientConfig": {"f:caBundle": {}}}}}})
        };
        let configuration = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": "v", "managedFields": [of("helm"), of(MANAGER)]}, "webhooks": []});
        let object: DynamicObject = serde_json::from_value(configuration.clone()).unwrap();
        let operations = disown(&object);
        assert_eq!(operations.0.len(), 2);
        let mut after = configuration;
        json_patch::patch(&mut after, &operations).unwrap();
        let fields = |index: usize| &after["metadata"]["managedFields"][index]["fieldsV1"]["f:webhooks"][key];
        assert_eq!(*fields(1), json!({"f:clientConfig": {"f:caBundle": {}}}));
        assert!(fields(0)["f:failurePolicy"].is_object());
        assert!(disown(&serde_json::from_value(after).unwrap()).0.is_empty());
    }

    #[test]
    fn somebody_answers_when_an_endpoint_is_ready() {
        let slice = |endpoints: Value| -> EndpointSlice {
            let slice = json!({"addressType": "IPv4", "metadata": {}, "endpoints": endpoints});
            serde_json::from_value(slice).unwrap()
        };
        assert!(!has_ready(&slice(json!([]))));
        assert!(!has_ready(&slice(json!([{"addresses": ["10.0.0.1"], "conditions": {"ready": false}}]))));
        assert!(has_ready(&slice(json!([
            {"addresses": ["10.0.0.1"], "conditions": {"ready": false}},
            {"addresses": ["10.0.0.2"], "conditions": {"ready": true}},
        ]))));
        assert!(has_ready(&slice(json!([{"addresses": ["10.0.0.1"]}]))));
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
        assert_eq!(names.service, ("mesh".to_owned(), "mesh-pilot-canary".to_owned()));
    }
}
