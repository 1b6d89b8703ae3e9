//! The local mesh (`meshctl up`): the supervisor is the kubelet of one machine.

pub mod api;
pub mod client;
