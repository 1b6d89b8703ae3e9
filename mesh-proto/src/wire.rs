//! Generated protobuf types: made from `proto/` by `--features codegen --bin generate`, checked in, nothing else here.
#![allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::nursery,
    clippy::unwrap_used,
    clippy::too_many_lines
)]

/// What the pilot tells a proxy.
pub mod mesh {
    /// Version 1.
    pub mod v1 {
        include!("wire/mesh.v1.rs");
    }
    /// The sample application's echo service.
    pub mod app {
        pub mod v1 {
            include!("wire/mesh.app.v1.rs");
            /// The file descriptor set, for reflection.
            pub const DESCRIPTORS: &[u8] = include_bytes!("wire/echo.binpb");
        }
    }
}

/// Envoy's discovery protocol (a subset).
pub mod envoy {
    pub mod config {
        pub mod core {
            pub mod v3 {
                include!("wire/envoy.config.core.v3.rs");
            }
        }
    }
    pub mod service {
        pub mod discovery {
            pub mod v3 {
                include!("wire/envoy.service.discovery.v3.rs");
            }
        }
    }
}

/// google.rpc (a subset).
pub mod google {
    pub mod rpc {
        include!("wire/google.rpc.rs");
    }
}

/// Istio's certificate service.
pub mod istio {
    pub mod v1 {
        pub mod auth {
            include!("wire/istio.v1.auth.rs");
        }
    }
}
