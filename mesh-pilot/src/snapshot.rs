//! What the mesh looks like at one moment: immutable, shared, cheap to make (an endpoint change shares all but its part).
//!
//! In: [`crate::index`] makes it. Out: [`crate::compile`] reads [`Config`], [`EndpointSet`] and [`Pod`] and nothing else.
//!
//! The contract with `compile` (pure functions; the arguments are the cache key, so a function must not look at anything
//! else): `destination(&Config, &Viewer, &HostPort)`, `cluster(&Config, &Viewer, &HostPort)`,
//! `catalogue(&Config, &Viewer, namespace)`, `listener_ports(&Config, &Viewer) -> Vec<u16>`,
//! `listener(&Config, &Viewer, port)`, `endpoints(&Config, &EndpointSet)`, `workload(&Config, &Pod, IpAddr)`,
//! `self_config(&Config, &Pod)`; each gives `Option<Compiled<wire type>>`, where `None` is "does not exist for this viewer".
//! `notes(&Config) -> Vec<Note>` says what is wrong or ineffective between objects, once a configuration change.

mod added_roots;
mod provider;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

use mesh_proto::crd::{self, ObjectRef, Origin, Restriction};
use mesh_proto::model::{HostPort, Protocol, SpiffeId, TlsParameters, TrustDomain};

use crate::keys::{KeySource, Keys};

pub use self::added_roots::AddedRoots;
pub use self::provider::{Authorizer, ExtensionProvider, Provider, Speaks};
/// Labels or annotations; sorted, so that equal maps encode equally.
pub use mesh_proto::crd::Labels;
pub use mesh_proto::wire::mesh::v1::Addresses;

/// The mesh at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// What configuration says. Shared by all snapshots between two configuration changes.
    pub config: Arc<Config>,
    /// By service host and service port; a service port without endpoints has an empty set.
    pub endpoints: Arc<BTreeMap<HostPort, Arc<EndpointSet>>>,
    /// Pods by address.
    pub workloads: Arc<BTreeMap<IpAddr, Arc<Pod>>>,
    /// Pods by `(namespace, name)`.
    pub pods: Arc<BTreeMap<PodKey, Arc<Pod>>>,
    /// Whether the source has finished its first listing: nothing is sent before.
    pub loaded: bool,
}

/// A pod's `(namespace, name)`.
pub type PodKey = (Arc<str>, Arc<str>);

/// A Secret with its place in the configuration.
pub type HeldSecret = Arc<Held<Arc<crd::Secret>>>;

/// What differs between a snapshot and the one before it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// [`Snapshot::config`] is another one.
    pub config: bool,
    /// Service ports whose endpoints changed.
    pub endpoints: BTreeSet<HostPort>,
    /// Addresses whose pod changed.
    pub workloads: BTreeSet<IpAddr>,
    /// Pods that came, changed or went.
    pub pods: BTreeSet<PodKey>,
}

impl Changes {
    /// Nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Settings of the whole mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshSettings {
    /// Of all identities.
    pub trust_domain: TrustDomain,
    /// The suffix of service names: `<name>.<namespace>.svc.<cluster domain>`.
    pub cluster_domain: Arc<str>,
    /// Where mesh-wide policies live (`istio-system`).
    pub root_namespace: Arc<str>,
}

/// Settings of the whole mesh that may change while it runs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MeshOptions {
    /// What happens to traffic that goes to nobody that is known.
    pub outbound: Outbound,
    /// Proxies write an access log.
    pub access_log: bool,
    /// How long a plaintext client may say nothing before the server is asked to speak first; the default if `None`.
    pub detection_timeout: Option<std::time::Duration>,
    /// Where traffic goes first, for rules that don't say; a rule that does replaces it as a whole.
    pub locality: Option<crd::destination_rule::LocalitySetting>,
    /// What is done to a request's path before anybody looks at it.
    pub path_normalization: mesh_proto::wire::mesh::v1::PathNormalization,
    /// Whoever a policy denies is told which rule did it.
    pub deny_reason_header: bool,
    /// How long connecting may take, for rules that don't say; the default if `None`.
    pub connect_timeout: Option<std::time::Duration>,
    /// Who may be asked about requests, by name; each name once.
    pub extension_providers: Vec<ExtensionProvider>,
    /// How mTLS between members of the mesh is spoken.
    pub mesh_tls: TlsParameters,
    /// How all other TLS is spoken: gateways' servers that don't say, and TLS to the outside.
    pub tls_defaults: TlsParameters,
    /// Other names of our trust domain.
    pub trust_domain_aliases: Vec<TrustDomain>,
    /// Roots beside those that the authority tells.
    pub added_roots: Vec<AddedRoots>,
    /// Who sees objects that don't say it themselves.
    pub default_export: DefaultExport,
}

