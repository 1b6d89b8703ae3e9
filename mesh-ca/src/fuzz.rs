//! What fuzzers call: any bytes in; a panic is a bug. cargo-fuzz and the short run of the tests share these functions.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rcgen::PublicKeyData as _;

use crate::csr;

/// A request for a certificate, as PEM and as what is inside of PEM: nothing but a key comes of it.
pub fn request(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = csr::public_key(text);
    }
    let inside = BASE64_STANDARD.encode(data);
    let pem = format!("-----BEGIN CERTIFICATE REQUEST-----\n{inside}\n-----END CERTIFICATE REQUEST-----\n");
    if let Ok(key) = csr::public_key(&pem) {
        let key = key.der_bytes();
        assert!(!key.is_empty() && data.windows(key.len()).any(|window| window == key), "a key from nowhere");
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use mesh_proto::runtime::testing::fuzz::short_run;

    use super::*;

    #[test]
    fn c7_requests_of_any_bytes() {
        let seeds = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join("request");
        short_run(request, &seeds, 2_000);
    }
}
