//! What everything in a local mesh shares: its place on disk, its network, its keys, its journal, what the pilot knows.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use mesh_ca::token::{self, Claims, TokenKey};
use parking_lot::Mutex;
use rand::RngExt as _;
use tokio::sync::watch;

use super::dir::{self, LockedDir};
use super::http::Server;
use super::hub::{self, Hub};
use super::journal::Journal;
use super::names::{self, Names};
use super::net::{AppPorts, Base, Network, Subnets, port};
use super::pilot::{PilotStatus, ServiceStatus};
use super::process::{MYSELF, Program};
use crate::args::Mount;

/// How long a token is good for; it is written anew long before.
const TOKEN_LIFE: Duration = Duration::from_secs(24 * 3600);
/// How often tokens are written anew.
pub const TOKEN_REFRESH: Duration = Duration::from_secs(6 * 3600);

/// What is shared.
#[derive(Debug)]
pub struct Context {
    pub name: String,
    pub dir: LockedDir,
    pub network: Network,
    /// With `--netns`.
    pub hub: Option<Hub>,
    /// The names inside its namespaces.
    pub names: Names,
    pub journal: Arc<Journal>,
    pub trust_domain: String,
    pub cluster_domain: String,
    pub cert_ttl: u64,
    /// Directories of gateways.
    pub mounts: Vec<Mount>,
    pub subnets: Mutex<Subnets>,
    pub app_ports: Mutex<AppPorts>,
    key: TokenKey,
    services: Mutex<Vec<ServiceStatus>>,
    changes: watch::Sender<u64>,
}

impl Context {
    /// Takes a directory, a network and a key.
    ///
    /// # Errors
    /// When one of them is not to be had.
    pub fn new(name: &str, cert_ttl: u64, mounts: Vec<Mount>, netns: bool) -> anyhow::Result<Self> {
        if netns {
            hub::allowed()?;
        }
        let dir = dir::StateDir::create(name)?;
        let base = if netns { Base::Namespaces } else { Base::Loopback };
        let network = Network::take(base).context("no addresses for this mesh")?;
        let hub = if netns { Some(Hub::new(&network)?) } else { None };
        if netns {
            names::write_resolver(&dir.resolver())?;
        }
        let journal = Arc::new(Journal::open(&dir.log("supervisor"))?);
        let bytes: [u8; 32] = rand::rng().random();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        dir::write(&key_file(&dir), hex.as_bytes())?;
        Ok(Self {
            name: name.to_owned(),
            app_ports: Mutex::new(AppPorts::of(&network)),
            network,
            hub,
            names: Names::default(),
            journal,
            trust_domain: "cluster.local".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            cert_ttl,
            mounts,
            subnets: Mutex::default(),
            key: TokenKey::new(&bytes),
            services: Mutex::default(),
            changes: watch::Sender::new(0),
            dir,
        })
    }

    /// The file with the key of tokens.
    #[must_use]
    pub fn key_file(&self) -> PathBuf {
        key_file(&self.dir)
    }

    /// Writes a token for a process, for the account that it runs as.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn write_token(
        &self,
        process: &str,
        namespace: &str,
        account: &str,
        pod: &str,
    ) -> io::Result<PathBuf> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let claims = Claims {
            namespace: namespace.to_owned(),
            service_account: account.to_owned(),
            pod: pod.to_owned(),
            expires: (now + TOKEN_LIFE).as_secs(),
        };
        let path = self.dir.token_of(process);
        dir::write(&path, token::mint(&self.key, &claims).as_bytes())?;
        Ok(path)
    }

    /// The identity of an account.
    #[must_use]
    pub fn identity(&self, namespace: &str, account: &str) -> String {
        format!("spiffe://{}/ns/{namespace}/sa/{account}", self.trust_domain)
    }

    /// This executable, as one of the processes of the mesh.
    #[must_use]
    pub fn myself(&self, arguments: &[&str], log: PathBuf) -> Program {
        Program {
            program: PathBuf::from(MYSELF),
            arguments: arguments.iter().map(Into::into).collect(),
            environment: Vec::new(),
            directory: None,
            log,
        }
    }

    /// The pilot's admin server.
    #[must_use]
    pub fn pilot(&self) -> Server {
        Server::Tcp(self.pilot_admin())
    }

    /// Its address.
    #[must_use]
    pub fn pilot_admin(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.network.pilot(), port::CONTROL_ADMIN)
    }

    /// Asks the pilot, and remembers which services there are.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn pilot_status(&self) -> anyhow::Result<PilotStatus> {
        let status = PilotStatus::fetch(&self.pilot()).await?;
        if status.loaded {
            self.services.lock().clone_from(&status.services);
            if self.hub.is_some() {
                let written = self.names.update(&status.services, &self.cluster_domain);
                written.context("cannot write the names of services")?;
            }
        }
        Ok(status)
    }

    /// The services that the pilot told last: name, namespace, the address in the subnet `index`, port.
    #[must_use]
    pub fn services(&self, index: u8) -> Vec<ServiceAddress> {
        let services = self.services.lock();
        let address = |s: &ServiceStatus| {
            let (name, namespace) = s.name()?;
            let address = self.network.vip(index, s.vip.as_deref()?.parse().ok()?)?;
            let ports = s.ports.iter().map(|p| (p.name.clone().unwrap_or_default(), p.number)).collect();
            Some(ServiceAddress { name: name.to_owned(), namespace: namespace.to_owned(), address, ports })
        };
        services.iter().filter_map(address).collect()
    }

    /// Says that something about some instance changed.
    pub fn changed(&self) {
        self.changes.send_modify(|n| *n += 1);
    }

    /// Changes.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

/// A service as one instance reaches it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAddress {
    pub name: String,
    pub namespace: String,
    pub address: Ipv4Addr,
    /// Names and numbers.
    pub ports: Vec<(String, u16)>,
}

fn key_file(dir: &LockedDir) -> PathBuf {
    dir.path().join("token.key")
}
