//! Field names that a thread has seen, so that an application's own names are not allocated anew with every message.

use std::cell::RefCell;

use http::HeaderName;

/// Names that a thread remembers; a power of two.
const SIZE: usize = 256;
/// Longer names are not remembered.
const MAX_LEN: usize = 48;

/// A name as it was written, and what it means.
type Known = (Box<[u8]>, HeaderName);

thread_local! {
    /// One entry per hash: a newer name takes the place of an older one, so that nobody can fill it.
    static NAMES: RefCell<Vec<Option<Known>>> = const { RefCell::new(Vec::new()) };
}

/// The name that these bytes write, in any case; none when they are no name.
#[must_use]
pub fn get(raw: &[u8]) -> Option<HeaderName> {
    if raw.len() > MAX_LEN {
        return HeaderName::from_bytes(raw).ok();
    }
    NAMES.with_borrow_mut(|names| {
        if names.is_empty() {
            names.resize_with(SIZE, || None);
        }
        let slot = &mut names[hash(raw)];
        if let Some((known, name)) = slot
            && **known == *raw
        {
            return Some(name.clone());
        }
        let name = HeaderName::from_bytes(raw).ok()?;
        *slot = Some((raw.into(), name.clone()));
        Some(name)
    })
}

/// A cheap hash: a collision costs an allocation, no more.
fn hash(raw: &[u8]) -> usize {
    let mix = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    raw.iter().fold(0x811c_9dc5, mix) as usize & (SIZE - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_and_refuses() {
        for _ in 0..2 {
            for raw in ["X-Request-Id", "x-request-id", "host"] {
                assert_eq!(get(raw.as_bytes()).unwrap().as_str(), raw.to_ascii_lowercase());
            }
            assert!(get(b"a b").is_none());
        }
        for n in 0..10_000 {
            let raw = format!("x-{n}");
            assert_eq!(get(raw.as_bytes()).unwrap().as_str(), raw);
        }
        assert_eq!(get("y".repeat(1000).as_bytes()).unwrap().as_str().len(), 1000);
    }
}
