//! An authority of the outside world, and clients that trust it.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::client::{Answer, parse};

/// A certificate chain and its key, PEM.
#[derive(Clone)]
pub struct Pair {
    pub chain: String,
    pub key: String,
}

/// Signs for the outside.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn root(&self) -> String {
        self.0.pem()
    }

    /// A certificate for names.
    pub fn leaf(&self, names: &[&str]) -> Pair {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.subject_alt_names.push(SanType::URI("urn:outside".try_into().unwrap()));
        let key = KeyPair::generate().unwrap();
        let chain = params.signed_by(&key, &self.0).unwrap().pem();
        Pair { chain, key: key.serialize_pem() }
    }
}

impl Pair {
    /// Writes `tls.crt` and `tls.key`.
    pub fn write(&self, dir: &Path) {
        std::fs::write(dir.join("tls.crt"), &self.chain).unwrap();
        std::fs::write(dir.join("tls.key"), &self.key).unwrap();
    }

    fn der(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let chain = CertificateDer::pem_slice_iter(self.chain.as_bytes()).map(Result::unwrap).collect();
        (chain, PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap())
    }
}

/// A client that trusts one authority.
#[derive(Clone)]
pub struct Client {
    roots: Arc<rustls::RootCertStore>,
    pair: Option<Pair>,
    versions: Vec<&'static rustls::SupportedProtocolVersion>,
    alpn: Vec<Vec<u8>>,
}

impl Client {
    pub fn new(authority: &Authority) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.root().as_bytes()).unwrap()).unwrap();
        let versions = vec![&rustls::version::TLS13, &rustls::version::TLS12];
        Self { roots: Arc::new(roots), pair: None, versions, alpn: Vec::new() }
    }

    pub fn showing(mut self, pair: &Pair) -> Self {
        self.pair = Some(pair.clone());
        self
    }

    pub fn only(mut self, version: &'static rustls::SupportedProtocolVersion) -> Self {
        self.versions = vec![version];
        self
    }

    pub fn offering(mut self, alpn: &[&[u8]]) -> Self {
        self.alpn = alpn.iter().map(|name| name.to_vec()).collect();
        self
    }

    /// A connection whose handshake is done. `sni` an address: none is sent.
    pub async fn connect(&self, at: SocketAddr, sni: &str) -> io::Result<TlsStream<TcpStream>> {
        let builder = rustls::ClientConfig::builder_with_protocol_versions(&self.versions)
            .with_root_certificates(self.roots.clone());
        let mut config = match &self.pair {
            Some(pair) => {
                let (chain, key) = pair.der();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols.clone_from(&self.alpn);
        let name = ServerName::try_from(sni.to_owned()).unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, TcpStream::connect(at).await?).await
    }

    /// One GET on a connection of its own.
    pub async fn get(&self, at: SocketAddr, sni: &str, host: &str) -> io::Result<Answer> {
        let mut stream = self.connect(at, sni).await?;
        let request = format!(
            "GET /x HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\nx-forwarded-client-cert: spoof\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await?;
        parse(&all)
    }
}
