//! `networking.istio.io` VirtualService, all served versions (they have the same fields).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::meta::{Labels, ObjectMeta};
use super::values::{Duration, StringMatch};

strict! {
    /// Routes for hosts.
    pub struct VirtualService {
        /// Checked when the kind is chosen.
        pub api_version: String,
        /// Checked when the kind is chosen.
        pub kind: String,
        /// Name, namespace, age.
        pub metadata: ObjectMeta,
        /// What is wanted.
        pub spec: VirtualServiceSpec,
        /// Written by a control plane; not read.
        pub status: Value,
    }

    /// What a VirtualService wants.
    pub struct VirtualServiceSpec {
        /// Short names are of its own namespace. Empty: a delegate.
        pub hosts: Vec<String>,
        /// `mesh`, `name`, `namespace/name`. Empty: mesh.
        pub gateways: Vec<String>,
        /// In order; the first that matches wins.
        pub http: Vec<HttpRoute>,
        /// For TLS that is passed through.
        pub tls: Vec<TlsRoute>,
        /// For opaque ports.
        pub tcp: Vec<TcpRoute>,
        /// `*`, `.`, `~` or namespaces. Empty: everywhere.
        pub export_to: Vec<String>,
    }

    /// One HTTP rule.
    pub struct HttpRoute {
        /// Shown in access logs.
        pub name: String,
        /// Any of them. None: every request.
        pub r#match: Vec<HttpMatch>,
        /// Weighted destinations.
        pub route: Vec<HttpDestination>,
        /// Instead of `route`.
        pub redirect: Option<Redirect>,
        /// Instead of `route`.
        pub direct_response: Option<DirectResponse>,
        /// Instead of `route`.
        pub delegate: Option<Delegate>,
        /// Changes path and authority.
        pub rewrite: Option<Rewrite>,
        /// Absent: none.
        pub timeout: Option<Duration>,
        /// Absent: the default policy.
        pub retries: Option<Retries>,
        /// Injected faults.
        pub fault: Option<Fault>,
        /// A copy of the traffic.
        pub mirror: Option<Destination>,
        /// Several copies.
        pub mirrors: Vec<Mirror>,
        /// Old form of `mirrorPercentage`.
        pub mirror_percent: Option<f64>,
        /// Of `mirror`.
        pub mirror_percentage: Option<Percent>,
        /// Cross-origin policy.
        pub cors_policy: Option<CorsPolicy>,
        /// Header changes.
        pub headers: Option<Headers>,
    }

    /// All of what is set.
    pub struct HttpMatch {
        /// Joined to the rule's name.
        pub name: String,
        /// The path, without the query.
        pub uri: Option<StringMatch>,
        /// `http`, `https`.
        pub scheme: Option<StringMatch>,
        /// The method.
        pub method: Option<StringMatch>,
        /// Host or `:authority`.
        pub authority: Option<StringMatch>,
        /// By header name.
        pub headers: BTreeMap<String, StringMatch>,
        /// The port that was asked for.
        pub port: Option<u16>,
        /// Of the client's workload.
        pub source_labels: Labels,
        /// Which gateways this match is for.
        pub gateways: Vec<String>,
        /// By parameter name.
        pub query_params: BTreeMap<String, StringMatch>,
        /// For exact and prefix.
        pub ignore_uri_case: bool,
        /// Must not match.
        pub without_headers: BTreeMap<String, StringMatch>,
        /// Of the client's workload.
        pub source_namespace: String,
        /// Names a statistic.
        pub stat_prefix: String,
    }

    /// One weighted destination.
    pub struct HttpDestination {
        /// Where to.
        pub destination: Destination,
        /// Relative to the sum. Negative counts as 0.
        pub weight: Option<i32>,
        /// Header changes for this destination only.
        pub headers: Option<Headers>,
    }

    /// Where to.
    pub struct Destination {
        /// Short names are of the VirtualService's namespace.
        pub host: String,
        /// Of the host's DestinationRule.
        pub subset: String,
        /// Needed where the host has several.
        pub port: Option<PortSelector>,
    }

    /// A port by number.
    pub struct PortSelector {
        /// 1 to 65535.
        pub number: u16,
    }

    /// An answer that sends the client elsewhere.
    pub struct Redirect {
        /// The new path.
        pub uri: Option<String>,
        /// The new authority.
        pub authority: Option<String>,
        /// The new port.
        pub port: Option<u32>,
        /// FROM_PROTOCOL_DEFAULT or FROM_REQUEST_PORT.
        pub derive_port: Option<String>,
        /// The new scheme.
        pub scheme: Option<String>,
        /// 301 when absent.
        pub redirect_code: Option<u32>,
        /// Replaces the matched prefix.
        pub prefix_rewrite: Option<String>,
    }

    /// An answer of the proxy's own.
    pub struct DirectResponse {
        /// 200 to 599.
        pub status: u32,
        /// May be absent.
        pub body: Option<DirectBody>,
    }

    /// One of the two.
    pub struct DirectBody {
        /// Text.
        pub string: Option<String>,
        /// Base64.
        pub bytes: Option<String>,
    }

    /// Rules of another VirtualService.
    pub struct Delegate {
        /// Its name.
        pub name: String,
        /// Its namespace; the same when empty.
        pub namespace: String,
    }

    /// Changes of path and authority.
    pub struct Rewrite {
        /// The new path, or prefix for prefix matches.
        pub uri: Option<String>,
        /// The new authority.
        pub authority: Option<String>,
        /// By regular expression.
        pub uri_regex_rewrite: Option<RegexRewrite>,
    }

    /// A rewrite by regular expression.
    pub struct RegexRewrite {
        /// What to replace.
        pub r#match: String,
        /// By what; `\1` is a group.
        pub rewrite: String,
    }

    /// How to try again.
    pub struct Retries {
        /// 0: never.
        pub attempts: Option<i32>,
        /// The rule's timeout when absent.
        pub per_try_timeout: Option<Duration>,
        /// Envoy's words and status codes, separated by commas.
        pub retry_on: String,
        /// Other localities too.
        pub retry_remote_localities: Option<bool>,
        /// Hosts already tried may be tried again.
        pub retry_ignore_previous_hosts: Option<bool>,
        /// 25 ms when absent.
        pub backoff: Option<Duration>,
    }

    /// Injected faults.
    pub struct Fault {
        /// Slow answers.
        pub delay: Option<FaultDelay>,
        /// Failing answers.
        pub abort: Option<FaultAbort>,
    }

    /// A delay.
    pub struct FaultDelay {
        /// How long.
        pub fixed_delay: Option<Duration>,
        /// Not in force in Istio either.
        pub exponential_delay: Option<Duration>,
        /// Of the requests.
        pub percentage: Option<Percent>,
        /// Old form.
        pub percent: Option<i32>,
    }

    /// An abort.
    pub struct FaultAbort {
        /// The status.
        pub http_status: Option<u32>,
        /// The gRPC status.
        pub grpc_status: Option<String>,
        /// Not in force in Istio either.
        pub http2_error: Option<String>,
        /// Of the requests.
        pub percentage: Option<Percent>,
    }

    /// 0 to 100.
    pub struct Percent {
        /// 0 to 100.
        pub value: f64,
    }

    /// A copy of the traffic.
    pub struct Mirror {
        /// Where to.
        pub destination: Destination,
        /// 100 when absent.
        pub percentage: Option<Percent>,
    }

    /// Cross-origin policy.
    pub struct CorsPolicy {
        /// Old form of `allowOrigins`.
        pub allow_origin: Vec<String>,
        /// Who may.
        pub allow_origins: Vec<StringMatch>,
        /// What they may do.
        pub allow_methods: Vec<String>,
        /// What they may send.
        pub allow_headers: Vec<String>,
        /// What they may see.
        pub expose_headers: Vec<String>,
        /// How long a preflight holds.
        pub max_age: Option<Duration>,
        /// With credentials.
        pub allow_credentials: Option<bool>,
        /// FORWARD or IGNORE.
        pub unmatched_preflights: Option<String>,
    }

    /// Header changes.
    pub struct Headers {
        /// Before the request leaves.
        pub request: Option<HeaderChanges>,
        /// Before the response returns.
        pub response: Option<HeaderChanges>,
    }

    /// Changes of one direction.
    pub struct HeaderChanges {
        /// Overwrites.
        pub set: BTreeMap<String, String>,
        /// Appends.
        pub add: BTreeMap<String, String>,
        /// Removes.
        pub remove: Vec<String>,
    }

    /// One rule for TLS that is passed through.
    pub struct TlsRoute {
        /// Any of them.
        pub r#match: Vec<TlsMatch>,
        /// Weighted destinations.
        pub route: Vec<L4Destination>,
    }

    /// All of what is set.
    pub struct TlsMatch {
        /// The server names.
        pub sni_hosts: Vec<String>,
        /// The original destination.
        pub destination_subnets: Vec<String>,
        /// The port that was asked for.
        pub port: Option<u16>,
        /// Of the client's workload.
        pub source_labels: Labels,
        /// Which gateways this match is for.
        pub gateways: Vec<String>,
        /// Of the client's workload.
        pub source_namespace: String,
    }

    /// One rule for opaque connections.
    pub struct TcpRoute {
        /// Any of them. None: every connection.
        pub r#match: Vec<TcpMatch>,
        /// Weighted destinations.
        pub route: Vec<L4Destination>,
    }

    /// All of what is set.
    pub struct TcpMatch {
        /// The original destination.
        pub destination_subnets: Vec<String>,
        /// The port that was asked for.
        pub port: Option<u16>,
        /// Not in force in Istio either.
        pub source_subnet: String,
        /// Of the client's workload.
        pub source_labels: Labels,
        /// Which gateways this match is for.
        pub gateways: Vec<String>,
        /// Of the client's workload.
        pub source_namespace: String,
    }

    /// One weighted destination of connections.
    pub struct L4Destination {
        /// Where to.
        pub destination: Destination,
        /// Relative to the sum.
        pub weight: Option<i32>,
    }
}
