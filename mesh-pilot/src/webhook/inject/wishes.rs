//! What a pod wants of its sidecar: annotations, over the injector's settings.
//!
//! In: the pod's annotations. Out: [`Wishes`], or which annotation has no meaning: a list of ports with a slip of the pen
//! must not capture something else in silence.

use mesh_proto::crd::meta::PROXY_INIT_CONTAINER;
use mesh_proto::crd::yaml;
use mesh_proto::model::proxy_config::{self, Interception};
use serde_json::{Map, Value};

use super::InjectError;
use crate::webhook::capture::{Capture, LISTS};
use crate::webhook::settings::{self, Programmer, Settings};

/// What is wanted.
#[derive(Debug)]
pub struct Wishes {
    pub image: String,
    pub log_level: String,
    pub resources: Value,
    pub native: bool,
    pub hold: bool,
    pub rewrite_probes: bool,
    pub merge_metrics: bool,
    pub capture: Capture,
    pub tproxy: bool,
    pub programmer: Programmer,
    pub volumes: Vec<Value>,
    pub mounts: Vec<Value>,
    pub proxy_config: Map<String, Value>,
    /// A gateway's own pod.
    pub gateway: bool,
    /// What of all this has no effect.
    pub warnings: Vec<String>,
}

impl Wishes {
    /// Reads them.
    pub fn read(annotations: &Map<String, Value>, settings: &Settings) -> Result<Self, InjectError> {
        let at = Reader(annotations);
        let (proxy_config, mut warnings) = proxy_config(&at, settings)?;
        warnings.extend(not_followed(annotations));
        let known = proxy_config.get("interceptionMode").and_then(Value::as_str);
        let tproxy = match at.text("sidecar.istio.io/interceptionMode").or(known) {
            None => settings.interception == Interception::Tproxy,
            Some("REDIRECT") => false,
            Some("TPROXY") => true,
            Some(other) => {
                return Err(wrong("sidecar.istio.io/interceptionMode", other, "REDIRECT or TPROXY"));
            }
        };
        let hold = proxy_config.get("holdApplicationUntilProxyStarts").and_then(Value::as_bool);
        Ok(Self {
            image: at.text("sidecar.istio.io/proxyImage").unwrap_or(&settings.image).to_owned(),
            log_level: log_level(&at, settings)?,
            resources: resources(&at)?.unwrap_or_else(|| settings.resources.clone()),
            native: at.flag("sidecar.istio.io/nativeSidecar")?.unwrap_or(settings.native),
            hold: hold.unwrap_or(settings.hold),
            rewrite_probes: at
                .flag("sidecar.istio.io/rewriteAppHTTPProbers")?
                .unwrap_or(settings.rewrite_probes),
            merge_metrics: at.flag("prometheus.istio.io/merge-metrics")?.unwrap_or(settings.merge_metrics),
            capture: capture(&at, &settings.capture)?,
            tproxy,
            programmer: match at.text(PROXY_INIT_CONTAINER) {
                None => settings.programmer,
                Some(told) => {
                    Programmer::read(told).map_err(|expected| wrong(PROXY_INIT_CONTAINER, told, expected))?
                }
            },
            volumes: named(&at, "sidecar.istio.io/userVolume")?,
            mounts: named(&at, "sidecar.istio.io/userVolumeMount")?,
            proxy_config,
            gateway: match at.text("inject.istio.io/templates") {
                None | Some("sidecar") => false,
                Some("gateway") => true,
                Some(other) => return Err(wrong("inject.istio.io/templates", other, "sidecar or gateway")),
            },
            warnings,
        })
    }

    /// The sidecar programs the rules, and there is no container for it.
    pub fn captures_itself(&self) -> bool {
        self.programmer == Programmer::Sidecar && !self.gateway
    }
}

/// Annotations of sidecars that nothing here follows: said, not ignored.
fn not_followed(annotations: &Map<String, Value>) -> Vec<String> {
    let of_sidecars = |name: &str| {
        let domain = name.split('/').next().unwrap_or_default();
        ["sidecar.istio.io", "proxy.istio.io", "inject.istio.io"]
            .iter()
            .any(|ours| domain.strip_suffix(ours).is_some_and(|more| more.is_empty() || more.ends_with('.')))
    };
    let followed =
        |name: &str| FOLLOWED.contains(&name) || LISTS.iter().any(|list| list.annotations.contains(&name));
    let names = annotations.keys().filter(|name| of_sidecars(name) && !followed(name));
    names.map(|name| format!("annotation {name} is not followed")).collect()
}

/// What is followed, here or in [`super::super::decide`].
const FOLLOWED: [&str; 15] = [
    "inject.istio.io/templates",
    "proxy.istio.io/config",
    "sidecar.istio.io/inject",
    "sidecar.istio.io/interceptionMode",
    "sidecar.istio.io/logLevel",
    "sidecar.istio.io/nativeSidecar",
    "sidecar.istio.io/proxyCPU",
    "sidecar.istio.io/proxyCPULimit",
    "sidecar.istio.io/proxyImage",
    "sidecar.istio.io/proxyMemory",
    "sidecar.istio.io/proxyMemoryLimit",
    "sidecar.istio.io/rewriteAppHTTPProbers",
    "sidecar.istio.io/status",
    "sidecar.istio.io/userVolume",
    "sidecar.istio.io/userVolumeMount",
];

