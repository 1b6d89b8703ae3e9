//! The gRPC side for the other replicas of the pilot: how objects stand with our proxies. In: callers that have proved to
//! be a pilot. Out: the counts that the leader adds to its own.

use std::hash::{DefaultHasher, Hasher as _};
use std::sync::Arc;

use mesh_proto::model::SpiffeId;
use mesh_proto::runtime::grpc::PeerIdentity;
use mesh_proto::wire::mesh::v1::replicas_server::{Replicas, ReplicasServer};
use mesh_proto::wire::mesh::v1::{StandingRequest, StandingResponse};
use prost::Message as _;
use tonic::{Request, Response, Status};

/// The service.
pub struct Standings {
    status: Arc<crate::status::Status>,
    /// Who may ask.
    us: SpiffeId,
}

impl Standings {
    /// The service for tonic's routes, for callers of the identity `us`.
    pub fn service(status: Arc<crate::status::Status>, us: SpiffeId) -> ReplicasServer<Self> {
        ReplicasServer::new(Self { status, us })
    }
}

#[tonic::async_trait]
impl Replicas for Standings {
    async fn standing(
        &self,
        request: Request<StandingRequest>,
    ) -> Result<Response<StandingResponse>, Status> {
        let peer = request.extensions().get::<PeerIdentity>().and_then(|peer| peer.0.as_ref());
        if peer != Some(&self.us) {
            let peer = peer.map_or_else(|| "nobody known".to_owned(), ToString::to_string);
            return Err(Status::permission_denied(format!("peer is {peer}, expected {}, a pilot", self.us)));
        }
        Ok(Response::new(answer(self.status.standing(), request.get_ref().known)))
    }
}

/// Everything, or nothing where the caller has it already.
fn answer(objects: Vec<mesh_proto::wire::mesh::v1::ObjectStanding>, known: u64) -> StandingResponse {
    let mut whole = StandingResponse { version: 0, objects };
    let mut hasher = DefaultHasher::new();
    hasher.write(&whole.encode_to_vec());
    // 0 is for callers that know nothing.
    whole.version = hasher.finish().max(1);
    if whole.version == known {
        whole.objects.clear();
    }
    whole
}

#[cfg(test)]
mod tests {
    use mesh_proto::wire::mesh::v1::ObjectStanding;

    use super::*;

    #[test]
    fn what_is_known_is_not_told_again() {
        let objects = vec![ObjectStanding { acked: 1, ..ObjectStanding::default() }];
        let first = answer(objects.clone(), 0);
        assert_eq!(first.objects, objects);
        let again = answer(objects, first.version);
        assert_eq!((again.version, again.objects.len()), (first.version, 0));
        assert_ne!(answer(Vec::new(), first.version).version, first.version, "nothing left is news as well");
    }
}
