//! The composition root: opens the authority, serves, ends.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use arc_swap::ArcSwap;
use mesh_proto::runtime::certificates::authority_id;
use mesh_proto::runtime::identity::{Identity, Roots, RootsHandle};
use mesh_proto::runtime::tls::{ClientAuth, server_config};
use mesh_proto::runtime::{crypto, drain, grpc, log, shutdown};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::admin;
use crate::attest::{Attestor, Tokens};
use crate::authority::{Authority, Limits, Policy, write_public};
use crate::config::Config;
use crate::server::{Service, counters};
use crate::token::TokenKey;

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
    let ca = Ca::open(&config)?;
    let bind =
        async |address| TcpListener::bind(address).await.with_context(|| format!("listening on {address}"));
    let (listener, admin) = (bind(config.listen).await?, bind(config.admin).await?);
    tracing::info!(listen = %config.listen, trust_domain = %config.trust_domain, "signing");
    let (drain, watch) = drain::channel();
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

/// The authority that signs now: it is replaced when its signing certificate is. Cheap to clone; clones are the same.
#[derive(Debug, Clone)]
pub struct Signing(Arc<ArcSwap<Authority>>);

impl Signing {
    /// The authority that signs now.
    #[must_use]
    pub fn load(&self) -> Arc<Authority> {
        self.0.load_full()
    }
}

/// An authority that is ready to serve.
#[derive(Debug)]
pub struct Ca {
    signing: Signing,
    attestor: Attestor,
    identity: Identity,
}

impl Ca {
    /// Opens the state, and writes the root for everyone to read.
    ///
    /// # Errors
    /// When state, token key or root cannot be used.
    pub fn open(config: &Config) -> anyhow::Result<Self> {
        let limits = Limits { default: config.leaf_ttl, max: config.max_leaf_ttl };
        let own = authority_id(&config.trust_domain);
        let authority = Authority::open(&config.state_dir, Policy { own: own.clone(), limits, dns: None })
            .with_context(|| format!("opening the authority in {}", config.state_dir.display()))?;
        let tokens = match &config.local_token_key {
            Some(path) => Tokens::Local(TokenKey::read(path)?),
            None => Tokens::None,
        };
        write_public(&config.root_out, &authority.root_pem()).context("writing the root")?;
        Self::new(authority, Attestor::new(own, tokens))
    }

    /// Signs with `authority` for those whom `attestor` knows.
    ///
    /// # Errors
    /// When the authority has expired.
    pub fn new(authority: Authority, attestor: Attestor) -> anyhow::Result<Self> {
        let identity = Identity::new(authority.own_leaf()?, RootsHandle::new(authority.roots()?));
        tell_expiry(&authority);
        for counter in
            [counters::CSR, counters::SUCCESS, counters::DENIED, counters::CSR_INVALID, counters::SIGN_FAILED]
        {
            metrics::counter!(counter).increment(0);
        }
        let signing = Signing(Arc::new(ArcSwap::from_pointee(authority)));
        Ok(Self { signing, attestor, identity })
    }

    /// What changes the authority while it serves.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle { signing: self.signing.clone(), identity: self.identity.clone() }
    }

    /// Serves the certificate service until the drain starts and all calls are done.
    pub async fn serve(self, listener: TcpListener, drain: drain::Watch) {
        let tls = server_config(&self.identity, ClientAuth::Optional, &[b"h2"]);
        let routes = tonic::service::Routes::new(Service::new(self.signing.clone(), self.attestor));
        tokio::select! {
            () = grpc::serve(listener, tls, routes, drain) => {}
            () = renew(&self.signing, &self.identity) => {}
        }
    }
}

/// Changes a [`Ca`] that serves.
#[derive(Debug, Clone)]
pub struct Handle {
    signing: Signing,
    identity: Identity,
}

impl Handle {
    /// The authority that signs now.
    #[must_use]
    pub fn signing(&self) -> Arc<Authority> {
        self.signing.load()
    }

    /// From here on, certificates of these roots prove who a caller is.
    pub fn trust(&self, roots: Roots) {
        self.identity.swap_roots(roots);
    }

    /// From here on, `authority` signs, and our own leaf is one of its own.
    ///
    /// # Errors
    /// When it has expired; then the one before goes on.
    pub fn sign_with(&self, authority: Authority) -> anyhow::Result<()> {
        self.identity.swap_leaf(authority.own_leaf()?)?;
        tell_expiry(&authority);
        self.signing.0.store(Arc::new(authority));
        Ok(())
    }
}

fn tell_expiry(authority: &Authority) {
    let end = authority.not_after().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
    metrics::gauge!(counters::ROOT_EXPIRY).set(end);
    metrics::gauge!(counters::CHAIN_EXPIRY).set(end);
}

/// Keeps our own leaf fresh: a new one at half of its life. Never ends.
async fn renew(signing: &Signing, identity: &Identity) {
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
