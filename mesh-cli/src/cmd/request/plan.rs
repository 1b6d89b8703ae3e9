//! What to send and where: parsed from the command line once, before the first connection.

use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::RequestArgs;
use crate::cluster::forward::Target;
use crate::cluster::{Cluster, pods};
use crate::local::api::{Instance, InstanceState, Mesh, ProcessState, Workload, WorkloadKind};
use crate::local::http::Server;

/// The URL's scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// HTTP/1.1.
    Http,
    /// HTTP over TLS, HTTP/2 where the server has it.
    Https,
    /// HTTP/2 by prior knowledge.
    H2c,
    /// gRPC over h2c.
    Grpc,
    /// A WebSocket: one message there and back.
    Ws,
    /// Bytes there and back.
    Tcp,
}

/// The HTTP proxy of a sidecar in a pod, on loopback.
const POD_PROXY: u16 = mesh_proxy::config::LOCAL_HTTP_PROXY.port();

/// Where the mesh is that a request is made in.
pub enum Where {
    /// On this machine.
    Local(Box<Mesh>),
    /// On a cluster.
    Cluster(Cluster),
}

/// Through what the requests enter the mesh.
#[derive(Debug, Clone)]
pub enum Entry {
    /// A sidecar's outbound HTTP proxy.
    Sidecar(Server),
    /// The same in a pod.
    Pod(Box<Target>),
    /// A gateway's address for the URL's port; below 1024 it may be served at the port plus an offset.
    Gateway {
        /// Its address.
        ip: Ipv4Addr,
        /// The URL's port.
        port: u16,
        /// Where a port below 1024 is served without root.
        offset: u16,
    },
}

/// Everything that is the same for all requests of one command.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Of the URL.
    pub scheme: Scheme,
    /// host or host:port, as the URL says.
    pub authority: String,
    /// What Host or `:authority` says: the URL's authority, or `-H host:`.
    pub host: String,
    /// The host for SNI: without a port.
    pub server_name: String,
    /// Path and query.
    pub path: String,
    /// GET, or POST with a body.
    pub method: Method,
    /// All `-H` but host.
    pub headers: HeaderMap,
    /// `-d`.
    pub data: Option<Bytes>,
    /// Seconds.
    pub timeout: f64,
    /// Where to connect.
    pub entry: Entry,
    /// For https.
    pub tls: Option<Arc<ClientConfig>>,
}

impl Plan {
    /// Parses the arguments against a running mesh.
    ///
    /// # Errors
    /// What is wrong with which argument.
    pub async fn new(args: &RequestArgs, place: &Where) -> anyhow::Result<Self> {
        let (scheme, uri) = url(&args.url)?;
        let authority = uri.authority().context("the URL has no host")?.as_str().to_owned();
        let port = uri.port_u16();
        let mut headers = HeaderMap::new();
        let mut host = authority.clone();
        for header in &args.headers {
            let (name, value) = parse_header(header)?;
            if name == http::header::HOST {
                host = value.to_str().context("-H host: not a host")?.to_owned();
            } else {
                headers.append(name, value);
            }
        }
        let entry = match (place, &args.via) {
            (Where::Local(mesh), Some(gateway)) => gateway_entry(mesh, gateway, scheme, port)?,
            (Where::Local(mesh), None) => Entry::Sidecar(sidecar(mesh, args.from.as_deref())?),
            (Where::Cluster(cluster), None) => {
                Entry::Pod(Box::new(pod(cluster, args.from.as_deref()).await?))
            }
            (Where::Cluster(_), Some(gateway)) => bail!(
                "--via {gateway}: a gateway of a cluster is reached at its own address (`kubectl get service -A` shows it), \
                 without meshctl"
            ),
        };
        let method = match (&args.method, &args.data) {
            (Some(method), _) => method.parse().with_context(|| format!("-X {method}: not a method"))?,
            (None, Some(_)) => Method::POST,
            (None, None) => Method::GET,
        };
        let server_name = host.parse::<http::uri::Authority>().map_or(host.clone(), |a| a.host().to_owned());
        Ok(Self {
            scheme,
            path: uri.path_and_query().map_or("/".to_owned(), ToString::to_string),
            authority,
            host,
            server_name,
            method,
            headers,
            data: args.data.clone().map(Bytes::from),
            timeout: if args.timeout > 0.0 {
                args.timeout.min(86_400.0)
            } else {
                bail!("--timeout must be more than 0")
            },
            entry,
            tls: if scheme == Scheme::Https { Some(tls(args)?) } else { None },
        })
    }

