//! An authority of the outside world, and clients that trust it.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

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
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
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
        self.sign(params)
    }

    /// A certificate as it is to be.
    pub fn sign(&self, params: CertificateParams) -> Pair {
        let key = KeyPair::generate().unwrap();
        let chain = params.signed_by(&key, &self.0).unwrap().pem();
        Pair { chain, key: key.serialize_pem() }
    }

    /// What signs.
    pub fn issuer(&self) -> &rcgen::Issuer<'static, KeyPair> {
        &self.0
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

/// A server of TLS and HTTP/1. Its answers say what it was asked for: `sni=.. alpn=.. client=..` and the head. `clients`: who
/// must sign their certificates.
pub async fn serve(pair: &Pair, clients: Option<&Authority>, alpn: &[&[u8]]) -> SocketAddr {
    let builder = rustls::ServerConfig::builder();
    let builder = match clients {
        Some(authority) => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(authority.root().as_bytes()).unwrap()).unwrap();
            let verifier = rustls::server::WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        }
        None => builder.with_no_client_auth(),
    };
    let (chain, key) = pair.der();
    let mut config = builder.with_single_cert(chain, key).unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    let _ = answer(stream).await;
                }
            });
        }
    });
    address
}

async fn answer(mut stream: tokio_rustls::server::TlsStream<TcpStream>) -> io::Result<()> {
    let (_, tls) = stream.get_ref();
    let told = format!(
        "sni={} alpn={} client={}\n",
        tls.server_name().unwrap_or("-"),
        tls.alpn_protocol().map(String::from_utf8_lossy).unwrap_or("-".into()),
        tls.peer_certificates().is_some()
    );
    let mut buffer = Vec::new();
    loop {
        while !buffer.windows(4).any(|w| w == b"\r\n\r\n") {
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
        let body = format!("{told}{}", String::from_utf8_lossy(&buffer));
        buffer.clear();
        let head = format!("HTTP/1.1 200 x\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(format!("{head}{body}").as_bytes()).await?;
        stream.flush().await?;
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
        self.over(TcpStream::connect(at).await?, sni).await
    }

    /// The same over a connection that is there.
    pub async fn over(&self, stream: TcpStream, sni: &str) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(sni.to_owned()).unwrap();
        TlsConnector::from(Arc::new(self.config())).connect(name, stream).await
    }

    /// What its handshakes are made with.
    pub fn config(&self) -> rustls::ClientConfig {
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
        config
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
