//! Istio's MeshConfig: the mounted file (of a mesh of files, the ConfigMap `istio` among them), as far as this mesh acts on
//! it. In: YAML. Out: [`MeshConfig`], and for each field that has no effect here a sentence that says so. Nothing is ignored
//! in silence.

mod exports;
pub mod in_files;
mod providers;
mod roots;
mod tls;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mesh_proto::crd::destination_rule::LocalitySetting;
use mesh_proto::crd::yaml;
use mesh_proto::crd::{Position, Problem, Severity};
use mesh_proto::model::proxy_config;
use mesh_proto::wire::mesh::v1::PathNormalization;
use serde_json::{Map, Value};
use tokio::sync::mpsc;

use crate::snapshot::{MeshOptions, Outbound};
use crate::source::Event;

/// How often the mounted file is looked at.
const PERIOD: Duration = Duration::from_secs(2);
/// A larger file is none.
const MAX_BYTES: u64 = 1 << 20;

/// What it says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MeshConfig {
    /// Of all identities; the environment's if absent.
    pub trust_domain: Option<String>,
    /// Where policies of the whole mesh live; the control plane's namespace if absent.
    pub root_namespace: Option<String>,
    /// What proxies are told.
    pub options: MeshOptions,
}

/// Something in it that has no effect, or that is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The field.
    pub path: String,
    /// What about it.
    pub message: String,
    /// It cannot be used at all.
    pub is_error: bool,
}

/// Reads a MeshConfig.
///
/// # Errors
/// When it is no YAML map or a field that counts has a value that is none: what was in force before stays.
pub fn parse(text: &str) -> Result<(MeshConfig, Vec<Told>), Told> {
    let wrong = |path: &str, message: String| Told { path: path.to_owned(), message, is_error: true };
    let mut value = Value::Null;
    for chunk in yaml::split(text) {
        let tree = yaml::read(chunk).map_err(|error| wrong("", error.message))?;
        value = tree.map_or(value, |tree| tree.value);
    }
    let fields = match value {
        Value::Null => Map::new(),
        Value::Object(fields) => fields,
        other => return Err(wrong("", format!("{other} is no map of fields"))),
    };
    let (mut config, mut told) = (MeshConfig::default(), Vec::new());
    for (name, value) in &fields {
        if name == "extensionProviders" {
            let read = providers::read(value, &mut told);
            config.options.extension_providers = read.map_err(|message| wrong(name, message))?;
            continue;
        }
        if name == "caCertificates" {
            let read = roots::read(value, &mut told);
            config.options.added_roots = read.map_err(|message| wrong(name, message))?;
            continue;
        }
        field(&mut config, &mut told, name, value).map_err(|message| wrong(name, message))?;
    }
    Ok((config, told))
}

