//! What every server of the mesh shares.
//!
//! [`identity`] holds who we are and whom we trust, [`tls`] turns that into TLS settings that check SPIFFE identities,
//! [`grpc`] speaks and serves gRPC over them, [`certificates`] obtains and rotates our certificate. [`drain`],
//! [`shutdown`], [`log`] and [`crypto`] are the rest of a process; [`operator`] says who may change it.

pub mod certificates;
pub mod crypto;
pub mod drain;
pub mod grpc;
pub mod identity;
pub mod log;
pub mod operator;
pub mod shutdown;
pub mod svid;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod tls;

#[cfg(test)]
mod tests;
