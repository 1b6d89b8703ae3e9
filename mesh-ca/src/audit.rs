//! The audit log: one line for each certificate that was given or refused, and for each command of an operator.
//!
//! Lines have the target `audit` and named fields: with `MESH_LOG_FORMAT=json` each is one JSON object. They are written
//! whatever `MESH_LOG` says, unless it says something of `audit` itself.

use std::time::SystemTime;

use mesh_proto::model::SpiffeId;

use crate::authority::Issued;

/// What is known of who asks; empty: not known.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The address that the call came from.
    pub peer: &'a str,
    /// Who it is, once that is proven.
    pub identity: Option<&'a SpiffeId>,
    /// `token`, `certificate`, both or neither.
    pub proof: &'static str,
    /// The pod that its token was made for.
    pub pod: &'a str,
}

impl<'a> Asked<'a> {
    /// Nothing but where it comes from and what it showed.
    #[must_use]
    pub fn from(peer: &'a str, token: bool, certificate: bool) -> Self {
        let proof = match (token, certificate) {
            (true, true) => "token and certificate",
            (true, false) => "token",
            (false, true) => "certificate",
            (false, false) => "none",
        };
        Self { peer, identity: None, proof, pod: "" }
    }

    fn identity(&self) -> &str {
        self.identity.map_or("", SpiffeId::as_str)
    }

    /// A certificate was given. `root` names the root that it leads to.
    pub fn issued(&self, issued: &Issued, root: &str, now: SystemTime) {
        let Self { peer, proof, pod, .. } = *self;
        let identity = self.identity();
        let ttl = issued.not_after.duration_since(now).map_or(0, |left| left.as_secs());
        let serial = issued.serial.as_str();
        tracing::info!(target: "audit", event = "issued", identity, san = identity, serial, ttl, root, peer, proof, pod);
    }

    /// Nothing was given. `code` is the status of the answer.
    pub fn refused(&self, code: tonic::Code, why: &str) {
        let Self { peer, proof, pod, .. } = *self;
        let identity = self.identity();
        tracing::warn!(target: "audit", event = "refused", identity, peer, proof, pod, ?code, why);
    }
}

/// An operator's command was done, or not.
pub fn command(what: &str, by: &str, refused: Option<&str>) {
    match refused {
        None => tracing::info!(target: "audit", event = "command", what, by),
        Some(why) => tracing::warn!(target: "audit", event = "command refused", what, by, why),
    }
}