fn field(config: &mut MeshConfig, told: &mut Vec<Told>, name: &str, value: &Value) -> Result<(), String> {
    let mut tell = |path: &str, message: &str| {
        told.push(Told { path: path.to_owned(), message: message.to_owned(), is_error: false });
    };
    let text = || value.as_str().ok_or_else(|| format!("{value} is no text"));
    match name {
        "trustDomain" => config.trust_domain = Some(text()?.to_owned()).filter(|text| !text.is_empty()),
        "rootNamespace" => config.root_namespace = Some(text()?.to_owned()).filter(|text| !text.is_empty()),
        "outboundTrafficPolicy" => config.options.outbound = outbound(value)?,
        "accessLogFile" => {
            let file = text()?;
            config.options.access_log = !file.is_empty();
            if !matches!(file, "" | "/dev/stdout") {
                tell(name, "access logs go to the proxy's standard output, wherever this says");
            }
        }
        "accessLogEncoding" if value == "TEXT" => {}
        "accessLogFormat" if value == "" => {}
        "accessLogEncoding" | "accessLogFormat" => {
            tell(name, "is not in force: access logs have Istio's default text format");
        }
        "protocolDetectionTimeout" => {
            let duration: mesh_proto::crd::Duration = text()?.parse().map_err(|e| format!("{e}"))?;
            // As in Istio, 0 is no timeout there; here the default stays, for clients that wait for the server.
            config.options.detection_timeout = Some(duration.0).filter(|timeout| !timeout.is_zero());
        }
        "connectTimeout" => {
            let timeout: mesh_proto::crd::Duration = text()?.parse().map_err(|e| format!("{e}"))?;
            if timeout.0 < Duration::from_millis(1) {
                return Err("is too short (at least 1ms)".to_owned());
            }
            config.options.connect_timeout = Some(timeout.0);
        }
        "pathNormalization" => config.options.path_normalization = path_normalization(value)?,
        "meshMTLS" => config.options.mesh_tls = tls::parameters(value)?,
        "tlsDefaults" => config.options.tls_defaults = tls::parameters(value)?,
        "trustDomainAliases" => config.options.trust_domain_aliases = tls::aliases(value)?,
        // Not Istio's: `x-mesh-denied-by` in answers of 403.
        "denyReasonHeader" => {
            config.options.deny_reason_header = value.as_bool().ok_or("is neither true nor false")?;
        }
        "defaultServiceExportTo" => config.options.default_export.services = exports::read(value)?,
        "defaultVirtualServiceExportTo" => {
            config.options.default_export.virtual_services = exports::read(value)?;
        }
        "defaultDestinationRuleExportTo" => {
            config.options.default_export.destination_rules = exports::read(value)?;
        }
        "localityLbSetting" => config.options.locality = Some(locality(value)?),
        "enableAutoMtls" if value == true => {}
        "enableAutoMtls" => tell(
            name,
            "is not in force: mTLS between sidecars stays automatic; use a DestinationRule with tls.mode DISABLE",
        ),
        "defaultConfig" => told.extend(default_config(name, value)),
        // What other parts of the control plane read, and what is as Istio's default has it.
        "ingressControllerMode" if value == "OFF" => {}
        "enablePrometheusMerge" | "defaultProviders" | "dnsRefreshRate" => {
            tell(name, "has no effect here");
        }
        _ => tell(name, "has no effect here, or is no field of MeshConfig"),
    }
    Ok(())
}

/// What is told of a ProxyConfig. It is for pods that are yet to be made, and the injector refuses them where it is none: what
/// else is said here does not wait for it.
fn default_config(name: &str, value: &Value) -> Vec<Told> {
    let fields = value.as_object().ok_or_else(|| "is no map of fields".to_owned());
    match fields.and_then(proxy_config::read) {
        Ok((_, without_effect)) => {
            let told = |inner| Told {
                path: format!("{name}.{inner}"),
                message: "has no effect here, or is no field of ProxyConfig".to_owned(),
                is_error: false,
            };
            without_effect.into_iter().map(told).collect()
        }
        Err(message) => vec![Told { path: name.to_owned(), message, is_error: true }],
    }
}

/// The text of a setting that has one field: what narrows must not be its default because of a slip.
fn only<'a>(value: &'a Value, field: &str) -> Result<Option<&'a str>, String> {
    let fields = match value {
        Value::Null => return Ok(None),
        Value::Object(fields) => fields,
        other => return Err(format!("{other} is no map (expected {{{field}: ...}})")),
    };
    if let Some(other) = fields.keys().find(|name| *name != field) {
        return Err(format!("{other:?} is no field of it (expected {field})"));
    }
    match fields.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(format!("{field} {other} is no text")),
    }
}

fn outbound(value: &Value) -> Result<Outbound, String> {
    match only(value, "mode")? {
        None | Some("ALLOW_ANY") => Ok(Outbound::AllowAny),
        Some("REGISTRY_ONLY") => Ok(Outbound::RegistryOnly),
        Some(other) => Err(format!("mode {other} is none (expected ALLOW_ANY or REGISTRY_ONLY)")),
    }
}

