//! The injector's settings: the values of the chart, MeshConfig, and which control plane this is.
//!
//! In: the ConfigMap `istio-sidecar-injector` (key `values`) and MeshConfig, as JSON. Out: [`Settings`], or which value is
//! wrong. Names of values are Istio's chart's.

#[cfg(test)]
mod tests;

use mesh_proto::model::proxy_config::{self, Interception};
use serde_json::{Map, Value, json};

use super::capture::{Capture, LISTS};

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
    /// Who programs a pod's rules of capture where it does not say.
    pub programmer: Programmer,
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

impl Settings {
    /// Reads the chart's values and MeshConfig; what is absent has the chart's default.
    ///
    /// # Errors
    /// Which value is of another kind, or one that no proxy would start with.
    pub fn read(values: &Value, mesh: &Value, control_plane: ControlPlane) -> Result<Self, String> {
        let at = Reader(values);
        no_cni(&at)?;
        let mesh_at = Reader(mesh);
        let proxy_config = mesh_at.map("/defaultConfig")?;
        let (told, _) =
            proxy_config::read(&proxy_config).map_err(|why| format!("meshConfig.defaultConfig.{why}"))?;
        Ok(Self {
            image: image(&at, &control_plane)?,
            pull_policy: at.text("/global/imagePullPolicy")?,
            pull_secrets: at.texts("/global/imagePullSecrets")?,
            log_level: at.log_level("/global/proxy/logLevel", "warn")?,
            resources: at.resources("/global/proxy/resources", "10m", "32Mi", "256Mi")?,
            init_resources: at.resources("/global/proxy_init/resources", "10m", "10Mi", "64Mi")?,
            programmer: programmer(&at)?,
            native: at.flag("/global/proxy/nativeSidecar")?.unwrap_or(true),
            hold: match told.hold {
                Some(hold) => hold,
                None => at.flag("/global/proxy/holdApplicationUntilProxyStarts")?.unwrap_or(true),
            },
            rewrite_probes: at.flag("/sidecarInjectorWebhook/rewriteAppHTTPProbe")?.unwrap_or(true),
            merge_metrics: mesh_at.flag("/enablePrometheusMerge")?.unwrap_or(true),
            capture: captured(&at)?,
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

/// Without the init container nobody would see to it that traffic is captured.
fn no_cni(at: &Reader<'_>) -> Result<(), String> {
    for pointer in ["/pilot/cni/enabled", "/cni/enabled"] {
        if at.flag(pointer)? == Some(true) {
            let expected = "offered: a pod whose CNI plugin has written no rules would be outside the mesh, and nothing \
                            would say so; leave it false, and istio-init writes them";
            return Err(Reader::wrong(pointer, &Value::Bool(true), expected));
        }
    }
    Ok(())
}

/// Who programs the rules of capture of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Programmer {
    /// An init container of its own, as in Istio.
    Separate,
    /// The sidecar, before it serves: it starts as root.
    Sidecar,
}

impl Programmer {
    /// As values and annotations have it.
    ///
    /// # Errors
    /// What was expected.
    pub fn read(text: &str) -> Result<Self, &'static str> {
        match text {
            "separate" => Ok(Self::Separate),
            "sidecar" => Ok(Self::Sidecar),
            _ => Err("separate or sidecar"),
        }
    }
}

fn programmer(at: &Reader<'_>) -> Result<Programmer, String> {
    let pointer = "/global/proxy_init/container";
    let Some(told) = at.text(pointer)? else { return Ok(Programmer::Separate) };
    Programmer::read(&told).map_err(|expected| Reader::wrong(pointer, &told.as_str().into(), expected))
}

/// What the chart says of capture.
fn captured(at: &Reader<'_>) -> Result<Capture, String> {
    let mut capture = Capture::default();
    for list in &LISTS {
        let Some((name, default)) = list.value else { continue };
        let pointer = format!("/global/proxy/{name}");
        let told = at.text(&pointer)?.unwrap_or_else(|| default.to_owned());
        let wrong = |expected: &str| Reader::wrong(&pointer, &told.as_str().into(), expected);
        *(list.of)(&mut capture) = list.read(&told).map_err(wrong)?;
    }
    Ok(capture)
}

/// `MESH_LOG` of a sidecar; Envoy's levels are taken too, as people have them in their files.
///
/// # Errors
/// What was expected.
pub fn log_level(text: &str) -> Result<&str, &'static str> {
    match text {
        "warning" => Ok("warn"),
        "critical" => Ok("error"),
        "trace" | "debug" | "info" | "warn" | "error" | "off" => Ok(text),
        _ => Err("trace, debug, info, warn, error or off"),
    }
}

/// What Kubernetes takes as an amount of a resource, as far as one can be asked for: `500m`, `1.5`, `64Mi`, `1e3`.
#[must_use]
pub fn is_quantity(text: &str) -> bool {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let number = number.bytes().any(|b| b.is_ascii_digit()) && number.matches('.').count() < 2;
    let exponent = suffix.strip_prefix(['e', 'E']).is_some_and(|digits| digits.parse::<i16>().is_ok());
    let units = ["", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    number && (exponent || units.contains(&suffix))
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
            Some(value @ Value::Object(of)) => {
                for kind in ["requests", "limits"].into_iter().filter(|kind| of.contains_key(*kind)) {
                    let pointer = format!("{pointer}/{kind}");
                    for (name, amount) in self.map(&pointer)? {
                        let text = amount.as_str().map_or_else(|| amount.to_string(), str::to_owned);
                        let wrong = || {
                            Self::wrong(&format!("{pointer}/{name}"), &amount, "an amount, e.g. 100m or 64Mi")
                        };
                        is_quantity(&text).then_some(()).ok_or_else(wrong)?;
                    }
                }
                Ok(value.clone())
            }
            Some(other) => Err(Self::wrong(pointer, other, "a map")),
        }
    }

    fn log_level(&self, pointer: &str, default: &str) -> Result<String, String> {
        let told = self.text(pointer)?.unwrap_or_else(|| default.to_owned());
        let wrong = |expected: &str| Self::wrong(pointer, &told.as_str().into(), expected);
        log_level(&told).map(str::to_owned).map_err(wrong)
    }
}
