//! The composition root: opens the authority, serves, ends.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use mesh_proto::model::SpiffeId;
use mesh_proto::runtime::certificates::{authority_id, pilot_id};
use mesh_proto::runtime::tls::{ClientAuth, server_config};
use mesh_proto::runtime::{crypto, drain, grpc, log, shutdown};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::admin::commands::{self, Door};
use crate::attest::{Attestor, Tokens};
use crate::authority::{Limits, Policy};
use crate::config::{BundleEndpoint, Config};
use crate::follow::Follow;
use crate::keeper::{Clock, Keeper, Settings};
use crate::limit::Rate;
use crate::server::{Service, counters};
use crate::shelf::Shelf;
use crate::shelf::files::Files;
use crate::token::TokenKey;
use crate::{admin, bundle, federation};

/// How long open calls get at the end.
const DRAIN: Duration = Duration::from_secs(10);
/// The longest time between two looks at our own leaf.
const RENEWAL_TICK: Duration = Duration::from_secs(60);

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start: state, keys, addresses.
pub fn run(config: Config) -> anyhow::Result<()> {
    crypto::install_provider();
    log::init("mesh-ca");
    shutdown::die_with_parent(config.parent_pid)?;
    runtime()?.block_on(serve(config))
}

pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("mesh-ca")
        .enable_all()
        .build()
        .context("starting the runtime")
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let metrics = metrics()?;
    let ca = Ca::open(&config).await?;
    let bind =
        async |address| TcpListener::bind(address).await.with_context(|| format!("listening on {address}"));
    let (listener, admin) = (bind(config.listen).await?, bind(config.admin).await?);
    let (drain, watch) = drain::channel();
    if let Some(path) = &config.admin_socket {
        let door = Door::socket(path).with_context(|| format!("listening on {}", path.display()))?;
        tokio::spawn(commands::serve(door, ca.keeper(), watch.clone()));
    }
    if let Some(BundleEndpoint { listen, web }) = config.bundle_endpoint {
        tokio::spawn(bundle::serve::serve(bind(listen).await?, ca.keeper(), web, watch.clone()));
    }
    for federated in config.federation {
        tokio::spawn(federation::keep(federated, ca.keeper()));
    }
    tracing::info!(listen = %config.listen, trust_domain = %config.trust_domain, "signing");
    let serving = tokio::spawn(ca.serve(listener, watch.clone()));
    tokio::spawn(admin::serve(admin, metrics, admin::Ready::default(), watch));
    until_signal(drain, Duration::ZERO, serving).await
}

/// Waits for a signal and then for `linger`, then for the calls that are open.
pub(crate) async fn until_signal(
    drain: drain::Drain,
    linger: Duration,
    serving: JoinHandle<()>,
) -> anyhow::Result<()> {
    shutdown::after_signal(linger).await.context("listening for signals")?;
    drain.start();
    if tokio::time::timeout(DRAIN, serving).await.is_err() {
        tracing::warn!("ended with open calls");
    }
    Ok(())
}

/// Starts the counters of this process.
pub(crate) fn metrics() -> anyhow::Result<PrometheusHandle> {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).context("metrics")?;
    Ok(handle)
}

/// An authority that is ready to serve.
#[derive(Debug)]
pub struct Ca {
    keeper: Arc<Keeper>,
    attestor: Attestor,
    rate: Rate,
    pilot: SpiffeId,
}

impl Ca {
    /// Opens the state, and writes the roots for everyone to read.
    ///
    /// # Errors
    /// When state, token key or roots cannot be used.
    pub async fn open(config: &Config) -> anyhow::Result<Self> {
        let limits = Limits { default: config.leaf_ttl, min: config.min_leaf_ttl, max: config.max_leaf_ttl };
        let own = authority_id(&config.trust_domain);
        let tokens = match &config.local_token_key {
            Some(path) => Tokens::Local(TokenKey::read(path)?),
            None => Tokens::None,
        };
        let settings = Settings {
            policy: Policy { own: own.clone(), limits, dns: None },
            pilot: pilot_id(&config.trust_domain),
            federated: federation::domains(&config.federation, &config.trust_domain)
                .map_err(anyhow::Error::msg)?,
            root_life: config.root_ttl,
            grace_percent: config.root_grace_percent,
            clock: Clock::default(),
        };
        let shelf = Shelf::Files(Files::new(&config.state_dir, &config.root_out));
        let pilot = settings.pilot.clone();
        let keeper = Keeper::open_once(shelf, settings)
            .await
            .with_context(|| format!("opening the authority in {}", config.state_dir.display()))?;
        Ok(Self::new(Arc::new(keeper), Attestor::new(own, tokens), config.rate_limit, pilot))
    }

    /// Signs what `keeper` keeps for those whom `attestor` knows, and tells `pilot` whom to trust.
    #[must_use]
    pub fn new(keeper: Arc<Keeper>, attestor: Attestor, rate: Rate, pilot: SpiffeId) -> Self {
        for counter in counters::ALL {
            metrics::counter!(counter).increment(0);
        }
        Self { keeper, attestor, rate, pilot }
    }

    /// What takes commands, and changes the authority while it serves.
    #[must_use]
    pub fn keeper(&self) -> Arc<Keeper> {
        self.keeper.clone()
    }

    /// Serves the certificate service until the drain starts and all calls are done.
    pub async fn serve(self, listener: TcpListener, drain: drain::Watch) {
        let Self { keeper, attestor, rate, pilot } = self;
        let tls = server_config(keeper.identity(), ClientAuth::Optional, &[b"h2"]);
        // Who ends writes nothing any more: what it remembers may be in the way of who comes after it.
        let ending = drain.clone();
        let looking = async {
            tokio::select! {
                () = keeper.keep() => {}
                () = ending.draining() => std::future::pending().await,
            }
        };
        let follow = Follow::service(keeper.clone(), pilot, drain.clone());
        let routes =
            tonic::service::Routes::new(Service::new(keeper.clone(), attestor, rate)).add_service(follow);
        tokio::select! {
            () = grpc::serve(listener, tls, routes, drain) => {}
            () = renew(&keeper) => {}
            () = looking => {}
        }
    }
}

/// Keeps our own leaf fresh: a new one at half of its life. Never ends.
async fn renew(keeper: &Keeper) {
    let (signing, identity) = (keeper.signing(), keeper.identity());
    let mut since = SystemTime::now();
    loop {
        let life = identity.leaf().not_after.duration_since(since).unwrap_or_default();
        let left = (since + life / 2).duration_since(SystemTime::now()).unwrap_or_default();
        if !left.is_zero() {
            tokio::time::sleep(left.min(RENEWAL_TICK)).await;
            continue;
        }
        let renewed = signing.load().own_leaf().map_err(|e| e.to_string());
        match renewed.and_then(|leaf| identity.swap_leaf(leaf).map_err(|e| e.to_string())) {
            Ok(()) => since = SystemTime::now(),
            Err(error) => {
                tracing::error!(error, "our own certificate was not renewed");
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
        }
    }
}