fn path_normalization(value: &Value) -> Result<PathNormalization, String> {
    match only(value, "normalization")? {
        None | Some("DEFAULT" | "BASE") => Ok(PathNormalization::PathBase),
        Some("NONE") => Ok(PathNormalization::PathNone),
        Some("MERGE_SLASHES") => Ok(PathNormalization::PathMergeSlashes),
        Some("DECODE_AND_MERGE_SLASHES") => Ok(PathNormalization::PathDecodeAndMergeSlashes),
        Some(other) => Err(format!(
            "normalization {other} is none (expected BASE, NONE, MERGE_SLASHES or DECODE_AND_MERGE_SLASHES)"
        )),
    }
}

/// The same field as a DestinationRule's, with the same checks.
fn locality(value: &Value) -> Result<LocalitySetting, String> {
    let setting: LocalitySetting = serde_json::from_value(value.clone()).map_err(|e| e.to_string())?;
    match mesh_proto::crd::check::locality(&setting).first() {
        Some(wrong) => Err(format!("{}: {} ({})", wrong.path, wrong.message, wrong.expected)),
        None => Ok(setting),
    }
}

/// Reads the file as it is now; a file that is not there says nothing.
///
/// # Errors
/// Why it cannot be read or used.
pub fn read(path: &Path) -> Result<(MeshConfig, Vec<Told>), Told> {
    let wrong = |message: String| Told { path: String::new(), message, is_error: true };
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return parse(""),
        Err(error) => return Err(wrong(error.to_string())),
        Ok(facts) if facts.len() > MAX_BYTES => return Err(wrong(format!("more than {MAX_BYTES} bytes"))),
        Ok(_) => {}
    }
    parse(&std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?)
}

/// Follows the file: what is in force is `config` at first.
///
/// # Errors
/// Never: what is wrong is told, and the last good version stays.
pub async fn follow(
    path: PathBuf,
    mut config: MeshConfig,
    told: Vec<Told>,
    events: mpsc::Sender<Vec<Event>>,
) -> anyhow::Result<()> {
    let began = config.clone();
    let mut said = None;
    let mut now: Result<_, Told> = Ok((config.clone(), told));
    loop {
        let mut found = Vec::new();
        let problems = match &now {
            Ok((newest, told)) => {
                if newest.options != config.options || said.is_none() {
                    found.push(Event::Options(Box::new(newest.options.clone())));
                    config = newest.clone();
                }
                let mut told = told.clone();
                told.extend(needs_restart(&began, newest));
                told
            }
            Err(wrong) => vec![wrong.clone()],
        };
        if said.as_ref() != Some(&problems) {
            found.push(event(&path, &problems));
            for told in &problems {
                tracing::warn!(field = told.path, file = %path.display(), "MeshConfig: {}", told.message);
            }
            said = Some(problems);
        }
        if !found.is_empty() && events.send(found).await.is_err() {
            return Ok(());
        }
        tokio::time::sleep(PERIOD).await;
        now = read(&path);
    }
}

/// What identities and scopes are made of does not change under way.
fn needs_restart(began: &MeshConfig, newest: &MeshConfig) -> Vec<Told> {
    let differs = [
        ("trustDomain", began.trust_domain != newest.trust_domain),
        ("rootNamespace", began.root_namespace != newest.root_namespace),
    ];
    let told = |(path, _): (&str, bool)| Told {
        path: path.to_owned(),
        message: "changed; in force when the pilot is restarted".to_owned(),
        is_error: false,
    };
    differs.into_iter().filter(|(_, differs)| *differs).map(told).collect()
}

fn event(path: &Path, told: &[Told]) -> Event {
    let file: Arc<str> = Arc::from(path.display().to_string());
    let problem = |told: &Told| Problem {
        file: file.clone(),
        position: Position::default(),
        object: None,
        path: told.path.clone(),
        message: told.message.clone(),
        expected: String::new(),
        severity: if told.is_error { Severity::Error } else { Severity::Warning },
    };
    Event::File { path: path.to_owned(), problems: told.iter().map(problem).collect() }
}

