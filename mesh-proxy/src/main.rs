//! The `mesh-proxy` process.

fn main() {}
