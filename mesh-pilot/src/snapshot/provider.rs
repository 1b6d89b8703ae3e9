//! MeshConfig's `extensionProviders`, as far as a proxy asks them.

use std::time::Duration;

use mesh_proto::wire::mesh::v1::{CheckedBody, HttpAuthorization};

/// One of them.
#[derive(Debug, Clone, PartialEq)]
pub struct ExtensionProvider {
    /// What policies call it.
    pub name: String,
    /// What it is.
    pub is: Provider,
}

/// What a provider is.
#[derive(Debug, Clone, PartialEq)]
pub enum Provider {
    /// It is asked about requests.
    Authorizer(Box<Authorizer>),
    /// It has another purpose: the field that says which.
    Other(String),
    /// It was to be asked, and cannot be: why.
    Wrong(String),
}

/// Who is asked about requests, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Authorizer {
    /// `[namespace/]host`.
    pub service: String,
    /// Of the service.
    pub port: u16,
    /// How long an answer may take.
    pub timeout: Duration,
    /// No answer is a yes.
    pub fail_open: bool,
    /// What the client is told where there is no answer.
    pub status_on_error: u16,
    /// How much of a request's body is shown.
    pub body: Option<CheckedBody>,
    /// Routes are chosen after it has answered.
    pub clear_route_cache: bool,
    /// What it speaks.
    pub speaks: Speaks,
}

/// How it is asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Speaks {
    /// `envoy.service.auth.v3.Authorization/Check`.
    Grpc,
    /// The request itself, as far as it is shown.
    Http(HttpAuthorization),
}
