//! The rules of the discovery stream, which pilot and proxy both keep.
//!
//! Transport: `AggregatedDiscoveryService/DeltaAggregatedResources` over mTLS. There is **one** subscription space: every
//! request and response carries [`TYPE_URL`]; a resource's name is `kind/name` ([`crate::model::ResourceName`]) and its
//! `Any` says the message. So one response can carry a destination with its clusters and endpoints.
//!
//! 1. The first request carries `node` (id = `<kind>~<ip>~<pod>.<namespace>~<namespace>.svc.<cluster domain>`, kind =
//!    `sidecar` or `router`), the names subscribed, and `initial_resource_versions` of everything the proxy holds. What it
//!    holds at the version the pilot would send is not sent again.
//! 2. The pilot takes the workload's labels and account from its own index, found by pod name and namespace, and refuses
//!    the stream (PERMISSION_DENIED) unless the verified certificate has that pod's namespace and account, and a `router`'s
//!    pod is a gateway (annotation `inject.istio.io/templates: gateway`).
//! 3. Sent without being asked: `self/self`, `trust_bundle/*`, every visible `catalogue/<namespace>`; for gateways every
//!    `listener/<port>` bound to them too, and the `secret/<namespace>/<name>` of their own namespace that these name. Everything that these imply (rule 4) as well.
//! 4. **A subscription implies its dependents.** A subscription to `destination/H:P`, and a listener, imply
//!    `cluster/C:Q` and `endpoints/C:Q` for each backend `C:Q` in its rules; so does `self/self` for whoever is asked in
//!    `external_authorization`. They come in the same response or an earlier one, or, where that would be too large (rule 11),
//!    in the next ones. When nothing implies a resource any more both sides forget it, without a message.
//! 5. A subscribed name, or a dependent, that does not exist is answered in `removed_resources`; so is one that is
//!    deleted. When it comes to exist later it is sent.
//! 6. A proxy applies additions in the order of [`crate::model::Kind::ALL`], then removals. It publishes a route table only
//!    when everything that it names is present or answered absent; the old table serves until then.
//! 7. Each response is answered once with its nonce. Without `error_detail`: all of it is in force. With: the resources
//!    listed in `details` (`mesh.v1.Rejected`) are refused, the previous version of each stays; the rest is in force.
//! 8. Version = [`crate::model::resource::version`] of the encoded message.
//! 9. What a gateway cannot serve (a Secret or file that is missing or wrong) it tells in a request without a nonce whose
//!    `error_detail.details` is one `mesh.v1.Troubles`; that is no answer and refuses nothing.
//! 10. The pilot sends nothing before its source has finished its first listing. It has at most one unanswered response a
//!     stream; what changes meanwhile is collected in the stream's dirty set and leaves with the next one.
//! 11. A response has at most [`MAX_MESSAGE`] bytes. What is too much for one comes in several, in the order of
//!     [`crate::model::Kind::ALL`], each but the last with [`MORE_FOLLOWS`]: until the last one a proxy does not know all
//!     that it serves, and is not ready for the first time. A resource that is too large for any response is not sent: it
//!     counts as refused.

/// The one type URL of requests and responses.
pub const TYPE_URL: &str = "type.googleapis.com/mesh.v1.Resource";

/// The largest response that a proxy takes, in bytes.
pub const MAX_MESSAGE: usize = 64 << 20;

/// A response's `system_version_info` when there is more to say already.
pub const MORE_FOLLOWS: &str = "more follows";

/// The type URL of a refused resource in `error_detail.details`.
pub const REJECTED_TYPE_URL: &str = "type.googleapis.com/mesh.v1.Rejected";

/// The type URL of what a gateway cannot serve, in `error_detail.details` of a request without a nonce.
pub const TROUBLES_TYPE_URL: &str = "type.googleapis.com/mesh.v1.Troubles";

/// Features that this build understands in a resource's `requires`. A resource that names another is refused.
pub const FEATURES: &[&str] = &[EXTERNAL_AUTHORIZATION, TLS_PARAMETERS, CERTIFICATE_RULES];

/// `self/self` names somebody who has to be asked: a proxy that knows nothing of it would let everything in.
pub const EXTERNAL_AUTHORIZATION: &str = "external_authorization";

/// Versions, suites and groups of TLS are narrowed: a proxy that knows nothing of it would speak as it does by default.
pub const TLS_PARAMETERS: &str = "tls_parameters";

/// Some certificates that the CA signed are refused (lists of what is revoked, names, pins): a proxy that knows nothing of it
/// would take all of them.
pub const CERTIFICATE_RULES: &str = "certificate_rules";
