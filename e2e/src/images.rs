//! Which images the suite runs, as the charts name them.

/// `HUB` of the images: where `e2e/run` built them.
#[must_use]
pub fn hub() -> String {
    std::env::var("E2E_HUB").unwrap_or_else(|_| "mesh".to_owned())
}

/// Their tag.
#[must_use]
pub fn tag() -> String {
    std::env::var("E2E_TAG").unwrap_or_else(|_| env!("CARGO_PKG_VERSION").to_owned())
}

/// `hub/name:tag`.
#[must_use]
pub fn image(name: &str) -> String {
    format!("{}/{name}:{}", hub(), tag())
}
