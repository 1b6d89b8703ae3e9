//! How TLS is spoken: versions, cipher suites of TLS 1.2, key exchange groups, by Istio's names.
//!
//! In: `tlsDefaults` and `meshMTLS` of MeshConfig, `tls` of a Gateway's server, `wire::TlsParameters`. Out:
//! [`TlsParameters`]. What this build does not have is refused by name: whoever narrows TLS must not get something else.

use std::fmt;
use std::str::FromStr;

use crate::wire::mesh::v1 as wire;

/// A version of TLS. What is older is never spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TlsVersion {
    /// `TLSV1_2`
    V12,
    /// `TLSV1_3`
    V13,
}

/// A cipher suite of TLS 1.2, all of them with ECDHE and AEAD. Those of TLS 1.3 are not up for choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum CipherSuite {
    EcdheEcdsaAes256Gcm,
    EcdheEcdsaAes128Gcm,
    EcdheEcdsaChacha20,
    EcdheRsaAes256Gcm,
    EcdheRsaAes128Gcm,
    EcdheRsaChacha20,
}

/// A key exchange group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Group {
    /// X25519 and ML-KEM-768 together: safe also from who records now and has a quantum computer later.
    X25519Mlkem768,
    /// Curve25519.
    X25519,
    /// NIST P-256.
    P256,
    /// NIST P-384.
    P384,
}

/// A name that stands for nothing here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTls {
    /// `minProtocolVersion`
    #[error("{0:?} is no version of TLS that is spoken (expected TLS_AUTO, TLSV1_2 or TLSV1_3)")]
    Version(String),
    /// `cipherSuites`
    #[error("there is no cipher suite {0:?} (of TLS 1.2 there are {names}; those of TLS 1.3 are always there)", names = CipherSuite::names())]
    CipherSuite(String),
    /// `ecdhCurves`
    #[error("there is no key exchange group {0:?} (there are {names})", names = Group::names())]
    Group(String),
    /// Neither TLS 1.2 nor TLS 1.3.
    #[error("no version of TLS is left")]
    NoVersion,
}

/// How TLS is spoken.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TlsParameters {
    /// TLS 1.2 may be spoken.
    pub tls12: bool,
    /// TLS 1.3 may be spoken.
    pub tls13: bool,
    /// Of TLS 1.2, in order of preference; none: all.
    pub cipher_suites: Vec<CipherSuite>,
    /// In order of preference; none: all, post-quantum first.
    pub groups: Vec<Group>,
}

impl Default for TlsParameters {
    fn default() -> Self {
        Self { tls12: true, tls13: true, cipher_suites: Vec::new(), groups: Vec::new() }
    }
}

impl CipherSuite {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::EcdheEcdsaAes256Gcm,
        Self::EcdheEcdsaAes128Gcm,
        Self::EcdheEcdsaChacha20,
        Self::EcdheRsaAes256Gcm,
        Self::EcdheRsaAes128Gcm,
        Self::EcdheRsaChacha20,
    ];

    /// OpenSSL's name, which is Envoy's and Istio's too.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::EcdheEcdsaAes256Gcm => "ECDHE-ECDSA-AES256-GCM-SHA384",
            Self::EcdheEcdsaAes128Gcm => "ECDHE-ECDSA-AES128-GCM-SHA256",
            Self::EcdheEcdsaChacha20 => "ECDHE-ECDSA-CHACHA20-POLY1305",
            Self::EcdheRsaAes256Gcm => "ECDHE-RSA-AES256-GCM-SHA384",
            Self::EcdheRsaAes128Gcm => "ECDHE-RSA-AES128-GCM-SHA256",
            Self::EcdheRsaChacha20 => "ECDHE-RSA-CHACHA20-POLY1305",
        }
    }

    /// All names, for people.
    #[must_use]
    pub fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }
}

impl Group {
    /// All of them, in the order of preference.
    pub const ALL: [Self; 4] = [Self::X25519Mlkem768, Self::X25519, Self::P256, Self::P384];

    /// Envoy's and Istio's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::X25519Mlkem768 => "X25519MLKEM768",
            Self::X25519 => "X25519",
            Self::P256 => "P-256",
            Self::P384 => "P-384",
        }
    }

    /// All names, for people.
    #[must_use]
    pub fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }
}

impl FromStr for CipherSuite {
    type Err = InvalidTls;

    fn from_str(name: &str) -> Result<Self, InvalidTls> {
        let known = Self::ALL.into_iter().find(|suite| suite.name() == name);
        known.ok_or_else(|| InvalidTls::CipherSuite(name.to_owned()))
    }
}

