//! Whether a server outside of the mesh is the right one.
//!
//! In: its certificate, the roots, the names that it may have. Out: yes, or why not. Without names of its own the policy's
//! server name must be in the certificate (Istio checks nothing then; RFC 9110 §4.3.4 does).

use std::sync::Arc;

use mesh_proto::runtime::crypto;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme, client,
};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// A name that a certificate may have.
#[derive(Debug)]
enum Name {
    /// DNS names and addresses.
    Host(ServerName<'static>),
    /// Everything else, as it is: URIs.
    Text(String),
}

/// Checks servers.
#[derive(Debug)]
pub(super) struct Outside {
    /// None: nothing is checked.
    roots: Option<Arc<RootCertStore>>,
    /// One of these; none: the name that was asked for.
    names: Vec<Name>,
}

/// The certificate has none of the names.
#[derive(Debug, thiserror::Error)]
#[error("the server's certificate has none of the names {wanted}; it has {has}")]
struct Mismatch {
    wanted: String,
    has: String,
}

impl Outside {
    pub(super) fn new(roots: Option<Arc<RootCertStore>>, names: &[String]) -> Self {
        let name = |name: &String| match ServerName::try_from(name.clone()) {
            Ok(host) => Name::Host(host),
            Err(_) => Name::Text(name.clone()),
        };
        Self { roots, names: names.iter().map(name).collect() }
    }

    fn has_one(&self, certificate: &ParsedCertificate<'_>, texts: &[String]) -> bool {
        self.names.iter().any(|name| match name {
            Name::Host(host) => client::verify_server_name(certificate, host).is_ok(),
            Name::Text(text) => texts.contains(text),
        })
    }
}

/// The alternative names of a certificate, in words.
fn names_of(der: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return Vec::new() };
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) | GeneralName::URI(name) => Some((*name).to_owned()),
        _ => None,
    };
    names.value.general_names.iter().filter_map(text).collect()
}

impl ServerCertVerifier for Outside {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(roots) = &self.roots else { return Ok(ServerCertVerified::assertion()) };
        let certificate = ParsedCertificate::try_from(leaf)?;
        let algorithms = crypto::provider().signature_verification_algorithms;
        client::verify_server_cert_signed_by_trust_anchor(
            &certificate,
            roots,
            intermediates,
            now,
            algorithms.all,
        )?;
        if self.names.is_empty() {
            client::verify_server_name(&certificate, server_name)?;
            return Ok(ServerCertVerified::assertion());
        }
        let has = names_of(leaf);
        if self.has_one(&certificate, &has) {
            return Ok(ServerCertVerified::assertion());
        }
        let wanted: Vec<String> = self.names.iter().map(Name::to_string).collect();
        let mismatch = Mismatch { wanted: wanted.join(" or "), has: has.join(", ") };
        Err(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(mismatch)))))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = crypto::provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = crypto::provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        crypto::provider().signature_verification_algorithms.supported_schemes()
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Host(ServerName::DnsName(name)) => f.write_str(name.as_ref()),
            Self::Host(ServerName::IpAddress(ip)) => std::net::IpAddr::from(*ip).fmt(f),
            Self::Host(_) => f.write_str("?"),
            Self::Text(text) => f.write_str(text),
        }
    }
}
