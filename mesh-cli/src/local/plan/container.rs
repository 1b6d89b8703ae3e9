//! One container: what it runs, with which environment and ports, and when it is ready.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use base64::Engine as _;
use mesh_proto::crd::workload::{self, EnvFrom, EnvSource};
use mesh_proto::crd::{IntOrString, Kind, Object, ObjectRef, Resource};

/// What to run in a container.
#[derive(Debug, Clone, PartialEq)]
pub struct Container {
    pub name: String,
    pub image: String,
    pub run: Run,
    pub directory: Option<String>,
    pub env: Vec<Env>,
    pub ports: Vec<Port>,
    pub probe: Option<Probe>,
}

/// The program.
#[derive(Debug, Clone, PartialEq)]
pub enum Run {
    /// The user's, with its arguments.
    Command(Vec<String>),
    /// The sample application.
    StandIn,
}

/// One variable.
#[derive(Debug, Clone, PartialEq)]
pub struct Env {
    pub name: String,
    pub value: EnvValue,
}

/// A variable's value.
#[derive(Debug, Clone, PartialEq)]
pub enum EnvValue {
    /// Text, with `$(OTHER)` in it.
    Text(String),
    /// A field of the pod.
    Field(String),
}

/// A container port (TCP).
#[derive(Debug, Clone, PartialEq)]
pub struct Port {
    pub name: Option<String>,
    pub number: u16,
}

/// A readiness probe.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    pub check: Check,
    pub delay: Duration,
    pub period: Duration,
    pub timeout: Duration,
    pub successes: u32,
    pub failures: u32,
}

/// What a probe does.
#[derive(Debug, Clone, PartialEq)]
pub enum Check {
    /// 200 to 399 is healthy.
    Http { port: u16, path: String, host: Option<String>, headers: Vec<(String, String)> },
    /// A connection is healthy.
    Tcp { port: u16 },
}

/// ConfigMaps and Secrets, decoded.
#[derive(Debug, Default)]
pub struct Settings<'a> {
    maps: HashMap<&'a ObjectRef, BTreeMap<String, String>>,
}

impl<'a> Settings<'a> {
    /// Those among the resources.
    pub fn of(resources: &'a [Resource]) -> Self {
        let decode = |(key, text): (&String, &String)| {
            let bytes = base64::engine::general_purpose::STANDARD.decode(text.trim()).ok()?;
            Some((key.clone(), String::from_utf8(bytes).ok()?))
        };
        let map = |resource: &'a Resource| {
            let values = match &resource.object {
                Object::ConfigMap(map) => map.data.clone(),
                Object::Secret(secret) => {
                    let mut values: BTreeMap<_, _> = secret.data.iter().filter_map(decode).collect();
                    values.extend(secret.string_data.clone());
                    values
                }
                _ => return None,
            };
            Some((&resource.reference, values))
        };
        Self { maps: resources.iter().filter_map(map).collect() }
    }

    /// The values of an object, or why it cannot be used. `None`: absent, which is no mistake.
    fn find(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        optional: bool,
    ) -> Result<Option<&BTreeMap<String, String>>, String> {
        match self.maps.get(&ObjectRef::new(kind, namespace, name)) {
            Some(values) => Ok(Some(values)),
            None if optional => Ok(None),
            None => Err(format!(
                "there is no {kind} {name:?} in namespace {namespace:?}, which its environment needs"
            )),
        }
    }

    fn key(&self, kind: Kind, namespace: &str, from: &workload::KeyRef) -> Result<Option<String>, String> {
        let Some(values) = self.find(kind, namespace, &from.name, from.optional)? else { return Ok(None) };
        match values.get(&from.key) {
            Some(value) => Ok(Some(value.clone())),
            None if from.optional => Ok(None),
            None => {
                Err(format!("{kind} {:?} has no key {:?}, which its environment needs", from.name, from.key))
            }
        }
    }
}

/// One container of a pod.
///
/// # Errors
/// Why it cannot run.
pub fn container(
    wanted: &workload::Container,
    namespace: &str,
    settings: &Settings<'_>,
) -> Result<Container, String> {
    let tcp = |p: &&workload::ContainerPort| matches!(p.protocol.as_str(), "" | "TCP");
    let port = |p: &workload::ContainerPort| Port {
        name: (!p.name.is_empty()).then(|| p.name.clone()),
        number: p.container_port,
    };
    let mut ports: Vec<Port> = wanted.ports.iter().filter(tcp).map(port).collect();
    let probe = wanted.readiness_probe.as_ref().map(|p| probe(p, &ports)).transpose()?.flatten();
    // A probe may look at a port that is not declared; the application is told where to serve it.
    if let Some(number) = probe.as_ref().map(Probe::port)
        && !ports.iter().any(|p| p.number == number)
    {
        ports.push(Port { name: None, number });
    }
    let run = if wanted.command.is_empty() {
        Run::StandIn
    } else {
        Run::Command(wanted.command.iter().chain(&wanted.args).cloned().collect())
    };
    Ok(Container {
        name: wanted.name.clone(),
        image: wanted.image.clone(),
        run,
        directory: (!wanted.working_dir.is_empty()).then(|| wanted.working_dir.clone()),
        env: environment(wanted, namespace, settings)?,
        ports,
        probe,
    })
}

