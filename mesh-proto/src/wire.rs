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

        impl Listener {
            /// Every backend that it leads to: what pilot and proxy take for its dependents.
            pub fn backends(&self) -> impl Iterator<Item = &WeightedBackend> {
                let inside = self.tls_servers.iter().filter_map(|server| match &server.action {
                    Some(tls_server::Action::Terminate(inside)) => Some(inside),
                    Some(tls_server::Action::Forward(_)) | None => None,
                });
                let passed = self.tls_servers.iter().filter_map(|server| match &server.action {
                    Some(tls_server::Action::Forward(rule)) => Some(rule),
                    Some(tls_server::Action::Terminate(_)) | None => None,
                });
                let hosts = self.virtual_hosts.iter().chain(inside.clone().flat_map(|i| &i.virtual_hosts));
                let tcp = self.tcp.iter().chain(inside.flat_map(|i| &i.tcp)).chain(passed);
                let tables = hosts.filter_map(|host| host.table.as_ref());
                let routes = tables.flat_map(|table| &table.rules).filter_map(|rule| match &rule.action {
                    Some(rule::Action::Route(route)) => Some(route),
                    _ => None,
                });
                routes.flat_map(|route| &route.backends).chain(tcp.flat_map(|rule| &rule.backends))
            }
        }

        impl std::fmt::Debug for Secret {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct("Secret").finish_non_exhaustive()
            }
        }
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

/// Envoy's discovery and external authorization (subsets).
pub mod envoy {
    pub mod config {
        pub mod core {
            pub mod v3 {
                include!("wire/envoy.config.core.v3.rs");
            }
        }
    }
    pub mod r#type {
        pub mod v3 {
            include!("wire/envoy.r#type.v3.rs");
        }
    }
    pub mod service {
        pub mod auth {
            pub mod v3 {
                include!("wire/envoy.service.auth.v3.rs");
            }
        }
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
