//! One kind's task: discover, list, watch, and again. Out: what it saw, for [`super::merge`].

use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt as _;
use kube::runtime::watcher::{self, Event as Watch, watcher};
use kube::{Api, Client};
use mesh_proto::crd::Kind;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::kinds::{NotServed, Watched};
use super::seen::{Configuration, Namespaces, Nodes, Pods, Secrets, Seen, Services, Shape, Slices};

/// A page of a listing.
const PAGE: u32 = 500;
/// A watch is begun anew after this many seconds, where it was: a dead connection is noticed by then.
const WATCH_SECONDS: u32 = 60;
/// Waits after failures: an API server that is back is found soon, one that is ill is not asked all the time.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// How often to look for a kind that is not served.
const MISSING: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));
/// Kinds of Secrets that nobody makes a TLS server of.
const OTHER_SECRETS: &str = "type!=helm.sh/release.v1,type!=kubernetes.io/service-account-token,\
                             type!=kubernetes.io/dockerconfigjson,type!=kubernetes.io/dockercfg,\
                             type!=bootstrap.kubernetes.io/token";

/// What a task saw.
#[derive(Debug)]
pub enum Sighting {
    /// A listing begins.
    Init,
    /// This object is there.
    Apply {
        /// Empty for kinds that live in none.
        namespace: String,
        /// Its name.
        name: String,
        /// The narrowed object.
        value: Value,
    },
    /// This object is gone.
    Gone {
        /// Empty for kinds that live in none.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// The listing is done.
    InitDone,
    /// The kind is not served: why.
    Missing(String),
    /// It cannot be read for now: why.
    Failing(String),
}

type Sender = mpsc::Sender<(Watched, Sighting)>;

/// Starts the task of a kind. It ends when nobody listens.
pub fn spawn(tasks: &mut JoinSet<()>, client: Client, watched: Watched, seen: Sender) {
    let task = Task { client, watched, seen };
    match watched {
        Watched::Node => tasks.spawn(task.run::<Nodes>()),
        Watched::EndpointSlice => tasks.spawn(task.run::<Slices>()),
        Watched::Object(Kind::Pod) => tasks.spawn(task.run::<Pods>()),
        Watched::Object(Kind::Service) => tasks.spawn(task.run::<Services>()),
        Watched::Object(Kind::Secret) => tasks.spawn(task.run::<Secrets>()),
        Watched::Object(Kind::Namespace) => tasks.spawn(task.run::<Namespaces>()),
        Watched::Object(_) => tasks.spawn(task.run::<Configuration>()),
    };
}

struct Task {
    client: Client,
    watched: Watched,
    seen: Sender,
}

/// Nobody listens any more.
struct Closed;

impl Task {
    async fn run<S: Shape>(self) {
        let mut missing = Backoff::new(MISSING);
        let mut failing = Backoff::new(BACKOFF);
        loop {
            let (told, wait) = match self.watched.discover(&self.client).await {
                Ok(resource) => {
                    missing = Backoff::new(MISSING);
                    let api = Api::<Seen<S>>::all_with(self.client.clone(), &resource);
                    match self.watch(api, &resource.api_version).await {
                        Ok(why) => (Sighting::Failing(why), failing.next()),
                        Err(Closed) => return,
                    }
                }
                Err(error @ NotServed::Missing { .. }) => {
                    (Sighting::Missing(error.to_string()), missing.next())
                }
                Err(NotServed::Api(error)) => (Sighting::Failing(error.to_string()), failing.next()),
            };
            if self.tell(told).await.is_err() {
                return;
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// Until it must be begun anew: why.
    async fn watch<S: Shape>(&self, api: Api<Seen<S>>, api_version: &str) -> Result<String, Closed> {
        let mut settings = watcher::Config::default().page_size(PAGE).timeout(WATCH_SECONDS);
        if self.watched == Watched::Object(Kind::Secret) {
            settings = settings.fields(OTHER_SECRETS);
        }
        let mut events = pin!(watcher(api, settings));
        let mut backoff = Backoff::new(BACKOFF);
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    backoff = Backoff::new(BACKOFF);
                    self.tell(self.sighting(event, api_version)).await?;
                }
                Err(error) if is_over(&error) => return Ok(error.to_string()),
                Err(error) => {
                    tracing::debug!(kind = %self.watched, %error, "a watch has failed");
                    self.tell(Sighting::Failing(error.to_string())).await?;
                    tokio::time::sleep(backoff.next()).await;
                }
            }
        }
        Ok("the watch has ended".to_owned())
    }

    fn sighting<S: Shape>(&self, event: Watch<Seen<S>>, api_version: &str) -> Sighting {
        let (Watch::Apply(object) | Watch::InitApply(object)) = event else {
            return match event {
                Watch::Init => Sighting::Init,
                Watch::InitDone => Sighting::InitDone,
                Watch::Delete(object) => {
                    let (namespace, name) = names(&object);
                    Sighting::Gone { namespace, name }
                }
                Watch::Apply(_) | Watch::InitApply(_) => unreachable!("taken apart above"),
            };
        };
        let (namespace, name) = names(&object);
        let mut value = object.value;
        if self.watched == Watched::Object(Kind::Secret) && !Secrets::matters(&value) {
            return Sighting::Gone { namespace, name };
        }
        // Lists of built-in kinds leave these out.
        if let Value::Object(fields) = &mut value {
            fields.insert("apiVersion".to_owned(), api_version.into());
            fields.insert("kind".to_owned(), self.watched.kind_name().into());
        }
        Sighting::Apply { namespace, name, value }
    }

    async fn tell(&self, sighting: Sighting) -> Result<(), Closed> {
        self.seen.send((self.watched, sighting)).await.map_err(|_| Closed)
    }
}

fn names<S>(object: &Seen<S>) -> (String, String) {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    (text(&object.metadata.namespace), text(&object.metadata.name))
}

/// The kind is not served any more, or not in this version; or the watch cannot go on where it was, and kube would try
/// that for ever (it takes 410 only as an event of a watch).
fn is_over(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => matches!(status.code, 404 | 410),
        _ => false,
    }
}

/// Doubling waits.
struct Backoff {
    next: Duration,
    first: Duration,
    longest: Duration,
}

impl Backoff {
    fn new((first, longest): (Duration, Duration)) -> Self {
        Self { next: first, first, longest }
    }

    fn next(&mut self) -> Duration {
        let wait = self.next;
        self.next = (self.next * 2).clamp(self.first, self.longest);
        wait
    }
}
