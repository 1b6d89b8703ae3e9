//! `networking.istio.io` Gateway, all served versions, with the two forms that only this mesh knows (`spec.tls` and
//! `spec.auth` beside `servers`).

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::meta::{Labels, ObjectMeta};

strict! {
    /// Listeners of the workloads that it selects.
    pub struct Gateway {
        /// Checked when the kind is chosen.
        pub api_version: String,
        /// Checked when the kind is chosen.
        pub kind: String,
        /// Name, namespace, age.
        pub metadata: ObjectMeta,
        /// What is wanted.
        pub spec: GatewaySpec,
        /// Written by a control plane; not read.
        pub status: Value,
    }

    /// What a Gateway wants.
    pub struct GatewaySpec {
        /// Its listeners.
        pub servers: Vec<Server>,
        /// Which gateway workloads, in all namespaces. Empty: every one.
        pub selector: Labels,
        /// Our own form: certificates by host, for the servers whose hosts match.
        pub tls: Vec<OwnCertificate>,
        /// Our own form: client certificates by host.
        pub auth: Option<OwnAuth>,
    }

    /// One listener.
    pub struct Server {
        /// Where.
        pub port: ServerPort,
        /// An address.
        pub bind: String,
        /// `[namespace/]dnsName`; the namespace is that of the VirtualServices (`.` its own, `*` any).
        pub hosts: Vec<String>,
        /// TLS.
        pub tls: Option<ServerTls>,
        /// Not in force in Istio either.
        pub default_endpoint: String,
        /// For statistics.
        pub name: String,
    }

    /// Where a server listens.
    pub struct ServerPort {
        /// 1 to 65535.
        pub number: u16,
        /// HTTP, HTTPS, GRPC, GRPC-WEB, HTTP2, MONGO, TCP, TLS.
        pub protocol: String,
        /// A label.
        pub name: String,
        /// Old, not in force in Istio either.
        pub target_port: Option<u16>,
    }

    /// TLS of a server.
    pub struct ServerTls {
        /// 301 to https.
        pub https_redirect: Option<bool>,
        /// PASSTHROUGH, SIMPLE, MUTUAL, AUTO_PASSTHROUGH, ISTIO_MUTUAL, OPTIONAL_MUTUAL.
        pub mode: Option<ServerTlsMode>,
        /// A file.
        pub server_certificate: String,
        /// A file.
        pub private_key: String,
        /// A file.
        pub ca_certificates: String,
        /// A file.
        pub ca_crl: String,
        /// A Secret.
        pub credential_name: String,
        /// Secrets.
        pub credential_names: Vec<String>,
        /// A Secret.
        pub ca_cert_credential_name: String,
        /// Files.
        pub tls_certificates: Vec<ServerCertificate>,
        /// Whom to expect.
        pub subject_alt_names: Vec<String>,
        /// Pins.
        pub verify_certificate_spki: Vec<String>,
        /// Pins.
        pub verify_certificate_hash: Vec<String>,
        /// TLSV1_2 when absent.
        pub min_protocol_version: Option<String>,
        /// The newest when absent.
        pub max_protocol_version: Option<String>,
        /// The safe ones when empty.
        pub cipher_suites: Vec<String>,
        /// Do not verify clients.
        pub insecure_skip_verify: Option<bool>,
    }

    /// One certificate by files.
    pub struct ServerCertificate {
        /// A file.
        pub server_certificate: String,
        /// A file.
        pub private_key: String,
        /// A file.
        pub ca_certificates: String,
    }

    /// Our own form: the servers whose hosts match terminate TLS with this certificate.
    pub struct OwnCertificate {
        /// Which servers.
        pub hosts: Vec<String>,
        /// A file.
        pub server_certificate: String,
        /// A file.
        pub private_key: String,
    }

    /// Our own form.
    pub struct OwnAuth {
        /// Its only member.
        pub policy: OwnAuthPolicy,
    }

    /// Our own form.
    pub struct OwnAuthPolicy {
        /// By host.
        pub rules: Vec<OwnAuthRule>,
    }

    /// Our own form: clients of these hosts.
    pub struct OwnAuthRule {
        /// Which servers.
        pub hosts: Vec<String>,
        /// What clients must have.
        pub tls: Vec<OwnClientTls>,
    }

    /// Our own form: what clients must have.
    pub struct OwnClientTls {
        /// STRICT: a client certificate.
        pub mode: String,
        /// Signed by whom.
        pub verify: OwnVerify,
    }

    /// Our own form: who signs client certificates.
    pub struct OwnVerify {
        /// A file.
        pub ca_certificates: String,
    }
}

/// TLS mode of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[allow(missing_docs)]
pub enum ServerTlsMode {
    Passthrough,
    Simple,
    Mutual,
    AutoPassthrough,
    IstioMutual,
    OptionalMutual,
}
