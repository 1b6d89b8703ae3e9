//! Reading an X.509 SVID: a certificate in, the identity and its life out.
//!
//! Source: the SPIFFE X509-SVID specification §2, §4, §5.2. Nothing here checks signatures: that is [`super::tls`].

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

use crate::model::{InvalidIdentity, SpiffeId, TrustDomain};

/// What a leaf certificate says about its holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Svid {
    /// Who it is.
    pub id: SpiffeId,
    /// Not valid before.
    pub not_before: SystemTime,
    /// Not valid after.
    pub not_after: SystemTime,
    /// The serial number in hexadecimal digits.
    pub serial: String,
    /// Whether the certificate says at all what it may be used for.
    pub says_usage: bool,
}

/// Why a certificate gives no identity. The fault is always the presenter's.
///
/// `Debug` is the same text as `Display`: rustls prints an error of a verifier with `Debug`.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSvid {
    /// The peer sent no certificate.
    #[error("no certificate")]
    None,
    /// More certificates than a chain needs.
    #[error("a chain of {0} certificates")]
    ChainTooLong(usize),
    /// Not a certificate, or one that two readers could read differently.
    #[error("malformed certificate: {0}")]
    Malformed(String),
    /// A leaf may not sign other certificates.
    #[error("a signing certificate (CA) is no identity")]
    SigningCertificate,
    /// It needs exactly one URI name.
    #[error("certificate has {0} URI names instead of one")]
    UriNames(usize),
    /// The URI is no identity of ours.
    #[error(transparent)]
    Identity(#[from] InvalidIdentity),
    /// An intermediate may not sign for this trust domain.
    #[error("an intermediate certificate may not sign for the trust domain of {0}")]
    NameConstraints(SpiffeId),
    /// An intermediate may not sign certificates.
    #[error("{0}: an intermediate certificate may not sign certificates")]
    Issuer(SpiffeId),
    /// There are no roots for the trust domain that the peer claims.
    #[error("{id}: its trust domain is not trusted (roots known for: {known})")]
    UnknownTrustDomain {
        /// Whom the peer claims to be.
        id: SpiffeId,
        /// The trust domains that have roots.
        known: String,
    },
    /// The chain does not lead to a root of the presented trust domain.
    #[error("{0}: not signed by a root of its trust domain")]
    UnknownIssuer(SpiffeId),
    /// Not valid yet, or no longer.
    #[error("{id}: certificate {what}")]
    Time {
        /// Whom the peer claims to be.
        id: SpiffeId,
        /// "expired 3 s ago" or "not valid for another 3 s".
        what: String,
    },
    /// The certificate may not be used for this side of TLS.
    #[error("{id}: certificate may not be used as a TLS {role}")]
    Usage {
        /// Whom the peer claims to be.
        id: SpiffeId,
        /// "client" or "server".
        role: &'static str,
    },
    /// Any other reason of the path validation.
    #[error("{id}: {why}")]
    Path {
        /// Whom the peer claims to be.
        id: SpiffeId,
        /// The reason.
        why: String,
    },
    /// The identity was revoked by name.
    #[error("{0} is tainted: its certificates are refused until the authority takes that back")]
    Tainted(SpiffeId),
    /// A valid peer, but not the one that should be there.
    #[error("peer is {peer}, expected {expected}")]
    Mismatch {
        /// Who is there.
        peer: SpiffeId,
        /// Who should be there.
        expected: String,
    },
}

impl std::fmt::Debug for InvalidSvid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl Svid {
    /// Reads a leaf certificate.
    ///
    /// # Errors
    /// When it is no SVID: see [`InvalidSvid`].
    pub fn parse(leaf: &CertificateDer<'_>) -> Result<Self, InvalidSvid> {
        let certificate = parse(leaf)?;
        refuse_signing(&certificate)?;
        let time = |at: x509_parser::time::ASN1Time| {
            let seconds = at.timestamp();
            if seconds >= 0 { UNIX_EPOCH + Duration::from_secs(seconds.unsigned_abs()) } else { UNIX_EPOCH }
        };
        let mut serial = String::new();
        for byte in certificate.raw_serial() {
            serial.push_str(&format!("{byte:02x}"));
        }
        Ok(Self {
            id: uri_name(&certificate)?.parse()?,
            not_before: time(certificate.validity().not_before),
            not_after: time(certificate.validity().not_after),
            serial,
            says_usage: certificate.extended_key_usage().map_err(malformed)?.is_some(),
        })
    }
}

