//! What fuzzers call: any bytes in; a panic is a bug. cargo-fuzz and the short run of the tests share these functions.

use rustls::pki_types::CertificateDer;

use crate::crd::{Document, Origin, from_value, parse};
use crate::model::{HostPort, ResourceName, SpiffeId};
use crate::runtime::svid::Svid;

/// Names that come from outside: what is taken is read back from its text, and nothing is taken in two spellings.
pub fn names(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(id) = text.parse::<SpiffeId>() {
        assert_eq!(id.as_str(), text, "one spelling");
        let again = SpiffeId::new(id.trust_domain(), id.namespace(), id.service_account());
        assert_eq!(again.as_ref(), Ok(&id));
        assert_eq!(format!("spiffe://{}", id.principal()), text);
        assert!(text.bytes().all(|b| b.is_ascii_graphic() && !b"%?#@".contains(&b)), "{text}");
    }
    // Of several dots at its end one is taken away.
    if let Ok(name) = text.parse::<HostPort>()
        && !name.host().ends_with('.')
    {
        assert_eq!(name.to_string().parse().as_ref(), Ok(&name));
    }
    if let Ok(name) = text.parse::<ResourceName>() {
        assert_eq!(name.to_string().parse().as_ref(), Ok(&name));
    }
}

/// A certificate that a peer shows. Whatever is read of it stands in it.
pub fn certificate(data: &[u8]) {
    let Ok(svid) = Svid::parse(&CertificateDer::from(data)) else { return };
    let id = svid.id.as_str().as_bytes();
    assert!(data.windows(id.len()).any(|window| window == id), "{} is not in it", svid.id);
}

/// A user's file. What is accepted is accepted again as the JSON that it was read as.
pub fn resources(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for document in parse("fuzz.yaml", text) {
        let Document::Accepted(resource) = document else { continue };
        let again = from_value((*resource.value).clone(), Origin::default());
        let Document::Accepted(again) = again else { panic!("{again:?}, and was accepted as YAML") };
        assert_eq!(again.reference, resource.reference);
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::runtime::testing::fuzz::short_run;

    fn seeds(name: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name)
    }

    #[test]
    fn names_of_any_bytes() {
        short_run(names, &seeds("names"), 20_000);
    }

    #[test]
    fn t5_t7_certificates_of_any_bytes() {
        short_run(certificate, &seeds("certificate"), 5_000);
    }

    #[test]
    fn c7_resources_of_any_bytes() {
        short_run(resources, &seeds("resources"), 500);
    }
}
