//! The control plane: `source → index → snapshot → compile → push`. One way; each stage reads only the one before it.

pub mod admin;
pub mod app;
pub mod cluster;
pub mod compile;
pub mod config;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
pub mod index;
pub mod keys;
pub mod mesh_config;
pub mod push;
pub mod snapshot;
pub mod source;
pub mod status;
mod trust;
pub mod validate;
pub mod webhook;

pub use app::run;
pub use config::Config;
