//! The gRPC side: one `DeltaAggregatedResources` stream per proxy.
//!
//! In: verified identities and requests. Out: what the hub says may be sent. At most one response is under way, so a slow
//! proxy holds back nothing but itself.

use std::sync::Arc;
use std::time::Duration;

use mesh_proto::discovery::{MORE_FOLLOWS, TYPE_URL};
use mesh_proto::model::SpiffeId;
use mesh_proto::runtime::grpc::PeerIdentity;
use mesh_proto::wire::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use mesh_proto::wire::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource,
};
use prost_types::Any;
use tokio::sync::{Notify, broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::hub::{Admission, Hub, StreamId};
use super::node::Node;
use super::stream::Outgoing;
use crate::status::LiveEvent;

/// How long a proxy may take to say who it is.
const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// How long a proxy's pod may take to become known: it may have been started before its Pod object was written.
const UNKNOWN_POD: Duration = Duration::from_secs(5);
/// A request names everything that a proxy holds; gateways hold much.
const MAX_REQUEST: usize = 16 << 20;

/// The discovery service.
pub struct Discovery {
    hub: Arc<Hub>,
    events: broadcast::Sender<LiveEvent>,
}

impl Discovery {
    /// The service for tonic's routes.
    pub fn service(
        hub: Arc<Hub>,
        events: broadcast::Sender<LiveEvent>,
    ) -> AggregatedDiscoveryServiceServer<Self> {
        AggregatedDiscoveryServiceServer::new(Self { hub, events }).max_decoding_message_size(MAX_REQUEST)
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Discovery {
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let identity = request.extensions().get::<PeerIdentity>().and_then(|peer| peer.0.clone());
        let identity =
            identity.ok_or_else(|| Status::unauthenticated("discovery needs a client certificate"))?;
        let (responses, stream) = mpsc::channel(1);
        let proxy = Proxy { hub: self.hub.clone(), events: self.events.clone(), responses };
        tokio::spawn(proxy.serve(request.into_inner(), identity));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// One stream's task.
struct Proxy {
    hub: Arc<Hub>,
    events: broadcast::Sender<LiveEvent>,
    responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
}

/// Leaves the hub however the task ends.
struct Registered {
    hub: Arc<Hub>,
    events: broadcast::Sender<LiveEvent>,
    node: Node,
    id: StreamId,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.hub.disconnect(self.id);
        let _ = self.events.send(LiveEvent::proxy("proxy_disconnected", &self.node));
    }
}

impl Proxy {
    async fn serve(self, mut requests: Streaming<DeltaDiscoveryRequest>, identity: SpiffeId) {
        let first = tokio::time::timeout(FIRST_REQUEST, requests.message()).await;
        let first = match first {
            Ok(Ok(Some(first))) => first,
            Ok(_) => return,
            Err(_) => return self.refuse(Status::deadline_exceeded("no request came")).await,
        };
        let node = match node_of(&first) {
            Ok(node) => node,
            Err(status) => return self.refuse(status).await,
        };
        let (id, wake) = match self.admit(&node, &identity).await {
            Ok(admitted) => admitted,
            Err(status) => {
                tracing::warn!(node = %node.id, %identity, reason = status.message(), "proxy refused");
                return self.refuse(status).await;
            }
        };
        tracing::info!(node = %node.id, %identity, "proxy connected");
        let _ = self.events.send(LiveEvent::proxy("proxy_connected", &node));
        let registered = Registered { hub: self.hub.clone(), events: self.events.clone(), node, id };
        if let Err(status) = self.converse(&registered, &wake, first, &mut requests).await {
            self.refuse(status).await;
        }
    }

    async fn refuse(&self, status: Status) {
        let _ = self.responses.send(Err(status)).await;
    }

    /// Waits for the first listing, and a little for the pod.
    async fn admit(&self, node: &Node, identity: &SpiffeId) -> Result<(StreamId, Arc<Notify>), Status> {
        let mut published = self.hub.published();
        while !self.hub.is_loaded() {
            tokio::select! {
                changed = published.changed() => changed.map_err(|_| Status::unavailable("shutting down"))?,
                () = self.responses.closed() => return Err(Status::cancelled("gone")),
            }
        }
        let known = async {
            loop {
                match self.hub.connect(node.clone(), identity) {
                    Admission::Open(id, wake) => return Ok((id, wake)),
                    Admission::Refused(refusal) => {
                        return Err(Status::permission_denied(refusal.to_string()));
                    }
                    Admission::UnknownPod => {
                        published.changed().await.map_err(|_| Status::unavailable("shutting down"))?;
                    }
                }
            }
        };
        match tokio::time::timeout(UNKNOWN_POD, known).await {
            Ok(result) => result,
            Err(_) => {
                Err(Status::permission_denied(format!("no pod {}/{} is known", node.namespace, node.pod)))
            }
        }
    }

    async fn converse(
        &self,
        registered: &Registered,
        wake: &Notify,
        first: DeltaDiscoveryRequest,
        requests: &mut Streaming<DeltaDiscoveryRequest>,
    ) -> Result<(), Status> {
        let mut request = Some(first);
        loop {
            if let Some(request) = request.take()
                && !self.take(registered, &request)?
            {
                return Err(Status::aborted("another stream of the same pod has taken over"));
            }
            if let Some(outgoing) = self.hub.next(registered.id)
                && self.responses.send(Ok(response(outgoing))).await.is_err()
            {
                return Ok(());
            }
            tokio::select! {
                received = requests.message() => match received {
                    Ok(Some(received)) => request = Some(received),
                    Ok(None) | Err(_) => return Ok(()),
                },
                () = wake.notified() => {
                    if !self.hub.is_open(registered.id) {
                        return Err(Status::aborted("another stream of the same pod has taken over"));
                    }
                }
                () = self.responses.closed() => return Ok(()),
            }
        }
    }

    /// `false`: the stream was replaced.
    fn take(&self, registered: &Registered, request: &DeltaDiscoveryRequest) -> Result<bool, Status> {
        let receipt = self.hub.request(registered.id, request);
        let receipt = receipt.map_err(|error| Status::resource_exhausted(error.to_string()))?;
        let Some(receipt) = receipt else { return Ok(false) };
        for (resource, reason) in &receipt.rejected {
            tracing::warn!(node = %registered.node.id, %resource, %reason, "resource refused by a proxy");
        }
        for trouble in receipt.troubles.iter().flatten() {
            let _ = self.events.send(LiveEvent::trouble(&registered.node, trouble));
        }
        Ok(true)
    }
}

fn node_of(first: &DeltaDiscoveryRequest) -> Result<Node, Status> {
    if !matches!(first.type_url.as_str(), "" | TYPE_URL) {
        return Err(Status::invalid_argument(format!(
            "type_url is {:?}, expected {TYPE_URL:?}",
            first.type_url
        )));
    }
    let id = first.node.as_ref().map_or("", |node| node.id.as_str());
    id.parse().map_err(|error: super::node::InvalidNode| Status::invalid_argument(error.to_string()))
}

fn response(outgoing: Outgoing) -> DeltaDiscoveryResponse {
    let resources = outgoing.resources.iter().map(|encoded| Resource {
        version: encoded.version.to_string(),
        name: encoded.name.to_string(),
        resource: Some(Any {
            type_url: encoded.name.kind.type_url().to_owned(),
            value: encoded.bytes.to_vec(),
        }),
    });
    DeltaDiscoveryResponse {
        system_version_info: if outgoing.more { MORE_FOLLOWS.to_owned() } else { String::new() },
        resources: resources.collect(),
        type_url: TYPE_URL.to_owned(),
        nonce: outgoing.nonce,
        removed_resources: outgoing.removed,
    }
}