#[cfg(test)]
mod tests {
    use mesh_proto::crd::destination_rule::Failover;
    use mesh_proto::model::TlsParameters;
    use mesh_proto::model::tls::{CipherSuite, Group};

    use super::*;
    use crate::snapshot::DefaultExport;

    #[test]
    fn what_counts_is_read_and_what_does_not_is_told() {
        let text = "trustDomain: td\nrootNamespace: root\naccessLogFile: /dev/stdout\n\
            outboundTrafficPolicy: {mode: REGISTRY_ONLY}\nprotocolDetectionTimeout: 500ms\nenableAutoMtls: true\n\
            defaultConfig: {concurrency: 2, tracing: {}}\nlocalityLbSetting: {failover: [{from: a, to: b}]}\n\
            connectTimeout: 3s\npathNormalization: {normalization: MERGE_SLASHES}\ndenyReasonHeader: true\naccessLogEncoding: JSON\n\
            meshMTLS: {minProtocolVersion: TLSV1_3}\ntrustDomainAliases: [old, older]\n\
            tlsDefaults: {cipherSuites: [ECDHE-RSA-AES128-GCM-SHA256], ecdhCurves: [P-256, X25519]}\n\
            defaultServiceExportTo: ['*']\ndefaultVirtualServiceExportTo: [.]\ndefaultDestinationRuleExportTo: [., shop]\n";
        let (config, told) = parse(text).unwrap();
        assert_eq!(
            (config.trust_domain.as_deref(), config.root_namespace.as_deref()),
            (Some("td"), Some("root"))
        );
        let options = MeshOptions {
            outbound: Outbound::RegistryOnly,
            access_log: true,
            detection_timeout: Some(Duration::from_millis(500)),
            locality: Some(LocalitySetting {
                failover: vec![Failover { from: "a".into(), to: "b".into() }],
                ..LocalitySetting::default()
            }),
            connect_timeout: Some(Duration::from_secs(3)),
            path_normalization: PathNormalization::PathMergeSlashes,
            extension_providers: Vec::new(),
            mesh_tls: TlsParameters { tls12: false, ..TlsParameters::default() },
            tls_defaults: TlsParameters {
                cipher_suites: vec![CipherSuite::EcdheRsaAes128Gcm],
                groups: vec![Group::P256, Group::X25519],
                ..TlsParameters::default()
            },
            trust_domain_aliases: vec!["old".parse().unwrap(), "older".parse().unwrap()],
            deny_reason_header: true,
            added_roots: Vec::new(),
            default_export: DefaultExport {
                services: vec!["*".into()],
                virtual_services: vec![".".into()],
                destination_rules: vec![".".into(), "shop".into()],
            },
        };
        assert_eq!(config.options, options);
        let paths: Vec<_> = told.iter().map(|told| told.path.as_str()).collect();
        assert_eq!(paths, ["defaultConfig.tracing", "accessLogEncoding"]);
        for nothing in [
            "",
            "outboundTrafficPolicy:\n",
            "outboundTrafficPolicy: {}",
            "pathNormalization: {normalization: }",
        ] {
            assert_eq!(parse(nothing).unwrap(), (MeshConfig::default(), Vec::new()), "{nothing}");
        }
    }

