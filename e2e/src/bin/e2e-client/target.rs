//! Where a request goes: a URL, the address to connect to instead, TLS. Out: an open stream.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// A connection of either kind.
pub type Io = Box<dyn Stream>;

/// What both kinds can do.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// How to say a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, by prior knowledge or ALPN.
    Http2,
    /// `mesh.app.v1.Echo`.
    Grpc,
    /// Bytes there, the same bytes back.
    Tcp,
}

/// The options of every command that connects.
#[derive(Debug, Clone, clap::Args)]
pub struct TargetArgs {
    /// http, https, h2c, h2 (over TLS), grpc or tcp: SCHEME://HOST[:PORT][/PATH]
    pub url: String,
    /// Connect here instead of to the URL's host
    #[arg(long, value_name = "HOST:PORT")]
    connect: Option<String>,
    /// The authorities that may sign the server's certificate (PEM)
    #[arg(long, value_name = "FILE")]
    cacert: Option<PathBuf>,
    /// The client's certificate (PEM)
    #[arg(long, requires = "key", value_name = "FILE")]
    cert: Option<PathBuf>,
    /// The client's key (PEM)
    #[arg(long, requires = "cert", value_name = "FILE")]
    key: Option<PathBuf>,
}

impl TargetArgs {
    /// A URL alone.
    pub fn of(url: String) -> Self {
        Self { url, connect: None, cacert: None, cert: None, key: None }
    }
}

/// A parsed target.
#[derive(Clone)]
pub struct Target {
    /// What is spoken.
    pub protocol: Protocol,
    /// `host[:port]` as the client names it.
    pub authority: String,
    /// With its query.
    pub path: String,
    /// `http` or `https`.
    pub scheme: &'static str,
    connect: String,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Target {
    /// Parses.
    pub fn new(args: &TargetArgs) -> anyhow::Result<Self> {
        let (scheme, rest) = args.url.split_once("://").context("expected SCHEME://HOST")?;
        let (protocol, tls, port) = match scheme {
            "http" => (Protocol::Http1, false, 80),
            "https" => (Protocol::Http1, true, 443),
            "h2c" => (Protocol::Http2, false, 80),
            "h2" => (Protocol::Http2, true, 443),
            "grpc" => (Protocol::Grpc, false, 80),
            "tcp" => (Protocol::Tcp, false, 80),
            other => anyhow::bail!("{other} is no scheme of this client"),
        };
        let (authority, path) = rest.split_once('/').map_or((rest, ""), |(host, path)| (host, path));
        let bracketed = authority.ends_with(']');
        let host = match authority.rsplit_once(':') {
            Some((host, _)) if !bracketed => host,
            _ => authority,
        };
        let own =
            if host.len() == authority.len() { format!("{authority}:{port}") } else { authority.to_owned() };
        let tls = if tls {
            Some((connector(args, protocol)?, ServerName::try_from(host.to_owned())?))
        } else {
            None
        };
        Ok(Self {
            protocol,
            authority: authority.to_owned(),
            path: format!("/{path}"),
            scheme: if tls.is_some() { "https" } else { "http" },
            connect: args.connect.clone().unwrap_or(own),
            tls,
        })
    }

    /// A new connection.
    pub async fn open(&self) -> anyhow::Result<Io> {
        let tcp =
            TcpStream::connect(&self.connect).await.with_context(|| format!("connect {}", self.connect))?;
        tcp.set_nodelay(true)?;
        match &self.tls {
            None => Ok(Box::new(tcp)),
            Some((connector, name)) => {
                Ok(Box::new(connector.connect(name.clone(), tcp).await.context("TLS handshake")?))
            }
        }
    }
}

fn connector(args: &TargetArgs, protocol: Protocol) -> anyhow::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    let cacert = args.cacert.as_ref().context("https wants --cacert FILE")?;
    for certificate in CertificateDer::pem_file_iter(cacert).context("--cacert")? {
        roots.add(certificate?)?;
    }
    let builder = ClientConfig::builder().with_root_certificates(roots);
    let mut config = match (&args.cert, &args.key) {
        (Some(cert), Some(key)) => {
            let chain = CertificateDer::pem_file_iter(cert).context("--cert")?.collect::<Result<_, _>>()?;
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key).context("--key")?)?
        }
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = match protocol {
        Protocol::Http2 | Protocol::Grpc => vec![b"h2".to_vec()],
        _ => vec![b"http/1.1".to_vec()],
    };
    Ok(TlsConnector::from(Arc::new(config)))
}
