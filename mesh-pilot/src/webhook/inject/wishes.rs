//! What a pod wants of its sidecar: annotations, over the injector's settings.
//!
//! In: the pod's annotations. Out: [`Wishes`], or which annotation has no meaning: a list of ports with a slip of the pen
//! must not capture something else in silence.

use std::net::IpAddr;

use mesh_proto::crd::yaml;
use mesh_proto::model::proxy_config::{self, Interception};
use serde_json::{Map, Value};

use super::InjectError;
use crate::webhook::settings::{Capture, Settings};

/// More ports than this in one list are no list that somebody wrote.
const MAX_ITEMS: usize = 256;

/// What is wanted.
#[derive(Debug)]
pub struct Wishes {
    pub image: String,
    pub log_level: String,
    pub resources: Value,
    pub native: bool,
    pub hold: bool,
    pub rewrite_probes: bool,
    pub capture: Capture,
    pub tproxy: bool,
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
            resources: resources(&at).unwrap_or_else(|| settings.resources.clone()),
            native: at.flag("sidecar.istio.io/nativeSidecar")?.unwrap_or(settings.native),
            hold: hold.unwrap_or(settings.hold),
            rewrite_probes: at
                .flag("sidecar.istio.io/rewriteAppHTTPProbers")?
                .unwrap_or(settings.rewrite_probes),
            capture: capture(&at, &settings.capture)?,
            tproxy,
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
}

/// Annotations of sidecars that nothing here follows: said, not ignored.
fn not_followed(annotations: &Map<String, Value>) -> Vec<String> {
    let of_sidecars = |name: &str| {
        let domain = name.split('/').next().unwrap_or_default();
        ["sidecar.istio.io", "proxy.istio.io", "inject.istio.io"]
            .iter()
            .any(|ours| domain.strip_suffix(ours).is_some_and(|more| more.is_empty() || more.ends_with('.')))
    };
    let followed = |name: &str| FOLLOWED.contains(&name) || name.starts_with("traffic.sidecar.istio.io/");
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

fn wrong(annotation: &str, value: &str, expected: &str) -> InjectError {
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
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(other) => Err(wrong(name, other, "\"true\" or \"false\"")),
        }
    }

    /// A comma-separated list; an annotation that is there and empty is an empty list.
    fn list(
        &self,
        names: &[&str],
        default: &str,
        expected: &str,
        fits: impl Fn(&str) -> bool,
    ) -> Result<String, InjectError> {
        let told = names.iter().find_map(|name| Some((*name, self.0.get(*name)?.as_str()?.trim())));
        let (name, text) = told.unwrap_or((names[0], default));
        let items: Vec<&str> = text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect();
        if items.len() > MAX_ITEMS || !items.iter().all(|item| fits(item)) {
            return Err(wrong(name, text, expected));
        }
        Ok(items.join(","))
    }
}

fn capture(at: &Reader<'_>, default: &Capture) -> Result<Capture, InjectError> {
    let of = |name: &'static str| [name];
    let ranges =
        |name, default: &str| at.list(&of(name), default, "ranges, e.g. \"169.254.169.254/32\"", is_range);
    let ports = |name, default: &str| at.list(&of(name), default, "ports, e.g. \"9090,9091\"", is_port);
    let all_ports = |name, default: &str| {
        at.list(&of(name), default, "ports, e.g. \"9090,9091\", or \"*\"", |text| {
            text == "*" || is_port(text)
        })
    };
    let interfaces =
        |names: &[&str], default: &str| at.list(names, default, "names of interfaces", is_interface);
    Ok(Capture {
        include_outbound_ranges: at.list(
            &["traffic.sidecar.istio.io/includeOutboundIPRanges"],
            &default.include_outbound_ranges,
            "ranges, e.g. \"10.0.0.0/8\", or \"*\"",
            |text| text == "*" || is_range(text),
        )?,
        exclude_outbound_ranges: ranges(
            "traffic.sidecar.istio.io/excludeOutboundIPRanges",
            &default.exclude_outbound_ranges,
        )?,
        include_inbound_ports: all_ports(
            "traffic.sidecar.istio.io/includeInboundPorts",
            &default.include_inbound_ports,
        )?,
        exclude_inbound_ports: ports(
            "traffic.sidecar.istio.io/excludeInboundPorts",
            &default.exclude_inbound_ports,
        )?,
        include_outbound_ports: all_ports(
            "traffic.sidecar.istio.io/includeOutboundPorts",
            &default.include_outbound_ports,
        )?,
        exclude_outbound_ports: ports(
            "traffic.sidecar.istio.io/excludeOutboundPorts",
            &default.exclude_outbound_ports,
        )?,
        exclude_interfaces: interfaces(
            &["traffic.sidecar.istio.io/excludeInterfaces"],
            &default.exclude_interfaces,
        )?,
        virtual_interfaces: interfaces(&VIRTUAL, &default.virtual_interfaces)?,
    })
}

/// The name of today and the one of before.
const VIRTUAL: [&str; 2] =
    ["istio.io/reroute-virtual-interfaces", "traffic.sidecar.istio.io/kubevirtInterfaces"];

fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok_and(|port| port > 0)
}

fn is_range(text: &str) -> bool {
    text.split_once('/').is_some_and(|(ip, bits)| {
        let most = ip.parse::<IpAddr>().map_or(0, |ip| if ip.is_ipv4() { 32 } else { 128 });
        most > 0 && bits.parse::<u8>().is_ok_and(|bits| bits <= most)
    })
}

fn is_interface(text: &str) -> bool {
    text.len() <= 15 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.+@".contains(&b))
}

/// Envoy's levels are taken too, as people have them in their files.
fn log_level(at: &Reader<'_>, settings: &Settings) -> Result<String, InjectError> {
    let name = "sidecar.istio.io/logLevel";
    let Some(level) = at.text(name) else { return Ok(settings.log_level.clone()) };
    let ours = match level {
        "warning" => "warn",
        "critical" => "error",
        "trace" | "debug" | "info" | "warn" | "error" | "off" => level,
        other => return Err(wrong(name, other, "trace, debug, info, warn, error or off")),
    };
    Ok(ours.to_owned())
}

/// Istio's rule: one of the four, and none of the settings' counts.
fn resources(at: &Reader<'_>) -> Option<Value> {
    let of = |cpu: &str, memory: &str| {
        let mut told = Map::new();
        for (resource, name) in [("cpu", cpu), ("memory", memory)] {
            if let Some(text) = at.text(name) {
                told.insert(resource.into(), text.into());
            }
        }
        told
    };
    let requests = of("sidecar.istio.io/proxyCPU", "sidecar.istio.io/proxyMemory");
    let limits = of("sidecar.istio.io/proxyCPULimit", "sidecar.istio.io/proxyMemoryLimit");
    if requests.is_empty() && limits.is_empty() {
        return None;
    }
    let mut all = Map::new();
    for (name, told) in [("requests", requests), ("limits", limits)] {
        if !told.is_empty() {
            all.insert(name.into(), told.into());
        }
    }
    Some(all.into())
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
    let told = match yaml::split(text).first() {
        None => return Ok((config, Vec::new())),
        Some(chunk) => yaml::read(*chunk).map_err(|e| unreadable(e.to_string()))?,
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
