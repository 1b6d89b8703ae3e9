//! The gRPC side: `mesh.app.v1.Echo`, reflection (v1 and v1alpha) and health.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use mesh_proto::wire::envoy::service::auth::v3::authorization_server::AuthorizationServer;
use mesh_proto::wire::mesh::app::v1 as wire;
use tokio_stream::{Stream, StreamExt as _};
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};
use wire::echo_server::{Echo, EchoServer};
use wire::{EchoRequest, EchoResponse};

use super::authorizer::ByGrpc;
use super::{App, answer};

/// The most answers that one Count gives.
const MAX_COUNT: u32 = 10_000;
/// The longest pause between two answers of Count.
const MAX_INTERVAL_MILLIS: u32 = 60_000;

type Answers = Pin<Box<dyn Stream<Item = Result<EchoResponse, Status>> + Send>>;

/// All gRPC services of the application as one tower service.
pub async fn routes(app: Arc<App>) -> Routes {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<EchoServer<Service>>().await;
    let reflection = || {
        tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(wire::DESCRIPTORS)
    };
    let v1 = reflection().build_v1().expect("the descriptors are generated");
    let v1alpha = reflection().build_v1alpha().expect("the descriptors are generated");
    let asked = app.authorizer.then(|| AuthorizationServer::new(ByGrpc));
    let routes = Routes::new(EchoServer::new(Service(app)));
    let routes = match asked {
        Some(authorizer) => routes.add_service(authorizer),
        None => routes,
    };
    routes.add_service(health).add_service(v1).add_service(v1alpha).prepare()
}

/// The echo service of one application.
struct Service(Arc<App>);

/// What stays the same over the answers of one call.
#[derive(Clone)]
struct Seen(EchoResponse);

impl Seen {
    fn of<T>(app: &App, request: &Request<T>) -> Self {
        let headers = request.metadata().clone().into_headers();
        Self(EchoResponse {
            message: String::new(),
            instance: app.whoami.instance.clone(),
            workload: app.whoami.workload.clone(),
            version: app.whoami.version.clone(),
            namespace: app.whoami.namespace.clone(),
            peer: answer::peer(&headers).unwrap_or_default(),
            headers: answer::headers(&headers),
        })
    }

    fn say(&self, message: String) -> EchoResponse {
        EchoResponse { message, ..self.0.clone() }
    }
}

#[tonic::async_trait]
impl Echo for Service {
    type CountStream = Answers;
    type ChatStream = Answers;

    async fn echo(&self, request: Request<EchoRequest>) -> Result<Response<EchoResponse>, Status> {
        let seen = Seen::of(&self.0, &request);
        Ok(Response::new(seen.say(request.into_inner().message)))
    }

    async fn count(&self, request: Request<EchoRequest>) -> Result<Response<Answers>, Status> {
        let seen = Seen::of(&self.0, &request);
        let EchoRequest { message, count, interval_millis } = request.into_inner();
        if count > MAX_COUNT || interval_millis > MAX_INTERVAL_MILLIS {
            return Err(Status::invalid_argument(format!(
                "count is at most {MAX_COUNT} and interval_millis at most {MAX_INTERVAL_MILLIS}"
            )));
        }
        let pause = Duration::from_millis(u64::from(interval_millis));
        let numbers = tokio_stream::iter(0..count.max(1));
        let answers = numbers.then(move |number| {
            let answer = seen.say(format!("{message} {number}"));
            async move {
                if number > 0 && !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
                Ok(answer)
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn collect(
        &self,
        request: Request<Streaming<EchoRequest>>,
    ) -> Result<Response<EchoResponse>, Status> {
        let seen = Seen::of(&self.0, &request);
        let mut messages = request.into_inner();
        let mut all = String::new();
        while let Some(next) = messages.message().await? {
            if all.len() + next.message.len() > 1 << 20 {
                return Err(Status::resource_exhausted("more than 1 MiB of messages"));
            }
            if !all.is_empty() {
                all.push(' ');
            }
            all.push_str(&next.message);
        }
        Ok(Response::new(seen.say(all)))
    }

    async fn chat(&self, request: Request<Streaming<EchoRequest>>) -> Result<Response<Answers>, Status> {
        let seen = Seen::of(&self.0, &request);
        let answers = request.into_inner().map(move |next| next.map(|message| seen.say(message.message)));
        Ok(Response::new(Box::pin(answers)))
    }
}
