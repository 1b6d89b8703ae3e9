//! The local mesh (`meshctl up`): the supervisor is the kubelet of one machine.

pub mod api;
pub mod client;
pub mod dir;
pub mod files;
pub mod journal;
pub mod net;
pub mod plan;
pub mod process;
