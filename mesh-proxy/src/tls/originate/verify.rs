//! Whether a server outside of the mesh is the right one.
//!
//! In: its certificate, the roots, the names that it may have. Out: yes, or why not. Without names of its own the policy's
//! server name must be in the certificate (Istio checks nothing then; RFC 9110 §4.3.4 does).

use std::sync::Arc;

use mesh_proto::runtime::crypto;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, Error, OtherError, RootCertStore, client};

use crate::tls::names::names_of;

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
    /// Checks the chain; none: nothing is checked.
    chain: Option<Arc<WebPkiServerVerifier>>,
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

/// Checks chains. As in Envoy, each CA of a chain has to say what it revoked where one does, and a list that is out of date
/// vouches for nobody.
///
/// # Errors
/// When a list of what was revoked cannot be used.
pub(super) fn chain(
    roots: Arc<RootCertStore>,
    revoked: Vec<CertificateRevocationListDer<'static>>,
) -> Result<Arc<WebPkiServerVerifier>, String> {
    let builder = WebPkiServerVerifier::builder_with_provider(roots, crypto::provider()).with_crls(revoked);
    builder.enforce_revocation_expiration().build().map_err(|error| error.to_string())
}

impl Outside {
    pub(super) fn new(chain: Option<Arc<WebPkiServerVerifier>>, names: &[String]) -> Self {
        let name = |name: &String| match ServerName::try_from(name.clone()) {
            Ok(host) => Name::Host(host),
            Err(_) => Name::Text(name.clone()),
        };
        Self { chain, names: names.iter().map(name).collect() }
    }

    fn has_one(&self, certificate: &ParsedCertificate<'_>, texts: &[String]) -> bool {
        self.names.iter().any(|name| match name {
            Name::Host(host) => client::verify_server_name(certificate, host).is_ok(),
            Name::Text(text) => texts.contains(text),
        })
    }
}

impl ServerCertVerifier for Outside {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        let verified = chain.verify_server_cert(leaf, intermediates, server_name, ocsp, now);
        let misnamed = matches!(
            &verified,
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
            ))
        );
        // The name comes last there: one that does not fit says that all else does. Here the policy's own names count.
        if self.names.is_empty() || verified.is_err() && !misnamed {
            return verified;
        }
        let certificate = ParsedCertificate::try_from(leaf)?;
        let has = names_of(leaf);
        if self.has_one(&certificate, &has) {
            return Ok(ServerCertVerified::assertion());
        }
        let wanted: Vec<String> = self.names.iter().map(Name::to_string).collect();
        let mismatch = Mismatch { wanted: wanted.join(" or "), has: has.join(", ") };
        Err(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(mismatch)))))
    }

    crypto::signature_checks!();
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