/// MeshConfig's `defaultServiceExportTo` and the like: what `exportTo` says where an object has none. Empty: everybody.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DefaultExport {
    /// Of Services and ServiceEntries.
    pub services: Vec<String>,
    /// Of VirtualServices.
    pub virtual_services: Vec<String>,
    /// Of DestinationRules.
    pub destination_rules: Vec<String>,
}

impl MeshOptions {
    /// Whether others add other roots, or to another trust domain.
    #[must_use]
    pub fn adds_otherwise(&self, other: &Self) -> bool {
        (&self.added_roots, &self.trust_domain_aliases) != (&other.added_roots, &other.trust_domain_aliases)
    }
}

/// `outboundTrafficPolicy.mode`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Outbound {
    /// It passes.
    #[default]
    AllowAny,
    /// It is refused.
    RegistryOnly,
}

/// A Service as configuration says it. Compared by content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// FQDN, lower case.
    pub host: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Cluster IPs; empty for headless services.
    pub vips: Vec<IpAddr>,
    /// `clusterIP: None`.
    pub headless: bool,
    /// Ports, in the order of the object.
    pub ports: Vec<ServicePort>,
    /// Which pods it selects; empty: none.
    pub selector: Labels,
    /// Pods count before they are ready, too.
    pub publish_not_ready: bool,
    /// Labels of the object.
    pub labels: Labels,
    /// Annotations of the object (`networking.istio.io/exportTo`).
    pub annotations: Labels,
    /// What it is beyond that, if it is a host of a ServiceEntry.
    pub entry: Option<Entry>,
}

/// A host of a ServiceEntry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Outside of the mesh.
    pub external: bool,
    /// Where its requests go.
    pub addresses: Addresses,
    /// Address ranges that are its own.
    pub ranges: Vec<String>,
    /// Whom TLS to it expects.
    pub subject_alt_names: Vec<String>,
    /// Who is there, beside the pods that it selects.
    pub endpoints: Vec<EntryEndpoint>,
}

/// One endpoint of a ServiceEntry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryEndpoint {
    /// What is known about it, as of a pod. Its address means nothing where it has a name.
    pub pod: Arc<Pod>,
    /// Its name for DNS.
    pub name: Option<Arc<str>>,
    /// By port name, where it is another one.
    pub ports: BTreeMap<String, u16>,
    /// Relative to the others.
    pub weight: u32,
}

/// One port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// The service's port.
    pub number: u16,
    /// Its name, may be empty.
    pub name: Arc<str>,
    /// As declared by `appProtocol` or the name.
    pub protocol: Protocol,
    /// Where it leads to in a pod.
    pub target: TargetPort,
}

/// `targetPort`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetPort {
    /// By number.
    Number(u16),
    /// By the name of a container port.
    Name(Arc<str>),
}

