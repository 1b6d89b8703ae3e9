//! What fuzzers call: any bytes in; a panic is a bug. cargo-fuzz and the short run of the tests share these functions.
//!
//! Beside not panicking, each says what must hold of whatever is accepted: one reading, the same in pieces as in whole.

mod discovery;
mod http1;
mod policy;
#[cfg(test)]
mod tests;
mod tokens;

use crate::destination;
use crate::detect::classify;
use crate::http::h1::authority;
use crate::http::path::normalised;
use crate::tls::client_hello::{Parsed, parse};
use mesh_proto::wire::mesh::v1::PathNormalization as Mode;

pub use discovery::discovery;
pub use http1::{chunked, request, response};
pub use policy::policy;
pub use tokens::{claims, keys, token};

/// The first bytes of a connection. What was decided does not change with what comes after.
pub fn first_bytes(data: &[u8]) {
    let mut decided = None;
    for end in 0..=data.len().min(80) {
        let first = classify(&data[..end]);
        assert!(decided.is_none() || first == decided, "{decided:?}, then {first:?}");
        decided = decided.or(first);
    }
}

/// A ClientHello that is looked at. A beginning of it says the same or nothing yet.
pub fn client_hello(data: &[u8]) {
    let Parsed::Hello(whole) = parse(data) else { return };
    for end in [data.len() / 2, data.len() - 1] {
        match parse(&data[..end]) {
            Parsed::Hello(part) => assert_eq!(part, whole),
            Parsed::Partial => {}
            Parsed::Broken => panic!("its first {end} bytes are broken"),
        }
    }
    assert!(whole.server_name.is_none_or(|name| !name.is_empty()));
}

/// A path, and a host. What is passed on is read the same way again, in every mode.
pub fn path_and_host(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let path = format!("/{text}");
    for mode in [Mode::PathNone, Mode::PathBase, Mode::PathMergeSlashes, Mode::PathDecodeAndMergeSlashes] {
        let Ok(once) = normalised(&path, mode) else { continue };
        assert_eq!(normalised(&once, mode).as_deref(), Ok(&*once), "{path:?} {mode:?}");
        let name = |segment: &str| {
            let name = segment.split(';').next().unwrap_or_default();
            name.to_ascii_lowercase().replace("%2e", ".")
        };
        let is_dots = |segment: &str| matches!(&*name(segment), "." | "..");
        let clean = mode == Mode::PathNone || !once.split('/').any(is_dots) && !once.contains('\\');
        assert!(clean && once.starts_with('/') && !once.contains("%00"), "{path:?} {mode:?}: {once:?}");
    }
    if authority::is_valid(data) {
        let name = destination::normalise(text);
        let name = name.unwrap_or_else(|| panic!("{text:?} is no name"));
        assert_eq!(destination::normalise(&name).as_deref(), Some(&*name), "{text:?}");
        assert!(!name.bytes().any(|b| b.is_ascii_uppercase()) && !name.ends_with('.'), "{text:?}: {name:?}");
        assert!(authority::same(data, data, b"80"));
    }
}
