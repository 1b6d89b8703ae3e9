//! YAML of what the tests deploy: the sample application with its Service and account, and pods to send from.

use crate::images::image;

/// Asked every second; on a busy machine an answer may take longer, and being slow is not being down.
const READINESS: &str =
    "        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1, timeoutSeconds: 5}\n";

/// A Deployment of the sample application, a Service of the same `app` and an account.
#[derive(Debug, Clone)]
pub struct App {
    /// `app` label, Service and account.
    pub name: String,
    /// `version` label.
    pub version: String,
    /// How many.
    pub replicas: u32,
    /// More labels of the pods, each `name: "value"`.
    pub labels: Vec<String>,
    /// Annotations of the pods, each `name: "value"`.
    pub annotations: Vec<String>,
    /// Environment of the application, each `name`, `value`.
    pub environment: Vec<(String, String)>,
    /// Lines of YAML in the container, indented as its fields are.
    pub container: String,
    /// Seconds that its pods have to end.
    pub grace: u32,
}

impl App {
    /// One replica of version v1.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            version: "v1".to_owned(),
            replicas: 1,
            labels: Vec::new(),
            annotations: Vec::new(),
            environment: Vec::new(),
            container: String::new(),
            grace: 30,
        }
    }

    /// Of another version.
    #[must_use]
    pub fn version(mut self, version: &str) -> Self {
        version.clone_into(&mut self.version);
        self
    }

    /// So many.
    #[must_use]
    pub fn replicas(mut self, replicas: u32) -> Self {
        self.replicas = replicas;
        self
    }

    /// With a label.
    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.labels.push(format!("{name}: \"{value}\""));
        self
    }

    /// With an annotation.
    #[must_use]
    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        self.annotations.push(format!("{name}: {}", serde_json::json!(value)));
        self
    }

    /// With an environment variable.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With more fields in its container.
    #[must_use]
    pub fn container(mut self, yaml: &str) -> Self {
        yaml.clone_into(&mut self.container);
        self
    }

    /// Whose pods have so many seconds to end.
    #[must_use]
    pub fn grace(mut self, seconds: u32) -> Self {
        self.grace = seconds;
        self
    }

    /// The Deployment's name.
    #[must_use]
    pub fn deployment(&self) -> String {
        format!("{}-{}", self.name, self.version)
    }

    /// All of it.
    #[must_use]
    pub fn yaml(&self) -> String {
        let Self { name, version, replicas, .. } = self;
        let deployment = self.deployment();
        format!(
            "apiVersion: v1
kind: ServiceAccount
metadata: {{name: {name}}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  selector: {{app: {name}}}
  ports:
  - {{name: http, port: 80, targetPort: 8080}}
  - {{name: grpc, port: 81, targetPort: 8080}}
  - {{name: tcp, port: 9000, targetPort: 9000}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {deployment}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}, version: {version}}}}}
  template:
{}",
            self.template()
        )
    }

    /// The pod template, indented for a Deployment.
    #[must_use]
    pub fn template(&self) -> String {
        let Self { name, version, container, grace, .. } = self;
        let joined = |list: &[String]| list.iter().map(|entry| format!(", {entry}")).collect::<String>();
        let annotations = self.annotations.join(", ");
        let environment: String = self
            .environment
            .iter()
            .map(|(name, value)| format!("        - {{name: {name}, value: {}}}\n", serde_json::json!(value)))
            .collect();
        format!(
            "    metadata:
      labels: {{app: {name}, version: {version}{}}}
      annotations: {{{annotations}}}
    spec:
      serviceAccountName: {name}
      terminationGracePeriodSeconds: {grace}
      containers:
      - name: app
        image: {}
        imagePullPolicy: IfNotPresent
        args: [app, --listen, \"0.0.0.0\", --port, \"8080\", --tcp-port, \"9000\"]
        env:
        - {{name: POD_NAME, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}
        - {{name: POD_NAMESPACE, valueFrom: {{fieldRef: {{fieldPath: metadata.namespace}}}}}}
        - {{name: VERSION, value: {version}}}
        - {{name: WORKLOAD, value: {name}-{version}}}
{environment}        ports: [{{containerPort: 8080}}, {{containerPort: 9000}}]
{}{container}",
            joined(&self.labels),
            image("app"),
            if container.contains("readinessProbe") { "" } else { READINESS },
        )
    }
}

/// A pod that sends: account, and what its metadata has besides (YAML lines, indented by four).
#[must_use]
pub fn client(name: &str, metadata: &str) -> String {
    format!(
        "apiVersion: v1
kind: ServiceAccount
metadata: {{name: {name}}}
---
apiVersion: v1
kind: Pod
metadata:
    name: {name}
{metadata}spec:
  serviceAccountName: {name}
  terminationGracePeriodSeconds: 2
  containers:
  - name: client
    image: {}
    imagePullPolicy: IfNotPresent
    args: [wait]
",
        image("e2e")
    )
}

/// A pod that counts the ids that applications report, outside the mesh, and its Service `tally:7777`.
#[must_use]
pub fn collector() -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: tally}}
spec: {{selector: {{app: tally}}, ports: [{{name: tcp, port: 7777}}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: tally, labels: {{app: tally, sidecar.istio.io/inject: \"false\"}}}}
spec:
  terminationGracePeriodSeconds: 2
  containers:
  - {{name: client, image: {}, imagePullPolicy: IfNotPresent, args: [collect]}}
",
        image("e2e")
    )
}
