//! The core Kubernetes kinds that workloads are made of. Only the fields that the mesh uses; all others are ignored, as
//! they are somebody else's.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::meta::{Labels, ObjectMeta};
use super::values::IntOrString;

macro_rules! lenient {
    ($($(#[$doc:meta])* pub struct $name:ident { $($(#[$field_doc:meta])* pub $field:ident: $type:ty,)* })+) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }
    )+};
}

lenient! {
    /// A namespace.
    pub struct Namespace {
        /// Name and labels.
        pub metadata: ObjectMeta,
    }

    /// An account.
    pub struct ServiceAccount {
        /// Name and namespace.
        pub metadata: ObjectMeta,
    }

    /// Secret values, for certificates.
    pub struct Secret {
        /// Name and namespace.
        pub metadata: ObjectMeta,
        /// `kubernetes.io/tls`, `Opaque` ...
        pub r#type: String,
        /// Base64.
        pub data: BTreeMap<String, String>,
        /// As it is.
        pub string_data: BTreeMap<String, String>,
    }

    /// Settings.
    pub struct ConfigMap {
        /// Name and namespace.
        pub metadata: ObjectMeta,
        /// As it is.
        pub data: BTreeMap<String, String>,
        /// Base64.
        pub binary_data: BTreeMap<String, String>,
    }

    /// Replicated pods.
    pub struct Deployment {
        /// Name, namespace, labels.
        pub metadata: ObjectMeta,
        /// What is wanted.
        pub spec: DeploymentSpec,
    }

    /// What a Deployment wants.
    pub struct DeploymentSpec {
        /// 1 when absent.
        pub replicas: Option<u32>,
        /// Which pods are its own.
        pub selector: LabelSelector,
        /// What each pod looks like.
        pub template: PodTemplate,
    }

    /// `matchLabels` and `matchExpressions`.
    pub struct LabelSelector {
        /// All of them must hold.
        pub match_labels: Labels,
        /// All of them must hold.
        pub match_expressions: Vec<LabelExpression>,
    }

    /// One expression of a selector.
    pub struct LabelExpression {
        /// The label.
        pub key: String,
        /// In, NotIn, Exists, DoesNotExist.
        pub operator: String,
        /// For In and NotIn.
        pub values: Vec<String>,
    }

    /// A pod's template.
    pub struct PodTemplate {
        /// Labels and annotations.
        pub metadata: ObjectMeta,
        /// Containers.
        pub spec: PodSpec,
    }

    /// A pod.
    pub struct Pod {
        /// Name, namespace, labels, uid.
        pub metadata: ObjectMeta,
        /// What is wanted.
        pub spec: PodSpec,
        /// What is.
        pub status: PodStatus,
    }

    /// What a pod wants.
    pub struct PodSpec {
        /// In order.
        pub containers: Vec<Container>,
        /// Run before them.
        pub init_containers: Vec<Container>,
        /// `default` when empty.
        pub service_account_name: String,
        /// Where it runs.
        pub node_name: String,
        /// Shares the node's network: never part of the mesh.
        pub host_network: bool,
        /// 30 when absent.
        pub termination_grace_period_seconds: Option<u64>,
    }

    /// One container.
    pub struct Container {
        /// Unique in the pod.
        pub name: String,
        /// What to run; a stand-in is used locally when there is no `command`.
        pub image: String,
        /// The program and its first arguments.
        pub command: Vec<String>,
        /// More arguments.
        pub args: Vec<String>,
        /// Where it runs.
        pub working_dir: String,
        /// Environment.
        pub env: Vec<EnvVar>,
        /// Environment from whole ConfigMaps and Secrets.
        pub env_from: Vec<EnvFrom>,
        /// Declared ports.
        pub ports: Vec<ContainerPort>,
        /// Decides who gets traffic.
        pub readiness_probe: Option<Probe>,
        /// Decides who is restarted.
        pub liveness_probe: Option<Probe>,
        /// Comes before the other two.
        pub startup_probe: Option<Probe>,
    }

    /// One variable.
    pub struct EnvVar {
        /// Its name.
        pub name: String,
        /// Its value, unless it comes from somewhere else.
        pub value: String,
        /// Somewhere else.
        pub value_from: Option<EnvSource>,
    }

    /// Where a variable's value comes from. Exactly one is set.
    pub struct EnvSource {
        /// A field of the pod, such as `metadata.name`.
        pub field_ref: Option<FieldRef>,
        /// A key of a ConfigMap.
        pub config_map_key_ref: Option<KeyRef>,
        /// A key of a Secret.
        pub secret_key_ref: Option<KeyRef>,
    }

    /// A field of the pod.
    pub struct FieldRef {
        /// `metadata.name`, `status.podIP` ...
        pub field_path: String,
    }

    /// A key of a ConfigMap or Secret.
    pub struct KeyRef {
        /// The object.
        pub name: String,
        /// The key.
        pub key: String,
        /// Absent objects are no mistake.
        pub optional: bool,
    }

    /// All keys of a ConfigMap or Secret.
    pub struct EnvFrom {
        /// Put in front of each key.
        pub prefix: String,
        /// The ConfigMap.
        pub config_map_ref: Option<NameRef>,
        /// The Secret.
        pub secret_ref: Option<NameRef>,
    }

    /// A name.
    pub struct NameRef {
        /// The object.
        pub name: String,
        /// Absent objects are no mistake.
        pub optional: bool,
    }

    /// A port that a container listens on.
    pub struct ContainerPort {
        /// For `targetPort` by name, and the protocol of pods without a service.
        pub name: String,
        /// The number.
        pub container_port: u16,
        /// TCP when empty.
        pub protocol: String,
    }

    /// A check of a container. Exactly one of the four ways is set.
    pub struct Probe {
        /// 200 to 399 is healthy.
        pub http_get: Option<HttpGet>,
        /// A connection is healthy.
        pub tcp_socket: Option<TcpSocket>,
        /// grpc.health.v1.
        pub grpc: Option<GrpcProbe>,
        /// Exit status 0 is healthy.
        pub exec: Option<ExecProbe>,
        /// 0 when absent.
        pub initial_delay_seconds: Option<u64>,
        /// 10 when absent.
        pub period_seconds: Option<u64>,
        /// 1 when absent.
        pub timeout_seconds: Option<u64>,
        /// 1 when absent.
        pub success_threshold: Option<u32>,
        /// 3 when absent.
        pub failure_threshold: Option<u32>,
    }

    /// An HTTP probe.
    pub struct HttpGet {
        /// `/` when empty.
        pub path: String,
        /// Of the container.
        pub port: Option<IntOrString>,
        /// HTTP when empty.
        pub scheme: String,
        /// The Host header when set.
        pub host: String,
        /// More headers.
        pub http_headers: Vec<EnvVar>,
    }

    /// A TCP probe.
    pub struct TcpSocket {
        /// Of the container.
        pub port: Option<IntOrString>,
    }

    /// A gRPC probe.
    pub struct GrpcProbe {
        /// Of the container.
        pub port: u16,
        /// The service asked for; empty for the whole server.
        pub service: String,
    }

    /// A probe that runs a program.
    pub struct ExecProbe {
        /// The program and its arguments.
        pub command: Vec<String>,
    }

    /// What a pod is.
    pub struct PodStatus {
        /// Pending, Running, Succeeded, Failed.
        pub phase: String,
        /// Its address.
        #[serde(rename = "podIP")]
        pub pod_ip: String,
        /// All of them: one a family.
        #[serde(rename = "podIPs")]
        pub pod_ips: Vec<PodIp>,
        /// Ready and others.
        pub conditions: Vec<Condition>,
    }

    /// An address of a pod.
    pub struct PodIp {
        /// The address.
        pub ip: String,
    }

    /// One condition.
    pub struct Condition {
        /// `Ready`.
        pub r#type: String,
        /// True, False, Unknown.
        pub status: String,
    }

    /// A name in front of workloads.
    pub struct Service {
        /// Name, namespace, annotations (`networking.istio.io/exportTo`).
        pub metadata: ObjectMeta,
        /// What is wanted.
        pub spec: ServiceSpec,
    }

    /// What a Service wants.
    pub struct ServiceSpec {
        /// `None` for a headless service; empty when the cluster is to choose.
        #[serde(rename = "clusterIP")]
        pub cluster_ip: String,
        /// All of them: one a family.
        #[serde(rename = "clusterIPs")]
        pub cluster_ips: Vec<String>,
        /// ClusterIP, NodePort, LoadBalancer, ExternalName.
        pub r#type: String,
        /// For ExternalName.
        pub external_name: String,
        /// Its ports.
        pub ports: Vec<ServicePort>,
        /// Which pods are behind it; none when empty.
        pub selector: Labels,
        /// Pods count as ready at once.
        pub publish_not_ready_addresses: bool,
    }

    /// A port of a Service.
    pub struct ServicePort {
        /// `<protocol>[-suffix]`.
        pub name: String,
        /// What clients use.
        pub port: u16,
        /// Of the container; the same as `port` when absent.
        pub target_port: Option<IntOrString>,
        /// TCP when empty.
        pub protocol: String,
        /// Comes before the name's prefix.
        pub app_protocol: Option<String>,
    }
}

impl Secret {
    /// A value, decoded; `None` where there is none, or what is there is not base64.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<Vec<u8>> {
        use base64::Engine as _;
        if let Some(text) = self.string_data.get(key) {
            return Some(text.clone().into_bytes());
        }
        // YAML may break a long value into lines.
        let text: String = self.data.get(key)?.split_ascii_whitespace().collect();
        base64::engine::general_purpose::STANDARD.decode(text).ok()
    }
}

