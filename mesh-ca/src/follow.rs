//! `mesh.v1.Authority`: a pilot follows what everybody is to be told, and says how far that has come.
//!
//! In: callers that have proved to be a pilot. Out: the whole bundle at once, and again at each change.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt as _};
use mesh_proto::model::SpiffeId;
use mesh_proto::model::identity::is_kubernetes_name;
use mesh_proto::runtime::drain;
use mesh_proto::runtime::grpc::PeerIdentity;
use mesh_proto::wire::mesh::v1::authority_server::{Authority, AuthorityServer};
use mesh_proto::wire::mesh::v1::{BundleReport, BundleState};
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status, Streaming};

use crate::keeper::Keeper;
use crate::rotation::Report;

/// The largest report.
const MAX_REPORT: usize = 64 << 10;

/// The service.
#[derive(Debug)]
pub struct Follow {
    keeper: Arc<Keeper>,
    /// Who may call.
    pilot: SpiffeId,
    /// The end of every stream.
    drain: drain::Watch,
}

impl Follow {
    /// The service for callers of the identity `pilot`.
    #[must_use]
    pub fn service(keeper: Arc<Keeper>, pilot: SpiffeId, drain: drain::Watch) -> AuthorityServer<Self> {
        AuthorityServer::new(Self { keeper, pilot, drain }).max_decoding_message_size(MAX_REPORT)
    }
}

#[tonic::async_trait]
impl Authority for Follow {
    type FollowStream = Pin<Box<dyn Stream<Item = Result<BundleState, Status>> + Send>>;

    async fn follow(
        &self,
        request: Request<Streaming<BundleReport>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let peer = request.extensions().get::<PeerIdentity>().and_then(|peer| peer.0.as_ref());
        if peer != Some(&self.pilot) {
            let peer = peer.map_or_else(|| "nobody known".to_owned(), ToString::to_string);
            tracing::warn!(peer, "refused: only a pilot follows the trust bundle");
            return Err(Status::permission_denied(format!(
                "peer is {peer}, expected {}, a pilot",
                self.pilot
            )));
        }
        let keeper = self.keeper.clone();
        let mut reports = request.into_inner();
        let drain = self.drain.clone();
        let told = WatchStream::new(self.keeper.told())
            .map(|told| Ok(told.wire()))
            .take_until(async move { drain.draining().await });
        // The reports end with the stream, and the stream with them: one task for both.
        let heard = futures_util::stream::poll_fn(move |context| {
            loop {
                match futures_util::ready!(reports.poll_next_unpin(context)) {
                    Some(Ok(report)) => hear(&keeper, report),
                    Some(Err(_)) | None => {
                        return std::task::Poll::Ready(None::<Result<BundleState, Status>>);
                    }
                }
            }
        });
        let both = Both { told: told.boxed(), heard: Box::pin(heard) };
        Ok(Response::new(Box::pin(both)))
    }
}

fn hear(keeper: &Keeper, report: BundleReport) {
    if !is_kubernetes_name(&report.pilot) {
        return tracing::warn!("a pilot's report without its name");
    }
    let BundleReport { pilot, sequence, proxies, behind, waiting, ended } = report;
    keeper.report(&pilot, Report { sequence, proxies, behind, waiting, ended, at: 0 });
}

type States = Pin<Box<dyn Stream<Item = Result<BundleState, Status>> + Send>>;

/// What is told, for as long as the pilot is there to report.
struct Both {
    told: States,
    heard: States,
}

impl Stream for Both {
    type Item = Result<BundleState, Status>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        if self.heard.poll_next_unpin(context).is_ready() {
            return std::task::Poll::Ready(None);
        }
        self.told.poll_next_unpin(context)
    }
}