    /// Whether requests name the whole URL, as a proxy wants it.
    pub fn absolute(&self) -> bool {
        matches!(self.entry, Entry::Sidecar(_) | Entry::Pod(_)) && self.scheme != Scheme::Https
    }
}

fn url(text: &str) -> anyhow::Result<(Scheme, Uri)> {
    let Some((scheme, rest)) = text.split_once("://") else {
        bail!(
            "{text:?} is not a URL; expected e.g. http://reviews:9080/ (schemes: http, https, h2c, grpc, ws, tcp)"
        );
    };
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        "h2c" => Scheme::H2c,
        "grpc" => Scheme::Grpc,
        "ws" => Scheme::Ws,
        "tcp" => Scheme::Tcp,
        other => bail!("unknown scheme {other:?}; expected http, https, h2c, grpc, ws or tcp"),
    };
    let uri = format!("http://{rest}").parse().with_context(|| format!("{text:?} is not a URL"))?;
    Ok((scheme, uri))
}

fn parse_header(text: &str) -> anyhow::Result<(HeaderName, HeaderValue)> {
    let (name, value) =
        text.split_once(':').with_context(|| format!("-H {text:?}: expected 'name: value'"))?;
    let name = name.trim().parse().with_context(|| format!("-H {text:?}: not a header name"))?;
    let value = value.trim().parse().with_context(|| format!("-H {text:?}: not a header value"))?;
    Ok((name, value))
}

/// The proxy port of the sidecar of a pod.
async fn pod(cluster: &Cluster, from: Option<&str>) -> anyhow::Result<Target> {
    let from = from.context("on a cluster, --from POD[.NAMESPACE] says which pod's sidecar sends")?;
    let pod = pods::find(cluster, from).await?;
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Unknown");
    anyhow::ensure!(phase == "Running", "pod {from} does not run: it is {phase}");
    pods::port(cluster, &pod, POD_PROXY)
}

/// The proxy port of a running instance of `workload[.namespace]`, or of one instance by its name.
fn sidecar(mesh: &Mesh, from: Option<&str>) -> anyhow::Result<Server> {
    let wanted = from.unwrap_or("client");
    let (name, namespace) = wanted.rsplit_once('.').unwrap_or((wanted, "default"));
    let candidates =
        mesh.workloads.iter().filter(|w| w.namespace == namespace && w.kind != WorkloadKind::Gateway);
    let (whole, one): (Vec<&Workload>, Vec<&Workload>) = candidates.partition(|w| w.name == name);
    let by_name = one.iter().flat_map(|w| &w.instances).filter(|i| i.name == name);
    let instances: Vec<&Instance> = whole.iter().flat_map(|w| &w.instances).chain(by_name).collect();
    if instances.is_empty() {
        let known = mesh.workloads.iter().filter(|w| w.kind != WorkloadKind::Gateway);
        let known: Vec<String> = known.map(|w| format!("{}.{}", w.name, w.namespace)).collect();
        bail!("no workload {name:?} in namespace {namespace:?}; there are: {}", known.join(", "));
    }
    let alive =
        |i: &&&Instance| i.sidecar.state == ProcessState::Running && i.state != InstanceState::Stopped;
    let instance = instances.iter().find(alive);
    let instance = instance.with_context(|| {
        format!("no instance of {name:?} is running (`meshctl start INSTANCE` brings one back)")
    })?;
    Ok(instance.server(instance.http_proxy))
}