/// The beginning of the value is enough to find it by.
fn wrong(annotation: &str, value: &str, expected: &str) -> InjectError {
    let shown: String = value.chars().take(60).collect();
    let value = if shown.len() < value.len() { format!("{shown}...") } else { shown };
    InjectError {
        path: format!("metadata.annotations[{annotation}]"),
        why: format!("{value:?}: expected {expected}"),
    }
}

struct Reader<'a>(&'a Map<String, Value>);

impl<'a> Reader<'a> {
    fn text(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty())
    }

    fn flag(&self, name: &str) -> Result<Option<bool>, InjectError> {
        match self.text(name) {
            None => Ok(None),
            // Go's strconv.ParseBool, as Istio reads them.
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(Some(true)),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(Some(false)),
            Some(other) => Err(wrong(name, other, "\"true\" or \"false\"")),
        }
    }
}

/// An annotation that is there and empty is an empty list.
fn capture(at: &Reader<'_>, default: &Capture) -> Result<Capture, InjectError> {
    let mut capture = default.clone();
    for list in &LISTS {
        let mut told = list.annotations.iter().filter_map(|name| Some((name, at.0.get(*name)?.as_str()?)));
        if let Some((name, text)) = told.next() {
            *(list.of)(&mut capture) = list.read(text).map_err(|expected| wrong(name, text, expected))?;
        }
    }
    Ok(capture)
}

fn log_level(at: &Reader<'_>, settings: &Settings) -> Result<String, InjectError> {
    let name = "sidecar.istio.io/logLevel";
    let Some(level) = at.text(name) else { return Ok(settings.log_level.clone()) };
    settings::log_level(level).map(str::to_owned).map_err(|expected| wrong(name, level, expected))
}

/// Istio's rule: one of the four, and none of the settings' counts.
fn resources(at: &Reader<'_>) -> Result<Option<Value>, InjectError> {
    let of = |cpu: &str, memory: &str| {
        let mut told = Map::new();
        for (resource, name) in [("cpu", cpu), ("memory", memory)] {
            let Some(text) = at.text(name) else { continue };
            if !settings::is_quantity(text) {
                return Err(wrong(name, text, "an amount, e.g. \"100m\" or \"64Mi\""));
            }
            told.insert(resource.into(), text.into());
        }
        Ok(told)
    };
    let requests = of("sidecar.istio.io/proxyCPU", "sidecar.istio.io/proxyMemory")?;
    let limits = of("sidecar.istio.io/proxyCPULimit", "sidecar.istio.io/proxyMemoryLimit")?;
    let mut all = Map::new();
    for (name, told) in [("requests", requests), ("limits", limits)] {
        if !told.is_empty() {
            all.insert(name.into(), told.into());
        }
    }
    Ok(Some(all).filter(|all| !all.is_empty()).map(Value::Object))
}

/// `{"name": {...}}`, JSON: a list of objects with that name.
fn named(at: &Reader<'_>, name: &str) -> Result<Vec<Value>, InjectError> {
    let Some(text) = at.text(name) else { return Ok(Vec::new()) };
    let form = "JSON, e.g. {\"data\":{\"emptyDir\":{}}}";
    let told: Map<String, Value> = serde_json::from_str(text).map_err(|_| wrong(name, text, form))?;
    let with_name = |(of, value): (String, Value)| {
        let Value::Object(mut value) = value else { return Err(wrong(name, text, form)) };
        value.insert("name".into(), of.into());
        Ok(Value::Object(value))
    };
    told.into_iter().map(with_name).collect()
}

/// MeshConfig's `defaultConfig`, with the pod's annotation over it (`proxyMetadata` is merged, all else replaced), and what of
/// the annotation has no effect.
fn proxy_config(
    at: &Reader<'_>,
    settings: &Settings,
) -> Result<(Map<String, Value>, Vec<String>), InjectError> {
    let name = "proxy.istio.io/config";
    let mut config = settings.proxy_config.clone();
    let Some(text) = at.text(name) else { return Ok((config, Vec::new())) };
    let unreadable = |why: String| InjectError { path: format!("metadata.annotations[{name}]"), why };
    let told = match yaml::split(text)[..] {
        [] => return Ok((config, Vec::new())),
        [one] => yaml::read(one).map_err(|e| unreadable(e.to_string()))?,
        [_, second, ..] => {
            let line = second.lines_before + 1;
            return Err(unreadable(format!(
                "a second document begins at line {line}: expected one, without ---"
            )));
        }
    };
    let Some(Value::Object(told)) = told.map(|tree| tree.value) else {
        return Err(unreadable("expected a map, e.g. concurrency: 2".into()));
    };
    // What it is put over has been read before, and either part stays as it was read.
    let (_, without_effect) = proxy_config::read(&told).map_err(unreadable)?;
    for (field, value) in told {
        match (field.as_str(), config.get_mut(&field), value) {
            ("proxyMetadata", Some(Value::Object(before)), Value::Object(value)) => before.extend(value),
            (_, _, Value::Null) => {}
            (_, _, value) => drop(config.insert(field, value)),
        }
    }
    let warning =
        |field| format!("annotation {name}: {field} has no effect here, or is no field of ProxyConfig");
    Ok((config, without_effect.into_iter().map(warning).collect()))
}
