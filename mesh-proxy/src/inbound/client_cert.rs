//! `x-forwarded-client-cert`: who was verified, for the application.
//!
//! In: the peer's chain and our identity. Out: one header value, made once a connection. Source: Envoy's XFCC, in the form
//! that Istio's sidecars send (By, Hash, Subject, URI).

use std::fmt::Write as _;

use http::HeaderValue;
use mesh_proto::model::SpiffeId;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The field's value for a verified peer.
#[must_use]
pub fn value(me: &SpiffeId, peer: &SpiffeId, leaf: &CertificateDer<'_>) -> Option<HeaderValue> {
    let mut text = format!("By={me};");
    begin(&mut text, leaf);
    let _ = write!(text, ";URI={peer}");
    HeaderValue::from_str(&text).ok()
}

/// Hash and subject. Writing to a String cannot fail.
fn begin(text: &mut String, leaf: &CertificateDer<'_>) {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, leaf);
    text.push_str("Hash=");
    for byte in hash.as_ref() {
        let _ = write!(text, "{byte:02x}");
    }
    let subject = X509Certificate::from_der(leaf).map(|(_, c)| c.subject().to_string());
    let subject = subject.unwrap_or_default().replace('\\', "\\\\").replace('"', "\\\"");
    let _ = write!(text, ";Subject=\"{subject}\"");
}

/// The field's value for a client from outside of the mesh whose certificate a gateway has verified: its names as they are,
/// but for those that could be read as something else.
#[must_use]
pub fn of_outsider(leaf: &CertificateDer<'_>) -> Option<HeaderValue> {
    let mut text = String::new();
    begin(&mut text, leaf);
    let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
    let names = certificate.subject_alternative_name().ok().flatten().map(|names| &names.value.general_names);
    for name in names.into_iter().flatten() {
        let (key, name) = match name {
            GeneralName::URI(uri) => ("URI", uri),
            GeneralName::DNSName(dns) => ("DNS", dns),
            _ => continue,
        };
        if name.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b',' | b';' | b'=' | b'"')) {
            let _ = write!(text, ";{key}={name}");
        }
    }
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

    /// A subject or a name that would end its quotes, or the line, says nothing else.
    #[test]
    fn f10_j14_names_stay_in_their_place() {
        let me: SpiffeId = "spiffe://cluster.local/ns/default/sa/ratings".parse().unwrap();
        let peer: SpiffeId = "spiffe://cluster.local/ns/default/sa/reviews".parse().unwrap();
        let ca = TestCa::new();
        let leaf = |subject: &str, names: &[&str]| {
            let mut params = ca.leaf_params(peer.as_str(), std::time::Duration::from_secs(60));
            params.distinguished_name.push(rcgen::DnType::CommonName, subject);
            let names = names.iter().map(|name| rcgen::SanType::URI((*name).try_into().unwrap()));
            params.subject_alt_names.extend(names);
            ca.sign(params).0[0].clone()
        };
        let quotes = leaf(r#"a\";URI=spiffe://x,By="b"#, &[]);
        let text = value(&me, &peer, &quotes).unwrap();
        let text = text.to_str().unwrap();
        let (_, subject) = text.split_once("Subject=\"").unwrap();
        // Up to the first quote without a backslash before it.
        let mut escaped = false;
        let end = subject.bytes().position(|byte| {
            let ends = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            ends
        });
        assert_eq!(&subject[end.unwrap() + 1..], format!(";URI={peer}"), "{text}");
        for line in ["a\r\nx: y", "a\nb", "a\0"] {
            let told = value(&me, &peer, &leaf(line, &[]));
            assert!(told.is_none_or(|told| told.as_bytes().iter().all(|byte| *byte >= 0x20)), "{line:?}");
        }
        let names = ["spiffe://a/b,By=c", "spiffe://a;URI=b", "a\"b", "a b", "a=b", "spiffe://a/c"];
        let outside = of_outsider(&leaf("a", &names)).unwrap();
        let outside = outside.to_str().unwrap();
        assert!(outside.ends_with(&format!(";URI={peer};URI=spiffe://a/c")), "{outside}");
    }
}