/// What a container asks for that is not done here.
pub fn not_in_force(wanted: &workload::Container) -> Vec<String> {
    let mut told = Vec::new();
    for (name, probe) in [("livenessProbe", &wanted.liveness_probe), ("startupProbe", &wanted.startup_probe)]
    {
        if probe.is_some() {
            told.push(format!("{name} is not run on one machine (what dies is restarted)"));
        }
    }
    if let Some(probe) = &wanted.readiness_probe
        && (probe.grpc.is_some() || probe.exec.is_some())
    {
        told.push(
            "readinessProbe: grpc and exec are not run on one machine; it is ready when its ports accept connections"
                .to_owned(),
        );
    }
    for port in wanted.ports.iter().filter(|p| !matches!(p.protocol.as_str(), "" | "TCP")) {
        told.push(format!("port {} is {}: only TCP is served", port.container_port, port.protocol));
    }
    told
}

impl Probe {
    /// The container port that it looks at.
    #[must_use]
    pub fn port(&self) -> u16 {
        match self.check {
            Check::Http { port, .. } | Check::Tcp { port } => port,
        }
    }
}

fn probe(wanted: &workload::Probe, ports: &[Port]) -> Result<Option<Probe>, String> {
    let number = |port: &Option<IntOrString>| match port {
        Some(IntOrString::Number(number)) => Ok(*number),
        Some(IntOrString::Name(name)) => {
            let named = ports.iter().find(|p| p.name.as_ref() == Some(name));
            named
                .map(|p| p.number)
                .ok_or_else(|| format!("its readinessProbe names the port {name:?}, which it does not have"))
        }
        None => Err("its readinessProbe names no port".to_owned()),
    };
    let check = if let Some(http) = &wanted.http_get {
        if http.scheme.eq_ignore_ascii_case("https") {
            return Err(
                "readinessProbe.httpGet.scheme HTTPS is not supported; use HTTP or tcpSocket".to_owned()
            );
        }
        Check::Http {
            port: number(&http.port)?,
            path: if http.path.starts_with('/') { http.path.clone() } else { format!("/{}", http.path) },
            host: (!http.host.is_empty()).then(|| http.host.clone()),
            headers: http.http_headers.iter().map(|h| (h.name.clone(), h.value.clone())).collect(),
        }
    } else if let Some(tcp) = &wanted.tcp_socket {
        Check::Tcp { port: number(&tcp.port)? }
    } else {
        return Ok(None);
    };
    let seconds = |value: Option<u64>, default| Duration::from_secs(value.unwrap_or(default));
    Ok(Some(Probe {
        check,
        delay: seconds(wanted.initial_delay_seconds, 0),
        period: seconds(wanted.period_seconds, 10).max(Duration::from_secs(1)),
        timeout: seconds(wanted.timeout_seconds, 1).max(Duration::from_secs(1)),
        successes: wanted.success_threshold.unwrap_or(1).max(1),
        failures: wanted.failure_threshold.unwrap_or(3).max(1),
    }))
}

/// `envFrom` first, then `env`, as Kubernetes does: the later one counts.
fn environment(
    wanted: &workload::Container,
    namespace: &str,
    settings: &Settings<'_>,
) -> Result<Vec<Env>, String> {
    let mut all = Vec::new();
    for EnvFrom { prefix, config_map_ref, secret_ref } in &wanted.env_from {
        for (kind, reference) in [(Kind::ConfigMap, config_map_ref), (Kind::Secret, secret_ref)] {
            let Some(reference) = reference else { continue };
            let values = settings.find(kind, namespace, &reference.name, reference.optional)?;
            let named = values.into_iter().flatten().map(|(key, value)| Env {
                name: format!("{prefix}{key}"),
                value: EnvValue::Text(value.clone()),
            });
            all.extend(named);
        }
    }
    for variable in &wanted.env {
        let value = match &variable.value_from {
            None => Some(EnvValue::Text(variable.value.clone())),
            Some(source) => from(source, namespace, settings)?,
        };
        all.extend(value.map(|value| Env { name: variable.name.clone(), value }));
    }
    Ok(all)
}

fn from(source: &EnvSource, namespace: &str, settings: &Settings<'_>) -> Result<Option<EnvValue>, String> {
    let text = match source {
        EnvSource { field_ref: Some(field), .. } => return Ok(Some(EnvValue::Field(field.field_path.clone()))),
        EnvSource { config_map_key_ref: Some(key), .. } => settings.key(Kind::ConfigMap, namespace, key)?,
        EnvSource { secret_key_ref: Some(key), .. } => settings.key(Kind::Secret, namespace, key)?,
        _ => return Err("its environment has a valueFrom of a kind that is not supported (fieldRef, configMapKeyRef, secretKeyRef are)".to_owned()),
    };
    Ok(text.map(EnvValue::Text))
}
