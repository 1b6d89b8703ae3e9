//! The `mesh-pilot` process.

fn main() {}