impl LabelSelector {
    /// Whether a pod with these labels is selected.
    #[must_use]
    pub fn selects(&self, labels: &Labels) -> bool {
        super::meta::holds_all(&self.match_labels, labels)
            && self.match_expressions.iter().all(|expression| expression.holds(labels))
    }
}

impl LabelExpression {
    fn holds(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        let listed = value.is_some_and(|value| self.values.contains(value));
        match self.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    }
}

impl Pod {
    /// The account it runs as.
    #[must_use]
    pub fn service_account(&self) -> &str {
        if self.spec.service_account_name.is_empty() { "default" } else { &self.spec.service_account_name }
    }

    /// Running, has an address, says that it is ready and is not going away.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.metadata.deletion_timestamp.is_none()
            && !self.status.pod_ip.is_empty()
            && self.status.conditions.iter().any(|c| c.r#type == "Ready" && c.status == "True")
    }

    /// The number of a container port by name.
    #[must_use]
    pub fn port_named(&self, name: &str) -> Option<u16> {
        let mut ports = self.spec.containers.iter().flat_map(|c| &c.ports);
        ports.find(|p| p.name == name).map(|p| p.container_port)
    }
}

impl ConfigMap {
    /// Istio's own settings (MeshConfig, as YAML), where this is the ConfigMap that they are read from.
    #[must_use]
    pub fn mesh_config(&self) -> Option<&str> {
        let named = self.metadata.name == "istio" && self.metadata.namespace == "istio-system";
        self.data.get("mesh").filter(|_| named).map(String::as_str)
    }
}

impl Service {
    /// Has no address of its own.
    #[must_use]
    pub fn is_headless(&self) -> bool {
        self.spec.cluster_ip == "None"
    }
}