/// A pod. Compared by content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Stable over restarts of its containers.
    pub uid: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// `spec.serviceAccountName`, `default` if not given.
    pub service_account: Arc<str>,
    /// What its certificate says.
    pub identity: SpiffeId,
    /// The pod IP.
    pub address: IpAddr,
    /// Its addresses of the other family.
    pub more_addresses: Vec<IpAddr>,
    /// Where it runs: `region/zone/subzone`, as far as it is known; empty: not known.
    pub locality: Arc<str>,
    /// Labels.
    pub labels: Labels,
    /// Annotations.
    pub annotations: Labels,
    /// The workload (Deployment) that it belongs to.
    pub workload: Arc<str>,
    /// Container ports, in order.
    pub ports: Vec<ContainerPort>,
    /// The Ready condition holds, and it is not being deleted.
    pub ready: bool,
    /// It is on its way out (`deletionTimestamp`).
    pub terminating: bool,
    /// It lives in its node's network: its address is the node's, so nobody is told who is behind it.
    pub host_network: bool,
    /// It has a sidecar (`sidecar.istio.io/status`), so its ports speak mesh mTLS.
    pub injected: bool,
    /// It is a gateway: it has an identity, and no port of it takes mTLS by itself.
    pub gateway: bool,
    /// The services that select it and the ports they lead to here, by host then service port.
    pub services: Vec<PodService>,
}

impl Pod {
    /// All of its addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        std::iter::once(self.address).chain(self.more_addresses.iter().copied())
    }

    /// Whether it is the same but for how it is doing: its own proxy need not be told anything.
    #[must_use]
    pub fn is_same_workload(&self, other: &Self) -> bool {
        let healthy = |pod: &Self| Self { ready: true, terminating: false, ..pod.clone() };
        healthy(self) == healthy(other)
    }
}

/// One service port that leads to a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodService {
    /// The service's host.
    pub host: Arc<str>,
    /// The service's name.
    pub name: Arc<str>,
    /// The service's namespace.
    pub namespace: Arc<str>,
    /// The service's port.
    pub port: u16,
    /// The container port that it leads to.
    pub target: u16,
    /// The protocol that the service port declares.
    pub protocol: Protocol,
}

/// A container port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerPort {
    /// The number.
    pub number: u16,
    /// Its name, may be empty.
    pub name: Arc<str>,
}

/// The endpoints of one service port: Service x Pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSet {
    /// The service port.
    pub name: HostPort,
    /// Sorted by pod uid.
    pub endpoints: Vec<EndpointView>,
}

/// One endpoint: a pod and the port of it that the service port leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointView {
    /// The pod.
    pub pod: Arc<Pod>,
    /// Its address and the resolved target port.
    pub address: SocketAddr,
    /// Whether it may get traffic (the pod is ready, or the service publishes those that are not).
    pub ready: bool,
    /// Its name for DNS: of the address only the port counts then.
    pub name: Option<Arc<str>>,
    /// Relative to the others.
    pub weight: u32,
}

impl EndpointView {
    /// `ip:port`, or `name:port` where DNS is to be asked.
    #[must_use]
    pub fn reached_at(&self) -> String {
        match &self.name {
            Some(name) => format!("{name}:{}", self.address.port()),
            None => self.address.to_string(),
        }
    }
}

/// Who looks: everything that a variant may depend on. Part of the cache key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Viewer {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// A gateway, not a sidecar.
    pub router: bool,
    /// Its labels; empty for sidecars unless [`Config::label_scoped`] holds, so that equal variants are one.
    pub labels: Arc<Labels>,
}

/// A wire message and the objects that it holds.
#[derive(Debug, Clone)]
pub struct Compiled<T> {
    /// To be encoded.
    pub message: T,
    /// The revisions ([`Held::revision`]) of the objects that this message holds: what is acknowledged with it.
    pub holds: Vec<u64>,
}

