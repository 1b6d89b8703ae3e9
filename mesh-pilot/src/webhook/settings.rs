//! The injector's settings: the values of the chart, MeshConfig, and which control plane this is.
//!
//! In: the ConfigMap `istio-sidecar-injector` (key `values`) and MeshConfig, as JSON. Out: [`Settings`], or which value is
//! wrong. Names of values are Istio's chart's.

#[cfg(test)]
mod tests;

use mesh_proto::model::proxy_config::{self, Interception};
use serde_json::{Map, Value, json};

/// Which control plane injected proxies belong to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlPlane {
    /// Its namespace.
    pub namespace: String,
    /// Its revision (`default`).
    pub revision: String,
    /// The mesh's trust domain.
    pub trust_domain: String,
    /// `cluster.local`.
    pub cluster_domain: String,
    /// What metrics call the cluster.
    pub cluster_id: String,
    /// `host:port` of the authority.
    pub ca_address: String,
    /// `host:port` of the pilot.
    pub pilot_address: String,
    /// Images without a tag of their own get this one.
    pub version: String,
}

impl Default for ControlPlane {
    fn default() -> Self {
        Self {
            namespace: "istio-system".into(),
            revision: "default".into(),
            trust_domain: "cluster.local".into(),
            cluster_domain: "cluster.local".into(),
            cluster_id: "Kubernetes".into(),
            ca_address: "mesh-ca.istio-system.svc:15012".into(),
            pilot_address: "mesh-pilot.istio-system.svc:15012".into(),
            version: env!("CARGO_PKG_VERSION").into(),
        }
    }
}

/// Everything that is the same for all pods.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Whose proxies they are.
    pub control_plane: ControlPlane,
    /// The proxy's image, whole.
    pub image: String,
    /// `imagePullPolicy`; Kubernetes' own default where absent.
    pub pull_policy: Option<String>,
    /// Added to each pod.
    pub pull_secrets: Vec<String>,
    /// `MESH_LOG`.
    pub log_level: String,
    /// The sidecar's resources.
    pub resources: Value,
    /// The init container's resources.
    pub init_resources: Value,
    /// A CNI plugin writes the rules of capture: no init container.
    pub cni: bool,
    /// Sidecars are init containers that go on.
    pub native: bool,
    /// Applications start when a classic sidecar is ready.
    pub hold: bool,
    /// Probes go through the sidecar.
    pub rewrite_probes: bool,
    /// The application's metrics are told by the sidecar too.
    pub merge_metrics: bool,
    /// Which traffic is captured where a pod does not say.
    pub capture: Capture,
    /// How inbound traffic is captured where a pod does not say.
    pub interception: Interception,
    /// Namespaces that say nothing are injected.
    pub by_default: bool,
    /// Label selectors of pods that are never injected.
    pub never: Vec<Value>,
    /// Label selectors of pods that are always injected.
    pub always: Vec<Value>,
    /// Every injected pod gets them.
    pub annotations: Map<String, Value>,
    /// MeshConfig's `defaultConfig`; it has been read, so that proxies can.
    pub proxy_config: Map<String, Value>,
}

/// Which traffic is captured: lists as Istio's annotations have them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capture {
    /// CIDRs, or `*`.
    pub include_outbound_ranges: String,
    /// CIDRs.
    pub exclude_outbound_ranges: String,
    /// Ports, or `*`.
    pub include_inbound_ports: String,
    /// Ports.
    pub exclude_inbound_ports: String,
    /// Ports, whatever the range.
    pub include_outbound_ports: String,
    /// Ports.
    pub exclude_outbound_ports: String,
    /// Interfaces.
    pub exclude_interfaces: String,
    /// Interfaces of virtual machines in the pod: what comes from them is the application's.
    pub virtual_interfaces: String,
}