impl FromStr for Group {
    type Err = InvalidTls;

    fn from_str(name: &str) -> Result<Self, InvalidTls> {
        let known = Self::ALL.into_iter().find(|group| group.name() == name);
        known.ok_or_else(|| InvalidTls::Group(name.to_owned()))
    }
}

impl fmt::Display for CipherSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl TlsVersion {
    /// The lowest version that `name` lets be spoken: TLS 1.2 is the floor.
    ///
    /// # Errors
    /// When it is none, or one that is never spoken.
    pub fn lowest(name: &str) -> Result<Self, InvalidTls> {
        match name {
            "" | "TLS_AUTO" | "TLSV1_2" => Ok(Self::V12),
            "TLSV1_3" => Ok(Self::V13),
            other => Err(InvalidTls::Version(other.to_owned())),
        }
    }
}

impl TlsParameters {
    /// As MeshConfig says it.
    ///
    /// # Errors
    /// Which name stands for nothing.
    pub fn new(lowest: &str, suites: &[String], groups: &[String]) -> Result<Self, InvalidTls> {
        Ok(Self {
            tls12: TlsVersion::lowest(lowest)? == TlsVersion::V12,
            tls13: true,
            cipher_suites: suites.iter().map(|name| name.parse()).collect::<Result<_, _>>()?,
            groups: groups.iter().map(|name| name.parse()).collect::<Result<_, _>>()?,
        })
    }
}

impl From<&TlsParameters> for wire::TlsParameters {
    fn from(parameters: &TlsParameters) -> Self {
        Self {
            tls12: parameters.tls12,
            tls13: parameters.tls13,
            cipher_suites: parameters.cipher_suites.iter().map(ToString::to_string).collect(),
            ecdh_curves: parameters.groups.iter().map(ToString::to_string).collect(),
        }
    }
}

impl TryFrom<&wire::TlsParameters> for TlsParameters {
    type Error = InvalidTls;

    fn try_from(wire: &wire::TlsParameters) -> Result<Self, InvalidTls> {
        if !wire.tls12 && !wire.tls13 {
            return Err(InvalidTls::NoVersion);
        }
        let both = Self::new("", &wire.cipher_suites, &wire.ecdh_curves)?;
        Ok(Self { tls12: wire.tls12, tls13: wire.tls13, ..both })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_there_and_back() {
        for suite in CipherSuite::ALL {
            assert_eq!(suite.name().parse(), Ok(suite));
        }
        for group in Group::ALL {
            assert_eq!(group.name().parse(), Ok(group));
        }
        let own = |text: &str| vec![text.to_owned()];
        let parameters = TlsParameters::new("TLSV1_3", &[], &own("P-256")).unwrap();
        assert_eq!((parameters.tls12, parameters.tls13), (false, true));
        assert_eq!(TlsParameters::try_from(&wire::TlsParameters::from(&parameters)), Ok(parameters));
        let all = TlsParameters::default();
        assert_eq!(TlsParameters::new("TLS_AUTO", &[], &[]), Ok(all.clone()));
        assert_eq!(TlsParameters::try_from(&wire::TlsParameters::from(&all)), Ok(all));
    }

    /// What would be weaker, or something else than was asked for.
    #[test]
    fn what_is_not_there_is_named() {
        let own = |text: &str| vec![text.to_owned()];
        for version in ["TLSV1_0", "TLSV1_1", "SSLV3", "tlsv1_2", "1.3"] {
            let why = TlsParameters::new(version, &[], &[]).unwrap_err().to_string();
            assert!(why.contains(version) && why.contains("TLSV1_2 or TLSV1_3"), "{why}");
        }
        for suite in
            ["AES128-SHA", "ECDHE-RSA-AES128-SHA", "DES-CBC3-SHA", "TLS_AES_128_GCM_SHA256", "ALL", ""]
        {
            let why = TlsParameters::new("", &own(suite), &[]).unwrap_err().to_string();
            assert!(
                why.contains(&format!("{suite:?}")) && why.contains("ECDHE-RSA-AES128-GCM-SHA256"),
                "{why}"
            );
        }
        for group in ["P-224", "P-521", "secp256r1", "X25519Kyber768Draft00", ""] {
            let why = TlsParameters::new("", &[], &own(group)).unwrap_err().to_string();
            assert!(
                why.contains(&format!("{group:?}")) && why.contains("X25519MLKEM768, X25519, P-256"),
                "{why}"
            );
        }
        let none = wire::TlsParameters::default();
        assert_eq!(TlsParameters::try_from(&none), Err(InvalidTls::NoVersion));
    }
}
