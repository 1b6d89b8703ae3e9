//! Makes `src/wire/*.rs` from `proto/`: `cargo run -p mesh-proto --features codegen --bin generate`.
//!
//! The output is checked in, so that nobody needs a protobuf compiler.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let protos = [
        "mesh/v1/resources.proto",
        "mesh/v1/replicas.proto",
        "mesh/v1/authority.proto",
        "envoy/service/discovery/v3/discovery.proto",
        "envoy/service/auth/v3/external_auth.proto",
        "istio/v1/auth/ca.proto",
        "mesh/app/v1/echo.proto",
    ];
    let files = protox::compile(protos, [root.join("proto")])?;
    let out = root.join("src/wire");
    std::fs::create_dir_all(&out)?;
    // gRPC reflection serves the sample application's descriptors.
    let echo = protox::compile(["mesh/app/v1/echo.proto"], [root.join("proto")])?;
    std::fs::write(out.join("echo.binpb"), prost::Message::encode_to_vec(&echo))?;
    // What is secret is not printed, not even by accident.
    let builder = tonic_prost_build::configure().out_dir(&out).skip_debug(["mesh.v1.Secret"]);
    builder.btree_map(".").bytes(".").compile_fds(files)?;
    Ok(())
}