    #[test]
    fn what_is_none_is_refused_as_a_whole() {
        for (text, path) in [
            ("outboundTrafficPolicy: {mode: ALL}", "outboundTrafficPolicy"),
            ("outboundTrafficPolicy: REGISTRY_ONLY", "outboundTrafficPolicy"),
            ("outboundTrafficPolicy: {Mode: REGISTRY_ONLY}", "outboundTrafficPolicy"),
            ("outboundTrafficPolicy: {mode: [REGISTRY_ONLY]}", "outboundTrafficPolicy"),
            ("outboundTrafficPolicy: [{mode: REGISTRY_ONLY}]", "outboundTrafficPolicy"),
            ("pathNormalization: DECODE_AND_MERGE_SLASHES", "pathNormalization"),
            ("pathNormalization: {normalisation: MERGE_SLASHES}", "pathNormalization"),
            ("pathNormalization: {normalization: 3}", "pathNormalization"),
            ("protocolDetectionTimeout: soon", "protocolDetectionTimeout"),
            ("trustDomain: [a]", "trustDomain"),
            ("connectTimeout: 0s", "connectTimeout"),
            ("denyReasonHeader: 1", "denyReasonHeader"),
            ("pathNormalization: {normalization: SOME}", "pathNormalization"),
            ("localityLbSetting: {distribute: [{from: a, to: {b: 80}}]}", "localityLbSetting"),
            ("localityLbSetting: {failovr: []}", "localityLbSetting"),
            ("defaultVirtualServiceExportTo: .", "defaultVirtualServiceExportTo"),
            ("defaultServiceExportTo: [Shop]", "defaultServiceExportTo"),
            ("defaultDestinationRuleExportTo: [1]", "defaultDestinationRuleExportTo"),
            ("extensionProviders: {a: b}", "extensionProviders"),
            ("meshMTLS: {minProtocolVersion: TLSV1_1}", "meshMTLS"),
            ("meshMTLS: {maxProtocolVersion: TLSV1_2}", "meshMTLS"),
            ("meshMTLS: {cipherSuites: [AES128-SHA]}", "meshMTLS"),
            ("tlsDefaults: {ecdhCurves: [P-224]}", "tlsDefaults"),
            ("tlsDefaults: TLSV1_3", "tlsDefaults"),
            ("trustDomainAliases: [A B]", "trustDomainAliases"),
            ("caCertificates: [{pem: none}]", "caCertificates"),
            ("- a", ""),
            ("a: [", ""),
        ] {
            let told = parse(text).unwrap_err();
            assert_eq!((told.path.as_str(), told.is_error), (path, true), "{text}");
        }
    }

    /// It is the injector's: it refuses pods, and the rest of the file is in force.
    #[test]
    fn a_bad_default_of_proxies_is_told_and_refuses_nothing_else() {
        for bad in
            ["{concurrency: many}", "{terminationDrainDuration: '5'}", "{proxyMetadata: {A: true}}", "many"]
        {
            let text = format!("defaultConfig: {bad}\noutboundTrafficPolicy: {{mode: REGISTRY_ONLY}}\n");
            let (config, told) = parse(&text).unwrap();
            assert_eq!(config.options.outbound, Outbound::RegistryOnly);
            let [told] = &told[..] else { panic!("{told:?}") };
            assert_eq!((told.path.as_str(), told.is_error), ("defaultConfig", true), "{bad}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_file_is_followed_and_a_broken_one_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mesh");
        let write = |text: &str| std::fs::write(&path, text).unwrap();
        write("accessLogFile: /dev/stdout\n");
        let (config, told) = read(&path).unwrap();
        let (events, mut found) = mpsc::channel(4);
        let task = tokio::spawn(follow(path.clone(), config, told, events));
        let first = found.recv().await.unwrap();
        assert!(matches!(&first[0], Event::Options(options) if options.access_log), "{first:?}");
        write("accessLogFile: [\n");
        let broken = found.recv().await.unwrap();
        assert!(
            matches!(&broken[..], [Event::File { problems, .. }] if problems[0].is_error()),
            "{broken:?}"
        );
        write("trustDomain: other\n");
        let last = found.recv().await.unwrap();
        assert!(matches!(&last[0], Event::Options(options) if !options.access_log), "{last:?}");
        assert!(
            matches!(&last[1], Event::File { problems, .. } if problems[0].path == "trustDomain"),
            "{last:?}"
        );
        task.abort();
    }
}
