//! The local mesh (`meshctl up`): the supervisor is the kubelet of one machine.

pub mod api;
pub mod client;
pub mod context;
pub mod dir;
pub mod environment;
pub mod example;
pub mod files;
pub mod http;
pub mod hub;
pub mod instance;
pub mod journal;
pub mod listener;
pub mod names;
pub mod net;
pub mod netns;
pub mod pilot;
pub mod plan;
pub mod probe;
pub mod process;
pub mod replicas;
pub mod routes;
pub mod supervisor;
