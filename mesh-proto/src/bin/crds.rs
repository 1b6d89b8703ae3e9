//! Makes `charts/base/files/crds/*.yaml` from the resource types: `cargo run -p mesh-proto --features schema --bin crds`.
//!
//! The output is checked in: the chart is complete without a Rust toolchain.

use std::path::Path;

use mesh_proto::crd::schema;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let out = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/base/files/crds");
    if out.exists() {
        std::fs::remove_dir_all(&out)?;
    }
    std::fs::create_dir_all(&out)?;
    for definition in schema::definitions()? {
        std::fs::write(out.join(format!("{}.yaml", definition.name)), definition.yaml())?;
    }
    Ok(())
}