/// Refuses an intermediate that may not sign certificates (the path validation looks at no key usage), and one whose URI
/// name constraints exclude the domain of `id`: beside the check of the path validation, which has missed this kind before
/// (RUSTSEC-2026-0098).
///
/// # Errors
/// When it may not sign for `id`, or cannot be read.
pub fn check_intermediate(certificate: &CertificateDer<'_>, id: &SpiffeId) -> Result<(), InvalidSvid> {
    let certificate = parse(certificate)?;
    let usage = certificate.key_usage().map_err(malformed)?;
    if usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Err(InvalidSvid::Issuer(id.clone()));
    }
    let constraints = certificate.name_constraints().map_err(malformed)?;
    let Some(constraints) = constraints.map(|c| c.value) else {
        return Ok(());
    };
    let hosts = |trees: &Option<Vec<x509_parser::extensions::GeneralSubtree<'_>>>| -> Vec<String> {
        let uri = |tree: &x509_parser::extensions::GeneralSubtree<'_>| match &tree.base {
            GeneralName::URI(host) => Some((*host).to_owned()),
            _ => None,
        };
        trees.iter().flatten().filter_map(uri).collect()
    };
    let (permitted, excluded) =
        (hosts(&constraints.permitted_subtrees), hosts(&constraints.excluded_subtrees));
    let covers = |host: &String| covers(host, id.trust_domain());
    if excluded.iter().any(covers) || (!permitted.is_empty() && !permitted.iter().any(covers)) {
        return Err(InvalidSvid::NameConstraints(id.clone()));
    }
    Ok(())
}

/// RFC 5280 §4.2.1.10: a constraint with a leading dot covers every host below it, one without only that host.
fn covers(constraint: &str, domain: &TrustDomain) -> bool {
    match constraint.strip_prefix('.') {
        Some(_) => domain.as_str().ends_with(constraint),
        None => domain.as_str() == constraint,
    }
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, InvalidSvid> {
    let (rest, certificate) = X509Certificate::from_der(der.as_ref()).map_err(malformed)?;
    if rest.is_empty() {
        Ok(certificate)
    } else {
        Err(InvalidSvid::Malformed("bytes after its end".to_owned()))
    }
}

fn malformed(error: impl std::fmt::Display) -> InvalidSvid {
    InvalidSvid::Malformed(error.to_string())
}

/// Whether a certificate is an authority's: one that may sign others.
///
/// # Errors
/// When it is no certificate.
pub(super) fn is_authority(der: &CertificateDer<'_>) -> Result<bool, InvalidSvid> {
    Ok(parse(der)?.basic_constraints().map_err(malformed)?.is_some_and(|c| c.value.ca))
}

fn refuse_signing(certificate: &X509Certificate<'_>) -> Result<(), InvalidSvid> {
    let ca = certificate.basic_constraints().map_err(malformed)?.is_some_and(|c| c.value.ca);
    let usage = certificate.key_usage().map_err(malformed)?;
    if ca || usage.is_some_and(|u| u.value.key_cert_sign() || u.value.crl_sign()) {
        return Err(InvalidSvid::SigningCertificate);
    }
    Ok(())
}

fn uri_name<'a>(certificate: &'a X509Certificate<'_>) -> Result<&'a str, InvalidSvid> {
    // A second extension of the same kind, which some readers would take instead, is an error here.
    certificate.subject_alternative_name().map_err(malformed)?;
    let mut names = Vec::new();
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(san) => names.extend(&san.general_names),
            ParsedExtension::ParseError { error } => return Err(malformed(error)),
            _ => {}
        }
    }
    let mut uris = Vec::new();
    for name in names {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            GeneralName::Invalid(..) => return Err(InvalidSvid::Malformed("a name that is none".to_owned())),
            _ => {}
        }
    }
    match uris[..] {
        [uri] => Ok(uri),
        _ => Err(InvalidSvid::UriNames(uris.len())),
    }
}