/// The address of a gateway workload, or of the workload that a Gateway resource selects.
fn gateway_entry(mesh: &Mesh, wanted: &str, scheme: Scheme, port: Option<u16>) -> anyhow::Result<Entry> {
    let gateways: Vec<&Workload> =
        mesh.workloads.iter().filter(|w| w.kind == WorkloadKind::Gateway).collect();
    let (namespace, name) = wanted.split_once('/').map_or((None, wanted), |(ns, name)| (Some(ns), name));
    let workload = gateways.iter().find(|w| w.name == name && namespace.is_none_or(|ns| ns == w.namespace));
    let workload = match workload {
        Some(workload) => workload,
        None => selected(mesh, &gateways, namespace.unwrap_or("default"), name)?,
    };
    let running = workload.instances.iter().find(|i| i.sidecar.state == ProcessState::Running);
    let instance = running.with_context(|| format!("gateway {} is not running", workload.name))?;
    let at = instance.gateway.as_ref().with_context(|| format!("{} listens nowhere", workload.name))?;
    let port = match (port, scheme) {
        (Some(port), _) => port,
        (None, Scheme::Https) => 443,
        (None, Scheme::Tcp) => bail!("tcp wants a port: tcp://HOST:PORT"),
        (None, _) => 80,
    };
    Ok(Entry::Gateway { ip: at.listen_ip, port, offset: at.port_offset })
}

/// The gateway workload that has the labels which the Gateway resource `namespace/name` selects.
fn selected<'a>(
    mesh: &Mesh,
    gateways: &[&'a Workload],
    namespace: &str,
    name: &str,
) -> anyhow::Result<&'a Workload> {
    let resource = mesh.gateways.iter().find(|g| g.namespace == namespace && g.name == name);
    let Some(resource) = resource else {
        let workloads = gateways.iter().map(|w| format!("{}/{}", w.namespace, w.name));
        let resources = mesh.gateways.iter().map(|g| format!("{}/{}", g.namespace, g.name));
        let known: Vec<String> = workloads.chain(resources).collect();
        bail!("no gateway {namespace}/{name}; there are: {}", known.join(", "));
    };
    let selects =
        |w: &&&Workload| resource.selector.iter().all(|(key, value)| w.labels.get(key) == Some(value));
    let chosen = gateways.iter().find(selects);
    chosen.copied().with_context(|| {
        format!(
            "no running gateway has the labels {:?} that Gateway {namespace}/{name} selects",
            resource.selector
        )
    })
}

/// TLS as a client outside the mesh: `--cacert` (or nothing trusted), and a certificate where one is given.
fn tls(args: &RequestArgs) -> anyhow::Result<Arc<ClientConfig>> {
    let mut roots = rustls::RootCertStore::empty();
    let Some(path) = &args.cacert else {
        bail!("https wants --cacert FILE: the authority that signed the server's certificate");
    };
    for certificate in
        CertificateDer::pem_file_iter(path).with_context(|| format!("--cacert {}", path.display()))?
    {
        roots.add(certificate.with_context(|| format!("--cacert {}", path.display()))?)?;
    }
    let builder = ClientConfig::builder().with_root_certificates(roots);
    let mut config = match (&args.cert, &args.key) {
        (Some(cert), Some(key)) => {
            let chain =
                CertificateDer::pem_file_iter(cert).with_context(|| format!("--cert {}", cert.display()))?;
            let chain =
                chain.collect::<Result<Vec<_>, _>>().with_context(|| format!("--cert {}", cert.display()))?;
            let key =
                PrivateKeyDer::from_pem_file(key).with_context(|| format!("--key {}", key.display()))?;
            builder.with_client_auth_cert(chain, key).context("--cert and --key do not belong together")?
        }
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
