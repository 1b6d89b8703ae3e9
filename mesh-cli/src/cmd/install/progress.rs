//! Waiting until what was installed is ready, and telling what is waited for. What an API server says comes in, lines go out
//! whenever something changed.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, bail};
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::api::ListParams;
use kube::{Api, Client};
use tokio::time::Instant;

/// How often to look.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long one look may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// What to wait for.
#[derive(Debug)]
pub struct Awaited<'a> {
    pub namespace: &'a str,
    /// Whose Deployments.
    pub releases: &'a [String],
    /// The webhooks that need the authority's certificate.
    pub injector: &'a str,
    /// The webhooks that the pilot closes when it answers.
    pub validator: &'a str,
}

/// How one of them stands: a line for people, or nothing more to wait for.
type Standing = Result<(), String>;

/// Waits, and prints each change.
///
/// # Errors
/// When it is not all ready in time: what is not, and why.
pub async fn wait(client: &Client, awaited: &Awaited<'_>, timeout: Duration) -> anyhow::Result<()> {
    let start = Instant::now();
    let mut told: BTreeMap<String, Standing> = BTreeMap::new();
    let problem = loop {
        let problem = match tokio::time::timeout(PATIENCE, look(client, awaited)).await {
            Ok(Ok(standings)) => {
                for (name, standing) in &standings {
                    if told.get(name) != Some(standing) {
                        let line = standing.as_ref().err().map_or("ready", String::as_str);
                        println!("{:>4} s  {name}: {line}", start.elapsed().as_secs());
                    }
                }
                told = standings;
                if told.values().all(Result::is_ok) {
                    return Ok(());
                }
                None
            }
            // An API server may be away for a moment.
            Ok(Err(error)) => Some(error),
            Err(_) => Some(anyhow::anyhow!("the API server does not answer")),
        };
        if start.elapsed() >= timeout {
            break problem;
        }
        tokio::time::sleep(INTERVAL).await;
    };
    if let Some(problem) = problem {
        return Err(problem.context(format!("not ready within {} s", timeout.as_secs())));
    }
    let missing: Vec<String> = told
        .into_iter()
        .filter_map(|(name, standing)| Some(format!("{name}: {}", standing.err()?)))
        .collect();
    bail!("not ready within {} s:\n  {}", timeout.as_secs(), missing.join("\n  "))
}

async fn look(client: &Client, awaited: &Awaited<'_>) -> anyhow::Result<BTreeMap<String, Standing>> {
    let mut standings = BTreeMap::new();
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), awaited.namespace);
    let pods: Api<Pod> = Api::namespaced(client.clone(), awaited.namespace);
    let of = format!(
        "app.kubernetes.io/part-of=mesh,app.kubernetes.io/instance in ({})",
        awaited.releases.join(",")
    );
    let labelled = ListParams::default().labels(&of);
    let pods = pods.list(&labelled).await.context("pods")?.items;
    for deployment in deployments.list(&labelled).await.context("deployments")?.items {
        let name = deployment.metadata.name.clone().unwrap_or_default();
        let standing = rolled_out(&deployment).map_err(|line| {
            // A new ReplicaSet's pods are named after their Deployment.
            let mine = pods.iter().filter(|pod| {
                pod.metadata.name.as_deref().is_some_and(|pod| pod.starts_with(&format!("{name}-")))
            });
            match mine.filter_map(why_not_ready).next().or_else(|| why_no_pod(&deployment)) {
                Some(why) => format!("{line} ({why})"),
                None => line,
            }
        });
        standings.insert(name, standing);
    }
    let webhooks: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let webhooks = webhooks.get_opt(awaited.injector).await.context("webhooks")?;
    standings.insert(awaited.injector.to_owned(), trusted(webhooks.as_ref()));
    let webhooks: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
    let webhooks = webhooks.get_opt(awaited.validator).await.context("webhooks")?;
    standings.insert(awaited.validator.to_owned(), closed(webhooks.as_ref()));
    Ok(standings)
}

/// Whether all replicas are of the newest version and available.
fn rolled_out(deployment: &Deployment) -> Standing {
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let status = deployment.status.clone().unwrap_or_default();
    let updated = status.updated_replicas.unwrap_or(0);
    let available = status.available_replicas.unwrap_or(0).min(updated);
    let seen = status.observed_generation >= deployment.metadata.generation;
    let old = status.replicas.unwrap_or(0) - updated;
    match (seen, old) {
        (true, 0) if available >= wanted => Ok(()),
        (true, 1..) if available >= wanted => Err(format!("{old} of the old version still to end")),
        _ => Err(format!("{available} of {wanted} ready")),
    }
}

/// Without the authority's certificate the API server cannot call them.
fn trusted(webhooks: Option<&MutatingWebhookConfiguration>) -> Standing {
    let Some(webhooks) = webhooks else { return Err("not there".to_owned()) };
    let all = webhooks.webhooks.iter().flatten();
    let without =
        all.filter(|one| one.client_config.ca_bundle.as_ref().is_none_or(|ca| ca.0.is_empty())).count();
    match without {
        0 => Ok(()),
        _ => Err("waits for the authority's certificate (caBundle)".to_owned()),
    }
}

