//! One question to a provider: as to any service of the mesh, by its cluster, in bounded time, with a bounded answer.
//!
//! In: a request, which can be sent again. Out: what came back whole. An endpoint that cannot be reached is not asked again.

use std::rc::Rc;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, response};
use mesh_proto::model::Protocol as Declared;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::Provider;
use super::answer::NoAnswer;
use crate::cluster::{ClusterView, Endpoint, Moment, NoEndpoint, PickContext, Picked, Seen};
use crate::http::{Body, Frame};
use crate::outbound::attempt::{is_stale, seen};
use crate::pool::{SendError, Target};
use crate::tls::MeshAlpn;
use crate::worker::Worker;
use crate::worker::targets::Way;

/// Endpoints that are tried for one question.
const ATTEMPTS: usize = 3;
/// A longer answer is none.
const MAX_ANSWER: usize = 1 << 20;

/// A whole answer.
pub(super) struct Received {
    pub(super) head: response::Parts,
    pub(super) body: Bytes,
    pub(super) trailers: Option<HeaderMap>,
}

/// Asks, within the provider's timeout.
pub(super) async fn call(
    worker: &Rc<Worker>,
    provider: &Provider,
    grpc: bool,
    head: &Parts,
    body: &Bytes,
) -> Result<Received, NoAnswer> {
    let asking = attempts(worker, provider, grpc, head, body);
    match tokio::time::timeout(provider.timeout, asking).await {
        Ok(received) => received,
        Err(_) => Err(NoAnswer::Failed(format!("no answer within {:?}", provider.timeout))),
    }
}

async fn attempts(
    worker: &Rc<Worker>,
    provider: &Provider,
    grpc: bool,
    head: &Parts,
    body: &Bytes,
) -> Result<Received, NoAnswer> {
    let failed = |why: String| NoAnswer::Failed(why);
    let mut tried: SmallVec<[Arc<Endpoint>; 2]> = SmallVec::new();
    let mut left = ATTEMPTS;
    loop {
        let absent = || failed(NoEndpoint::ClusterAbsent(provider.cluster.name().clone()).to_string());
        let view = provider.cluster.load_full().ok_or_else(absent)?;
        let (picked, target) = target(worker, &view, grpc, &tried).map_err(failed)?;
        let request = Request::from_parts(head.clone(), Body::full(body.clone()));
        let sent = Instant::now();
        left -= 1;
        match worker.pool.send(&target, request).await {
            Ok(response) => {
                let received = receive(response).await;
                let seen = received.as_ref().map_or(Seen::Failed, |r| Seen::Status(r.head.status.as_u16()));
                picked.saw(seen, sent, Instant::now());
                return received;
            }
            Err(SendError { kind, .. }) => {
                // A question changes nothing: it may be asked again whatever its method.
                let stale = is_stale(&kind, &Method::GET);
                if let Some(seen) = seen(&kind).filter(|_| !stale) {
                    picked.saw(seen, sent, Instant::now());
                }
                if left == 0 || !(stale || kind.is_safe_to_repeat()) {
                    return Err(failed(kind.to_string()));
                }
                if !stale {
                    tried.push(picked.endpoint().clone());
                }
            }
        }
    }
}

/// Chooses an endpoint, and how it is reached: the pair lives until the answer is there.
fn target(
    worker: &Rc<Worker>,
    view: &ClusterView,
    grpc: bool,
    tried: &[Arc<Endpoint>],
) -> Result<(Picked, Rc<Target>), String> {
    let context = PickContext { hash: None, tried, worker: worker.index, now: Moment::now() };
    let picked = worker.random(|rng| view.pick(None, &context, rng)).map_err(|why| why.to_string())?;
    let declared = matches!(view.protocol(), Declared::Http2 | Declared::Grpc);
    let carries = if grpc || declared { MeshAlpn::Http2 } else { MeshAlpn::Http1 };
    let me = worker.me().map_err(|why| why.to_string())?;
    let way = Way { carries, greeting: me.greeting.as_ref(), host: None };
    let target = worker.targets.of(view, None, picked.endpoint(), &way).map_err(|why| why.to_string())?;
    Ok((picked, target))
}

async fn receive(response: Response<Body>) -> Result<Received, NoAnswer> {
    let (head, mut body) = response.into_parts();
    let (mut content, mut trailers) = (BytesMut::new(), None);
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(Frame::Data(data)) => {
                if content.len() + data.len() > MAX_ANSWER {
                    return Err(NoAnswer::Failed(format!("an answer of more than {MAX_ANSWER} bytes")));
                }
                content.extend_from_slice(&data);
            }
            Ok(Frame::Trailers(fields)) => trailers = Some(fields),
            Err(error) => return Err(NoAnswer::Failed(error.to_string())),
        }
    }
    Ok(Received { head, body: content.freeze(), trailers })
}
