//! `x-forwarded-client-cert`: who was verified, for the application.
//!
//! In: the peer's chain and our identity. Out: one header value, made once a connection. Source: Envoy's XFCC, in the form
//! that Istio's sidecars send (By, Hash, Subject, URI).

use std::fmt::Write as _;

use http::HeaderValue;
use mesh_proto::model::SpiffeId;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The field's value for a verified peer.
#[must_use]
pub fn value(me: &SpiffeId, peer: &SpiffeId, leaf: &CertificateDer<'_>) -> Option<HeaderValue> {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, leaf);
    let mut text = format!("By={me};Hash=");
    for byte in hash.as_ref() {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    let subject = X509Certificate::from_der(leaf).map(|(_, c)| c.subject().to_string());
    let subject = subject.unwrap_or_default().replace('\\', "\\\\").replace('"', "\\\"");
    let _ = write!(text, ";Subject=\"{subject}\";URI={peer}");
    HeaderValue::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    use mesh_proto::runtime::testing::TestCa;

    use super::*;

    #[test]
    fn has_istios_form() {
        let me: SpiffeId = "spiffe://cluster.local/ns/default/sa/ratings".parse().unwrap();
        let peer: SpiffeId = "spiffe://cluster.local/ns/default/sa/reviews".parse().unwrap();
        let identity = TestCa::new().identity(peer.namespace(), peer.service_account());
        let leaf = identity.leaf();
        let text = value(&me, &peer, &leaf.certified_key.cert[0]).unwrap();
        let text = text.to_str().unwrap();
        assert!(text.starts_with("By=spiffe://cluster.local/ns/default/sa/ratings;Hash="), "{text}");
        assert!(text.ends_with("URI=spiffe://cluster.local/ns/default/sa/reviews"), "{text}");
        assert!(text.contains(";Subject=\""), "{text}");
    }
}
