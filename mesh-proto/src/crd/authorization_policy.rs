//! `security.istio.io` AuthorizationPolicy.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::meta::{ObjectMeta, WorkloadSelector};
use super::target_ref::{TargetRef, Whom};
use crate::model::authorization::Attribute;

/// `"true"`: the policy decides nothing.
pub const DRY_RUN: &str = "istio.io/dry-run";

strict! {
    /// Who may do what with a workload.
    pub struct AuthorizationPolicy {
        /// Checked when the kind is chosen.
        pub api_version: String,
        /// Checked when the kind is chosen.
        pub kind: String,
        /// Name, namespace, age.
        pub metadata: ObjectMeta,
        /// What is allowed or denied.
        pub spec: AuthorizationPolicySpec,
        /// Written by a control plane; not read.
        pub status: Value,
    }

    /// What an AuthorizationPolicy says.
    pub struct AuthorizationPolicySpec {
        /// Absent: the namespace; the whole mesh in the root namespace.
        pub selector: Option<WorkloadSelector>,
        /// A gateway or a service, in place of a selector.
        pub target_ref: Option<TargetRef>,
        /// Gateways and services, in place of a selector.
        pub target_refs: Vec<TargetRef>,
        /// When a request matches. None at all matches nothing: ALLOW with no rules denies everything.
        pub rules: Vec<Rule>,
        /// ALLOW when absent.
        pub action: Action,
        /// Of CUSTOM.
        pub provider: Option<Provider>,
    }

    /// Who decides in place of the proxy.
    pub struct Provider {
        /// Of MeshConfig's extensionProviders.
        pub name: String,
    }

    /// All three parts have to match; one that is absent does.
    pub struct Rule {
        /// One of them has to match.
        pub from: Option<Vec<From>>,
        /// One of them has to match.
        pub to: Option<Vec<To>>,
        /// All of them have to match.
        pub when: Option<Vec<Condition>>,
    }

    /// A source.
    pub struct From {
        /// All of its fields have to match.
        pub source: Option<Source>,
    }

    /// An operation.
    pub struct To {
        /// All of its fields have to match.
        pub operation: Option<Operation>,
    }

    /// Who asks.
    pub struct Source {
        /// Identities of peers, `TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT`.
        pub principals: Option<Vec<String>>,
        /// None of these.
        pub not_principals: Option<Vec<String>>,
        /// `ISSUER/SUBJECT` of a valid token.
        pub request_principals: Option<Vec<String>>,
        /// None of these.
        pub not_request_principals: Option<Vec<String>>,
        /// Namespaces of peers.
        pub namespaces: Option<Vec<String>>,
        /// None of these.
        pub not_namespaces: Option<Vec<String>>,
        /// Accounts of peers: `NAMESPACE/NAME`, or `NAME` in the policy's namespace.
        pub service_accounts: Option<Vec<String>>,
        /// None of these.
        pub not_service_accounts: Option<Vec<String>>,
        /// Addresses of connections.
        pub ip_blocks: Option<Vec<String>>,
        /// None of these.
        pub not_ip_blocks: Option<Vec<String>>,
        /// Addresses of clients, as a proxy of the mesh tells of them.
        pub remote_ip_blocks: Option<Vec<String>>,
        /// None of these.
        pub not_remote_ip_blocks: Option<Vec<String>>,
        /// Trust domains of peers.
        pub trust_domains: Option<Vec<String>>,
        /// None of these.
        pub not_trust_domains: Option<Vec<String>>,
    }

    /// What is asked for.
    pub struct Operation {
        /// Hosts, without case.
        pub hosts: Option<Vec<String>>,
        /// None of these.
        pub not_hosts: Option<Vec<String>>,
        /// Ports of the workload.
        pub ports: Option<Vec<String>>,
        /// None of these.
        pub not_ports: Option<Vec<String>>,
        /// Methods.
        pub methods: Option<Vec<String>>,
        /// None of these.
        pub not_methods: Option<Vec<String>>,
        /// Paths, without query, after normalization.
        pub paths: Option<Vec<String>>,
        /// None of these.
        pub not_paths: Option<Vec<String>>,
    }

    /// An attribute, and what it is compared with.
    pub struct Condition {
        /// `request.headers[NAME]`, `source.ip`, `request.auth.claims[NAME]` ...
        pub key: String,
        /// One of them.
        pub values: Option<Vec<String>>,
        /// None of them.
        pub not_values: Option<Vec<String>>,
    }
}

/// What happens to what matches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Action {
    /// It may pass; what matches no ALLOW of the workload may not.
    #[default]
    Allow,
    /// It may not pass.
    Deny,
    /// It is told.
    Audit,
    /// A provider decides.
    Custom,
}

/// One field of a source or an operation: its name, what it looks at, what it has to be, what it must not be.
pub type Field<'a> = (&'static str, Attribute, Option<&'a [String]>, Option<&'a [String]>);

impl Source {
    /// Its fields, also those that are absent.
    #[must_use]
    pub fn fields(&self) -> [Field<'_>; 7] {
        let own = Option::as_deref;
        [
            ("principals", Attribute::SourcePrincipal, own(&self.principals), own(&self.not_principals)),
            (
                "requestPrincipals",
                Attribute::RequestPrincipal,
                own(&self.request_principals),
                own(&self.not_request_principals),
            ),
            ("namespaces", Attribute::SourceNamespace, own(&self.namespaces), own(&self.not_namespaces)),
            (
                "serviceAccounts",
                Attribute::SourceServiceAccount,
                own(&self.service_accounts),
                own(&self.not_service_accounts),
            ),
            ("ipBlocks", Attribute::SourceIp, own(&self.ip_blocks), own(&self.not_ip_blocks)),
            (
                "remoteIpBlocks",
                Attribute::RemoteIp,
                own(&self.remote_ip_blocks),
                own(&self.not_remote_ip_blocks),
            ),
            (
                "trustDomains",
                Attribute::SourceTrustDomain,
                own(&self.trust_domains),
                own(&self.not_trust_domains),
            ),
        ]
    }
}

impl Operation {
    /// Its fields, also those that are absent.
    #[must_use]
    pub fn fields(&self) -> [Field<'_>; 4] {
        let own = Option::as_deref;
        [
            ("hosts", Attribute::RequestHost, own(&self.hosts), own(&self.not_hosts)),
            ("ports", Attribute::DestinationPort, own(&self.ports), own(&self.not_ports)),
            ("methods", Attribute::RequestMethod, own(&self.methods), own(&self.not_methods)),
            ("paths", Attribute::RequestPath, own(&self.paths), own(&self.not_paths)),
        ]
    }
}

impl AuthorizationPolicySpec {
    /// Whom the policy is for.
    #[must_use]
    pub fn whom(&self) -> Whom<'_> {
        Whom::new(self.selector.as_ref(), self.target_ref.as_ref(), &self.target_refs)
    }
}

impl AuthorizationPolicy {
    /// It decides nothing, as its annotation says.
    #[must_use]
    pub fn is_dry_run(&self) -> bool {
        self.metadata.annotations.get(DRY_RUN).is_some_and(|value| value == "true")
    }

    /// Something comes of it: neither AUDIT nor a dry run.
    #[must_use]
    pub fn decides(&self) -> bool {
        self.spec.action != Action::Audit && !self.is_dry_run()
    }
}
