//! `meshctl inject`: sidecars for workloads in files, without a cluster. In: YAML; out: YAML on standard output, or everything
//! that is wrong with its place. The same code as the webhook's.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use mesh_pilot::webhook::inject::offline::inject_file;
use mesh_pilot::webhook::{ControlPlane, Settings};
use mesh_proto::crd::yaml;
use mesh_proto::model::proxy_config;
use serde_json::{Value, json};

use super::input;
use crate::args::InjectArgs;

/// Injects the files; exit status 1 when something is wrong, and then nothing is written.
///
/// # Errors
/// When settings cannot be read or the output cannot be written.
pub fn run(args: &InjectArgs) -> anyhow::Result<ExitCode> {
    let settings = settings(args)?;
    // What cannot be read was an error of the settings already.
    for field in proxy_config::read(&settings.proxy_config).map(|(_, names)| names).unwrap_or_default() {
        eprintln!(
            "warning: meshConfig.defaultConfig.{field} has no effect here, or is no field of ProxyConfig"
        );
    }
    let (mut documents, mut failed) = (Vec::new(), false);
    for file in &args.files {
        let (name, text) = input::read(file)?;
        match inject_file(&name, &text, &settings, token) {
            Ok((done, told)) => {
                documents.extend(done);
                told.iter().for_each(|told| eprintln!("{told}"));
            }
            Err(errors) => {
                failed = true;
                errors.iter().for_each(|error| eprintln!("{error}"));
            }
        }
    }
    if failed {
        return Ok(ExitCode::FAILURE);
    }
    let texts: Vec<String> = documents.iter().map(yaml::to_yaml).collect();
    std::io::stdout().write_all(texts.join("---\n").as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// 128 random bits.
fn token() -> String {
    format!("{:032x}", rand::random::<u128>())
}

fn settings(args: &InjectArgs) -> anyhow::Result<Settings> {
    let of = |file: Option<&Path>| match file {
        None => Ok(json!({})),
        Some(file) => input::values(file),
    };
    let (values, mesh) = (of(args.values.as_deref())?, of(args.mesh_config.as_deref())?);
    let told =
        |pointer: &str, value: &Value| value.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let namespace = args.istio_namespace.clone();
    let default = ControlPlane::default();
    // MeshConfig may come by itself or as the chart's value.
    let mesh = if mesh == json!({}) { values.get("meshConfig").cloned().unwrap_or(mesh) } else { mesh };
    let control_plane = ControlPlane {
        ca_address: told("/global/caAddress", &values)
            .filter(|address| !address.is_empty())
            .unwrap_or_else(|| format!("mesh-ca.{namespace}.svc:15012")),
        pilot_address: match args.revision.as_str() {
            "default" => format!("mesh-pilot.{namespace}.svc:15012"),
            revision => format!("mesh-pilot-{revision}.{namespace}.svc:15012"),
        },
        trust_domain: told("/trustDomain", &mesh).unwrap_or(default.trust_domain),
        cluster_domain: told("/global/proxy/clusterDomain", &values).unwrap_or(default.cluster_domain),
        cluster_id: told("/global/multiCluster/clusterName", &values).unwrap_or(default.cluster_id),
        revision: args.revision.clone(),
        version: default.version,
        namespace,
    };
    Settings::read(&values, &mesh, control_plane).map_err(anyhow::Error::msg)
}
