//! An API server of a few objects, in memory: Secrets and ConfigMaps of one namespace, and TokenReviews as told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};

/// What an API server keeps. Cheap to clone; clones are the same.
#[derive(Clone, Default)]
pub(super) struct Fake(Arc<State>);

#[derive(Default)]
struct State {
    /// By path.
    objects: Mutex<BTreeMap<String, Value>>,
    /// What a TokenReview of each token says.
    tokens: Mutex<BTreeMap<String, Value>>,
    /// What every call gets instead of an answer: a status code, or silence (0).
    broken: Mutex<Option<u16>>,
    versions: AtomicU64,
    reviews: AtomicU64,
}

impl Fake {
    pub(super) fn client(&self) -> Client {
        let fake = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let fake = fake.clone();
            async move { Ok::<_, std::convert::Infallible>(fake.answer(request).await) }
        });
        Client::new(service, "default")
    }

    /// What a TokenReview of `token` says from now on.
    pub(super) fn token(&self, token: &str, status: Value) {
        self.0.tokens.lock().insert(token.to_owned(), status);
    }

    /// From now on every call gets `status`, with 0 no answer at all.
    pub(super) fn break_with(&self, status: Option<u16>) {
        *self.0.broken.lock() = status;
    }

    pub(super) fn reviews(&self) -> u64 {
        self.0.reviews.load(Ordering::Relaxed)
    }

    /// The object at `kind/name` of istio-system.
    pub(super) fn get(&self, at: &str) -> Option<Value> {
        self.0.objects.lock().get(&path(at)).cloned()
    }

    pub(super) fn put(&self, at: &str, object: Value) {
        let object = self.versioned(object);
        self.0.objects.lock().insert(path(at), object);
    }

    pub(super) fn delete(&self, at: &str) {
        self.0.objects.lock().remove(&path(at));
    }

    fn versioned(&self, mut object: Value) -> Value {
        let version = self.0.versions.fetch_add(1, Ordering::Relaxed) + 1;
        object["metadata"]["resourceVersion"] = version.to_string().into();
        object
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let broken = *self.0.broken.lock();
        match broken {
            Some(0) => std::future::pending().await,
            Some(code) => return failure(code, "InternalError", "told to fail"),
            None => {}
        }
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let body: Value = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
        let path = head.uri.path();
        if path.ends_with("/tokenreviews") {
            return self.review(body);
        }
        match head.method {
            Method::GET => match self.0.objects.lock().get(path) {
                Some(object) => reply(200, object),
                None => failure(404, "NotFound", path),
            },
            Method::POST => {
                let name = body["metadata"]["name"].as_str().unwrap();
                let mut objects = self.0.objects.lock();
                let at = format!("{path}/{name}");
                if objects.contains_key(&at) {
                    return failure(409, "AlreadyExists", name);
                }
                let object = self.versioned(body);
                objects.insert(at, object.clone());
                reply(201, &object)
            }
            Method::PUT => {
                let mut objects = self.0.objects.lock();
                match objects.get(path) {
                    Some(old)
                        if old["metadata"]["resourceVersion"] == body["metadata"]["resourceVersion"] =>
                    {
                        let object = self.versioned(body);
                        objects.insert(path.to_owned(), object.clone());
                        reply(200, &object)
                    }
                    Some(_) => failure(409, "Conflict", path),
                    None => failure(404, "NotFound", path),
                }
            }
            _ => failure(405, "MethodNotAllowed", path),
        }
    }

    fn review(&self, mut review: Value) -> Response<Body> {
        self.0.reviews.fetch_add(1, Ordering::Relaxed);
        assert_eq!(review["spec"]["audiences"], json!(["istio-ca"]));
        let token = review["spec"]["token"].as_str().unwrap_or_default();
        let unknown = json!({ "authenticated": false, "error": "[invalid bearer token, unknown]" });
        review["status"] = self.0.tokens.lock().get(token).cloned().unwrap_or(unknown);
        reply(201, &review)
    }
}

fn path(at: &str) -> String {
    format!("/api/v1/namespaces/istio-system/{at}")
}

fn reply(status: u16, object: &Value) -> Response<Body> {
    let body = Body::from(object.to_string().into_bytes());
    Response::builder().status(status).header("content-type", "application/json").body(body).unwrap()
}

fn failure(code: u16, reason: &str, message: &str) -> Response<Body> {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "reason": reason, "message": message, "code": code,
    });
    reply(code, &status)
}
