//! What the sidecar needs mounted. In: nothing of the pod. Out: volumes and mounts, with Istio's names.

use serde_json::{Value, json};

/// Kubelets renew a projected token well before its end.
const TOKEN_SECONDS: u64 = 43200;

/// The pod's volumes.
pub fn volumes() -> Vec<Value> {
    vec![
        json!({"name": "istio-envoy", "emptyDir": {"medium": "Memory"}}),
        json!({"name": "istio-token", "projected": {"sources": [{"serviceAccountToken":
            {"path": "istio-token", "expirationSeconds": TOKEN_SECONDS, "audience": "istio-ca"}}]}}),
        json!({"name": "istiod-ca-cert", "configMap": {"name": "istio-ca-root-cert"}}),
        json!({"name": "istio-podinfo", "downwardAPI": {"items": [
            {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
            {"path": "annotations", "fieldRef": {"fieldPath": "metadata.annotations"}},
        ]}}),
    ]
}

/// Where the sidecar finds them.
pub fn mounts() -> Vec<Value> {
    vec![
        json!({"name": "istio-envoy", "mountPath": "/etc/istio/proxy"}),
        json!({"name": "istio-token", "mountPath": "/var/run/secrets/tokens", "readOnly": true}),
        json!({"name": "istiod-ca-cert", "mountPath": "/var/run/secrets/istio", "readOnly": true}),
        json!({"name": "istio-podinfo", "mountPath": "/etc/istio/pod", "readOnly": true}),
    ]
}