/// Until the pilot has closed them, what it would refuse is stored.
fn closed(webhooks: Option<&ValidatingWebhookConfiguration>) -> Standing {
    let Some(webhooks) = webhooks else { return Err("not there".to_owned()) };
    let mut all = webhooks.webhooks.iter().flatten();
    if all.any(|one| one.failure_policy.as_deref() == Some("Ignore")) {
        return Err("waits for the pilot: resources are not checked yet (failurePolicy)".to_owned());
    }
    Ok(())
}

/// A quota, a missing ServiceAccount, an admission webhook: the API server's words.
fn why_no_pod(deployment: &Deployment) -> Option<String> {
    let conditions = deployment.status.as_ref()?.conditions.iter().flatten();
    let mut failing = conditions.filter(|one| one.type_ == "ReplicaFailure" && one.status == "True");
    failing.next().and_then(|one| one.message.clone())
}

/// The reason in the kubelet's or the scheduler's words.
fn why_not_ready(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let containers = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    if let Some(why) = containers.filter(|one| !one.ready).filter_map(why_not_running).next() {
        return Some(why);
    }
    let conditions = status.conditions.iter().flatten();
    let mut unscheduled = conditions.filter(|one| one.type_ == "PodScheduled" && one.status == "False");
    unscheduled.next().and_then(|one| one.message.clone())
}

fn why_not_running(container: &ContainerStatus) -> Option<String> {
    let state = container.state.as_ref()?;
    let ended = container.last_state.as_ref().and_then(|last| last.terminated.as_ref());
    let code = ended.map(|ended| format!("exit code {}", ended.exit_code));
    if let Some(waiting) = &state.waiting {
        let reason = waiting.reason.clone().unwrap_or_default();
        let more = code.or_else(|| waiting.message.clone());
        return Some(match more {
            Some(more) => format!("{}: {reason}, {more}", container.name),
            None => format!("{}: {reason}", container.name),
        });
    }
    code.map(|code| format!("{}: ended with {code} before", container.name))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deployment(status: serde_json::Value) -> Deployment {
        let object = json!({"metadata": {"name": "a", "generation": 2}, "spec": {"replicas": 2, "selector": {},
            "template": {}}, "status": status});
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn a_rollout_is_over_when_all_new_replicas_are_there_and_no_old_one() {
        let whole =
            json!({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2});
        assert_eq!(rolled_out(&deployment(whole.clone())), Ok(()));
        let mut old = whole.clone();
        old["replicas"] = json!(3);
        assert_eq!(rolled_out(&deployment(old)), Err("1 of the old version still to end".to_owned()));
        let mut unseen = whole;
        unseen["observedGeneration"] = json!(1);
        assert!(rolled_out(&deployment(unseen)).is_err());
        assert_eq!(rolled_out(&deployment(json!({}))), Err("0 of 2 ready".to_owned()));
        let refused =
            json!({"conditions": [{"type": "ReplicaFailure", "status": "True", "message": "quota"}]});
        assert_eq!(why_no_pod(&deployment(refused)).as_deref(), Some("quota"));
    }

    #[test]
    fn the_reason_is_the_kubelets() {
        let pod =
            |status: serde_json::Value| -> Pod { serde_json::from_value(json!({"status": status})).unwrap() };
        let container = |state: serde_json::Value, last: serde_json::Value| {
            json!({"containerStatuses": [{"name": "pilot", "image": "i", "imageID": "", "ready": false,
                "restartCount": 1, "state": state, "lastState": last}]})
        };
        let pulling =
            container(json!({"waiting": {"reason": "ErrImagePull", "message": "no such image"}}), json!({}));
        assert_eq!(why_not_ready(&pod(pulling)).unwrap(), "pilot: ErrImagePull, no such image");
        let crashing = container(
            json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}),
            json!({"terminated": {"exitCode": 64}}),
        );
        assert_eq!(why_not_ready(&pod(crashing)).unwrap(), "pilot: CrashLoopBackOff, exit code 64");
        let unscheduled =
            json!({"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes"}]});
        assert_eq!(why_not_ready(&pod(unscheduled)).unwrap(), "0/1 nodes");
        assert_eq!(why_not_ready(&pod(container(json!({"running": {}}), json!({})))), None);
    }

    #[test]
    fn a_webhook_without_a_certificate_is_waited_for() {
        let hooks = |ca: serde_json::Value| -> MutatingWebhookConfiguration {
            let hook = json!({"name": "a", "clientConfig": ca, "sideEffects": "None", "admissionReviewVersions": []});
            serde_json::from_value(json!({"webhooks": [hook]})).unwrap()
        };
        assert!(trusted(Some(&hooks(json!({})))).is_err());
        assert!(trusted(None).is_err());
        assert_eq!(trusted(Some(&hooks(json!({"caBundle": "QQ=="})))), Ok(()));
    }

    #[test]
    fn a_webhook_that_is_open_is_waited_for() {
        let hooks = |policy: &str| -> ValidatingWebhookConfiguration {
            let hook = |policy| json!({"name": "a", "clientConfig": {}, "sideEffects": "None", "admissionReviewVersions": [], "failurePolicy": policy});
            serde_json::from_value(json!({"webhooks": [hook("Fail"), hook(policy)]})).unwrap()
        };
        assert!(closed(None).is_err());
        assert!(closed(Some(&hooks("Ignore"))).is_err());
        assert_eq!(closed(Some(&hooks("Fail"))), Ok(()));
    }
}
