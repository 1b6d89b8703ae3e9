//! An API server in memory: answers discovery, lists and watches as it is told to.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use kube::Client;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::UnboundedReceiverStream;

type Answer = UnsyncBoxBody<bytes::Bytes, std::io::Error>;

/// Everything that it serves, by plural.
#[derive(Default)]
struct State {
    /// `group/version` to `(kind, plural)`.
    served: BTreeMap<String, Vec<(String, String)>>,
    objects: BTreeMap<String, Vec<Value>>,
    /// Open watches.
    watches: BTreeMap<String, Vec<mpsc::UnboundedSender<Value>>>,
    /// It answers nothing but errors.
    down: bool,
    /// The watches that begin now are answered with this code once.
    refuse_watch: BTreeMap<String, u16>,
    lists: BTreeMap<String, usize>,
}

/// The API server.
#[derive(Clone, Default)]
pub(super) struct Fake(Arc<Mutex<State>>);

impl Fake {
    /// A client of it.
    pub(super) fn client(&self) -> Client {
        let fake = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let answer = fake.answer(&request);
            async move { answer }
        });
        Client::new(service, "default")
    }

    /// It serves a kind.
    pub(super) fn serve(&self, group_version: &str, kind: &str, plural: &str) {
        let mut state = self.0.lock();
        let resources = state.served.entry(group_version.to_owned()).or_default();
        resources.push((kind.to_owned(), plural.to_owned()));
    }

    /// An object is there, without anybody being told.
    pub(super) fn put(&self, plural: &str, object: Value) {
        let mut state = self.0.lock();
        let objects = state.objects.entry(plural.to_owned()).or_default();
        objects.retain(|known| known["metadata"]["name"] != object["metadata"]["name"]);
        objects.push(object);
    }

    /// All objects of a kind are gone, without anybody being told.
    pub(super) fn clear(&self, plural: &str) {
        self.0.lock().objects.remove(plural);
    }

    /// Tells all watches of a kind.
    pub(super) fn tell(&self, plural: &str, event: &Value) {
        let state = self.0.lock();
        for watch in state.watches.get(plural).into_iter().flatten() {
            let _ = watch.send(event.clone());
        }
    }

    /// Ends all connections; while it is down nobody gets an answer.
    pub(super) fn set_down(&self, down: bool) {
        let mut state = self.0.lock();
        state.down = down;
        state.watches.clear();
    }

    /// The next watch of a kind is refused.
    pub(super) fn refuse_watch(&self, plural: &str, code: u16) {
        let mut state = self.0.lock();
        state.refuse_watch.insert(plural.to_owned(), code);
        state.watches.remove(plural);
    }

    /// How often a kind was listed.
    pub(super) fn lists(&self, plural: &str) -> usize {
        self.0.lock().lists.get(plural).copied().unwrap_or_default()
    }

    fn answer(&self, request: &Request<Body>) -> Result<Response<Answer>, std::io::Error> {
        let mut state = self.0.lock();
        if state.down {
            return Err(std::io::Error::other("connection refused"));
        }
        let path = request.uri().path().trim_start_matches("/apis/").trim_start_matches("/api/");
        let (group_version, plural) = match path.split('/').collect::<Vec<_>>()[..] {
            ["v1", plural] => ("v1".to_owned(), Some(plural.to_owned())),
            [group, version] => (format!("{group}/{version}"), None),
            [group, version, plural] => (format!("{group}/{version}"), Some(plural.to_owned())),
            _ => return Ok(failure(404)),
        };
        let query = request.uri().query().unwrap_or_default();
        match plural {
            None => Ok(state.discovery(&group_version)),
            Some(plural) if query.contains("watch=true") => Ok(state.watch(plural)),
            Some(plural) => Ok(state.list(plural)),
        }
    }
}

impl State {
    fn discovery(&self, group_version: &str) -> Response<Answer> {
        let Some(resources) = self.served.get(group_version) else { return failure(404) };
        let resources = resources.iter().map(|(kind, plural)| {
            json!({"name": plural, "kind": kind, "namespaced": true, "singularName": "", "verbs": ["list", "watch"]})
        });
        let resources: Vec<_> = resources.collect();
        ok(&json!({"kind": "APIResourceList", "groupVersion": group_version, "resources": resources}))
    }

    fn list(&mut self, plural: String) -> Response<Answer> {
        let items = self.objects.get(&plural).cloned().unwrap_or_default();
        *self.lists.entry(plural).or_default() += 1;
        ok(&json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items}))
    }

    fn watch(&mut self, plural: String) -> Response<Answer> {
        if let Some(code) = self.refuse_watch.remove(&plural) {
            return failure(code);
        }
        let (events, lines) = mpsc::unbounded_channel::<Value>();
        self.watches.entry(plural).or_default().push(events);
        let lines = UnboundedReceiverStream::new(lines);
        let frames = lines.map(|line| Ok::<_, std::io::Error>(Frame::data(format!("{line}\n").into())));
        Response::new(StreamBody::new(frames).boxed_unsync())
    }
}

fn ok(value: &Value) -> Response<Answer> {
    Response::new(Full::from(value.to_string()).map_err(|never| match never {}).boxed_unsync())
}

fn failure(code: u16) -> Response<Answer> {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
        "reason": if code == 410 { "Expired" } else { "" }, "message": format!("answer {code}")});
    let mut response = ok(&status);
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap();
    response
}
