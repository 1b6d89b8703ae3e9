//! Names that cannot be wrong: each is parsed once, at the edge, and then passed around as a type.

pub mod authorization;
pub mod duration;
pub mod host_port;
pub mod identity;
pub mod jwks;
pub mod protocol;
pub mod proxy_config;
pub mod resource;
pub mod tls;

pub use host_port::HostPort;
pub use identity::{InvalidIdentity, SpiffeId, TrustDomain};
pub use protocol::Protocol;
pub use resource::{Kind, ResourceName};
pub use tls::TlsParameters;
