//! What one data thread has at hand: the store, its own pool and telemetry, who we are.
//!
//! In: handles from the composition root. Out: [`Worker`], shared by every connection of the thread, never by threads.

pub mod me;
pub mod targets;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use mesh_proto::runtime::identity::{Identity, MeshTls};
use mesh_proto::runtime::tls::{ClientAuth, server_config};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::authorization::Guards;
use crate::authorization::under_way::UnderWay;
use crate::capture::{Application, addresses};
use crate::config::Config;
use crate::drain::DrainWatch;
use crate::gateway::termination::Terminations;
use crate::http::ServerSettings;
use crate::inbound::live::Live;
use crate::jwt::Cache;
use crate::pool::Pool;
use crate::respond::Failure;
use crate::store::Store;
use crate::telemetry::{Telemetry, WorkerTelemetry};
use crate::tls::{ALPN_HTTP1, ALPN_HTTP2, ALPN_HTTP10, ALPN_TCP};

pub use me::Me;
pub use targets::Targets;

/// What inbound handshakes may agree on, in our order. The last two are of STRICT ports' clients that are no sidecars.
const ACCEPTED: [&[u8]; 6] = [ALPN_HTTP2, ALPN_HTTP1, ALPN_HTTP10, ALPN_TCP, b"h2", b"http/1.1"];

/// What all workers of a process share.
#[derive(Clone)]
pub struct Shared {
    /// The bootstrap.
    pub config: Arc<Config>,
    /// What discovery told.
    pub store: Arc<Store>,
    /// Certificate and roots.
    pub identity: Identity,
    /// How a gateway ends TLS.
    pub terminations: Arc<Terminations>,
    /// Metrics and access log.
    pub telemetry: Telemetry,
    /// Ends what comes from outside: inbound ports, gateway listeners.
    pub inbound: DrainWatch,
    /// Ends what comes from the application.
    pub outbound: DrainWatch,
}

/// One data thread's context.
pub struct Worker {
    /// Which one.
    pub index: usize,
    /// The bootstrap.
    pub config: Arc<Config>,
    /// What discovery told.
    pub store: Arc<Store>,
    /// Certificate and roots.
    pub identity: Identity,
    /// How a gateway ends TLS.
    pub terminations: Arc<Terminations>,
    /// Connections to upstreams.
    pub pool: Pool,
    /// This thread's metrics.
    pub telemetry: WorkerTelemetry,
    /// Where upstream requests go, per endpoint.
    pub targets: Targets,
    /// Limits of accepted connections.
    pub settings: ServerSettings,
    /// Ends what comes from outside.
    pub inbound: DrainWatch,
    /// Ends what comes from the application.
    pub outbound: DrainWatch,
    /// Inbound connections that were let in.
    pub live: Live,
    /// Tokens that this thread has verified.
    pub tokens: RefCell<Cache>,
    /// What policies leave open of connections.
    pub guards: RefCell<Guards>,
    /// Requests that are under way for longer.
    pub under_way: UnderWay,
    rng: RefCell<SmallRng>,
    me: RefCell<Option<Rc<Me>>>,
    server_tls: RefCell<Option<(Arc<MeshTls>, Arc<rustls::ServerConfig>)>>,
}

impl Worker {
    /// The context of thread `index`. Call it on that thread.
    #[must_use]
    pub fn new(shared: &Shared, index: usize) -> Rc<Self> {
        Rc::new(Self {
            index,
            config: shared.config.clone(),
            store: shared.store.clone(),
            identity: shared.identity.clone(),
            terminations: shared.terminations.clone(),
            pool: Pool::new(),
            telemetry: shared.telemetry.worker(index),
            targets: Targets::new(shared.identity.clone()),
            settings: ServerSettings::default(),
            inbound: shared.inbound.clone(),
            outbound: shared.outbound.clone(),
            live: Live::default(),
            tokens: RefCell::new(Cache::new()),
            guards: RefCell::default(),
            under_way: UnderWay::default(),
            rng: RefCell::new(SmallRng::seed_from_u64(rand::random())),
            me: RefCell::new(None),
            server_tls: RefCell::new(None),
        })
    }

    /// How inbound mTLS is terminated: made anew when the mesh speaks it in another way; reads leaf and roots at each
    /// handshake.
    #[must_use]
    pub fn server_tls(&self) -> Arc<rustls::ServerConfig> {
        let now = self.identity.roots_handle().tls();
        let mut made = self.server_tls.borrow_mut();
        match &*made {
            Some((of, config)) if Arc::ptr_eq(of, &now) => config.clone(),
            _ => {
                let config = server_config(&self.identity, ClientAuth::Required, &ACCEPTED);
                made.insert((now, config)).1.clone()
            }
        }
    }

    /// Runs `f` with this thread's generator. Not for secrets.
    pub fn random<T>(&self, f: impl FnOnce(&mut SmallRng) -> T) -> T {
        f(&mut self.rng.borrow_mut())
    }

    /// This workload as the pilot sees it now.
    ///
    /// # Errors
    /// Before the pilot (or the disk) has told.
    pub fn me(&self) -> Result<Rc<Me>, Failure> {
        let config = self.store.self_config().ok_or(Failure::NotReady)?;
        let mut me = self.me.borrow_mut();
        match &*me {
            Some(known) if Arc::ptr_eq(&known.config, &config) => Ok(known.clone()),
            _ => Ok(me.insert(Rc::new(Me::new(config, self.identity.id()))).clone()),
        }
    }

    /// The application's own address for what is dialled at one of this pod's ports.
    #[must_use]
    pub fn own_port(&self, address: SocketAddr) -> Option<Application> {
        let mut ports = self.config.inbound.iter();
        let declared = ports.find(|p| p.port == address.port() || p.listen == address);
        let captured = || {
            self.config.capture.as_ref()?;
            let sockets_of_ours = self.config.is_own_socket(address);
            (!sockets_of_ours).then(|| Application::captured(address, None))
        };
        declared.map(|port| Application::from(*port)).or_else(captured)
    }

    /// Whether a connection to `address` would come back to one of this proxy's own sockets, whichever of the pod's
    /// addresses that is.
    #[must_use]
    pub fn is_own_socket(&self, address: SocketAddr) -> bool {
        let captured = self.config.capture.iter().flat_map(|c| [c.outbound, c.inbound]);
        let mut same_port = captured.filter(|own| own.port() == address.port());
        // The kernel is asked only where the port says that it may be: that costs a socket.
        let mut here = || same_port.any(|own| own.ip().is_unspecified()) && addresses::is_own(address.ip());
        self.config.is_own_socket(address) || here()
    }
}