impl Settings {
    /// Reads the chart's values and MeshConfig; what is absent has the chart's default.
    ///
    /// # Errors
    /// Which value is of another kind, or one that no proxy would start with.
    pub fn read(values: &Value, mesh: &Value, control_plane: ControlPlane) -> Result<Self, String> {
        let at = Reader(values);
        let mesh_at = Reader(mesh);
        let proxy_config = mesh_at.map("/defaultConfig")?;
        let (told, _) =
            proxy_config::read(&proxy_config).map_err(|why| format!("meshConfig.defaultConfig.{why}"))?;
        Ok(Self {
            image: image(&at, &control_plane)?,
            pull_policy: at.text("/global/imagePullPolicy")?,
            pull_secrets: at.texts("/global/imagePullSecrets")?,
            log_level: at.text("/global/proxy/logLevel")?.unwrap_or_else(|| "warn".into()),
            resources: at.resources("/global/proxy/resources", "10m", "32Mi", "256Mi")?,
            init_resources: at.resources("/global/proxy_init/resources", "10m", "10Mi", "64Mi")?,
            cni: at.flag("/cni/enabled")?.or(at.flag("/pilot/cni/enabled")?).unwrap_or(false),
            native: at.flag("/global/proxy/nativeSidecar")?.unwrap_or(true),
            hold: match told.hold {
                Some(hold) => hold,
                None => at.flag("/global/proxy/holdApplicationUntilProxyStarts")?.unwrap_or(true),
            },
            rewrite_probes: at.flag("/sidecarInjectorWebhook/rewriteAppHTTPProbe")?.unwrap_or(true),
            merge_metrics: mesh_at.flag("/enablePrometheusMerge")?.unwrap_or(true),
            capture: Capture::read(&at)?,
            interception: told.interception.unwrap_or(Interception::Redirect),
            by_default: at.flag("/sidecarInjectorWebhook/enableNamespacesByDefault")?.unwrap_or(false),
            never: at.list("/sidecarInjectorWebhook/neverInjectSelector")?,
            always: at.list("/sidecarInjectorWebhook/alwaysInjectSelector")?,
            annotations: at.map("/sidecarInjectorWebhook/injectedAnnotations")?,
            proxy_config,
            control_plane,
        })
    }
}

impl Capture {
    fn read(at: &Reader<'_>) -> Result<Self, String> {
        let text = |name: &str, default: &str| -> Result<String, String> {
            Ok(at.text(&format!("/global/proxy/{name}"))?.unwrap_or_else(|| default.to_owned()))
        };
        Ok(Self {
            include_outbound_ranges: text("includeIPRanges", "*")?,
            exclude_outbound_ranges: text("excludeIPRanges", "")?,
            include_inbound_ports: text("includeInboundPorts", "*")?,
            exclude_inbound_ports: text("excludeInboundPorts", "")?,
            include_outbound_ports: text("includeOutboundPorts", "")?,
            exclude_outbound_ports: text("excludeOutboundPorts", "")?,
            exclude_interfaces: String::new(),
            virtual_interfaces: String::new(),
        })
    }
}

/// `<hub>/<image>:<tag>`, unless the image is a whole reference already.
fn image(at: &Reader<'_>, control_plane: &ControlPlane) -> Result<String, String> {
    let name = at.text("/global/proxy/image")?.unwrap_or_else(|| "proxy".into());
    if name.contains('/') {
        return Ok(name);
    }
    let hub = at.text("/global/hub")?.unwrap_or_else(|| "mesh".into());
    let tag = at.text("/global/tag")?.unwrap_or_else(|| control_plane.version.clone());
    Ok(format!("{hub}/{name}:{tag}"))
}

/// Reads values by JSON pointer; empty text is absent, as charts have it.
struct Reader<'a>(&'a Value);

impl Reader<'_> {
    fn wrong(pointer: &str, value: &Value, expected: &str) -> String {
        format!("{}: {value} is not {expected}", pointer.trim_start_matches('/').replace('/', "."))
    }

    fn at(&self, pointer: &str) -> Option<&Value> {
        self.0.pointer(pointer).filter(|value| !value.is_null())
    }

    fn text(&self, pointer: &str) -> Result<Option<String>, String> {
        match self.at(pointer) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone()).filter(|t| !t.is_empty())),
            // `includeInboundPorts: 80`, `tag: 1.0`
            Some(Value::Number(number)) => Ok(Some(number.to_string())),
            Some(other) => Err(Self::wrong(pointer, other, "text")),
        }
    }

    fn flag(&self, pointer: &str) -> Result<Option<bool>, String> {
        match self.at(pointer) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(Self::wrong(pointer, other, "true or false")),
        }
    }

    fn list(&self, pointer: &str) -> Result<Vec<Value>, String> {
        match self.at(pointer) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => Ok(list.clone()),
            Some(other) => Err(Self::wrong(pointer, other, "a list")),
        }
    }

    fn texts(&self, pointer: &str) -> Result<Vec<String>, String> {
        let text = |value: Value| match value {
            Value::String(text) => Ok(text),
            other => Err(Self::wrong(pointer, &other, "text")),
        };
        self.list(pointer)?.into_iter().map(text).collect()
    }

    fn map(&self, pointer: &str) -> Result<Map<String, Value>, String> {
        match self.at(pointer) {
            None => Ok(Map::new()),
            Some(Value::Object(map)) => Ok(map.clone()),
            Some(other) => Err(Self::wrong(pointer, other, "a map")),
        }
    }

    fn resources(&self, pointer: &str, cpu: &str, memory: &str, limit: &str) -> Result<Value, String> {
        match self.at(pointer) {
            None => Ok(json!({"requests": {"cpu": cpu, "memory": memory}, "limits": {"memory": limit}})),
            Some(value @ Value::Object(_)) => Ok(value.clone()),
            Some(other) => Err(Self::wrong(pointer, other, "a map")),
        }
    }
}