/// What configuration says; endpoint changes do not touch it. One value between two configuration changes.
/// Lists of objects are in order of age (`ObjectMeta::age`, oldest first), Istio's order of precedence.
#[derive(Debug, Clone)]
pub struct Config {
    /// Unique per configuration change.
    pub revision: u64,
    /// Of the mesh.
    pub mesh: MeshSettings,
    /// Of the mesh, as they are now.
    pub options: MeshOptions,
    /// Namespaces that exist or that an object is in, with their labels.
    pub namespaces: BTreeMap<Arc<str>, Labels>,
    /// Services by host: of Services, and of ServiceEntries the oldest.
    pub services: BTreeMap<Arc<str>, Arc<Held<Service>>>,
    /// Other names, by the name: of ExternalName Services.
    pub aliases: BTreeMap<Arc<str>, Arc<Held<Alias>>>,
    /// Hosts that another object has.
    pub shadowed: Vec<Shadowed>,
    /// Routes.
    pub virtual_services: Vec<Arc<Held<Arc<crd::VirtualService>>>>,
    /// Subsets, balancing.
    pub destination_rules: Vec<Arc<Held<Arc<crd::DestinationRule>>>>,
    /// Listeners of gateway workloads.
    pub gateways: Vec<Arc<Held<Arc<crd::Gateway>>>>,
    /// The Secrets that some Gateway or DestinationRule names, by namespace and name.
    pub secrets: BTreeMap<PodKey, HeldSecret>,
    /// Whether peers must use mTLS.
    pub peer_authentications: Vec<Arc<Held<Arc<crd::PeerAuthentication>>>>,
    /// What is known of the keys that [`Self::request_authentications`] want.
    pub keys: Arc<BTreeMap<KeySource, Keys>>,
    /// Which tokens are valid.
    pub request_authentications: Vec<Arc<Held<Arc<crd::RequestAuthentication>>>>,
    /// Who may do what.
    pub authorization_policies: Vec<Arc<Held<Arc<crd::AuthorizationPolicy>>>>,
    /// Refused objects that restrict and of which there is no good version: their targets fail closed. A
    /// PeerAuthentication makes its targets STRICT; a DestinationRule its host unreachable; other kinds let nothing in
    /// (`SelfConfig.deny_all`). By reference.
    pub restrictions: Vec<Restriction>,
    /// Some DestinationRule has a `workloadSelector`: sidecars' labels are part of the viewer then.
    pub label_scoped: bool,
    /// [`Self::virtual_services`] by host: made by `compile` when it looks for the first time.
    pub routed: OnceLock<RoutedHosts>,
}

/// The VirtualServices of sidecars by the hosts that they name, all in full, as places in [`Config::virtual_services`].
#[derive(Debug, Clone, Default)]
pub struct RoutedHosts {
    /// Names.
    pub exact: HashMap<String, Vec<usize>>,
    /// Wildcards, each with its VirtualService.
    pub wildcards: Vec<(String, usize)>,
}

impl Config {
    /// A mesh in which nothing is configured.
    #[must_use]
    pub fn empty(mesh: MeshSettings) -> Self {
        Self {
            revision: 0,
            mesh,
            options: MeshOptions::default(),
            namespaces: BTreeMap::new(),
            services: BTreeMap::new(),
            aliases: BTreeMap::new(),
            shadowed: Vec::new(),
            virtual_services: Vec::new(),
            destination_rules: Vec::new(),
            gateways: Vec::new(),
            secrets: BTreeMap::new(),
            peer_authentications: Vec::new(),
            authorization_policies: Vec::new(),
            request_authentications: Vec::new(),
            keys: Arc::default(),
            restrictions: Vec::new(),
            label_scoped: false,
            routed: OnceLock::new(),
        }
    }
}

/// An ExternalName Service: another name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alias {
    /// The name: `<name>.<namespace>.svc.<cluster domain>`.
    pub host: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// What it stands for: a host, lower case, without the last dot.
    pub target: Arc<str>,
    /// Annotations of the object (`networking.istio.io/exportTo`).
    pub annotations: Labels,
}

/// A host of a ServiceEntry that another object has too, which comes first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shadowed {
    /// The ServiceEntry.
    pub reference: ObjectRef,
    /// The host.
    pub host: Arc<str>,
    /// Whose it is.
    pub by: ObjectRef,
}

/// An object in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Held<T> {
    /// Which object.
    pub reference: ObjectRef,
    /// Unique per applied version of an object.
    pub revision: u64,
    /// Where it came from; `origin.location(path)` is `file:line`.
    pub origin: Origin,
    /// Its content.
    pub spec: T,
}

/// Something to tell about an object that is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Which object.
    pub reference: ObjectRef,
    /// One sentence.
    pub text: String,
    /// The object as a whole has no effect because another one takes its place.
    pub superseded: bool,
}
