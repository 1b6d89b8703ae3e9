//! The `mesh-ca` process.

fn main() {}
