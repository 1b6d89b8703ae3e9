//! The composition root: opens the authority, serves, ends.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use mesh_proto::runtime::identity::{Identity, RootsHandle};
use mesh_proto::runtime::tls::{ClientAuth, server_config};
use mesh_proto::runtime::{crypto, drain, grpc, log, shutdown};
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::net::TcpListener;

use crate::admin;
use crate::attest::Attestor;
use crate::authority::{Authority, Limits, write_public};
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
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("mesh-ca")
        .enable_all()
        .build()
        .context("starting the runtime")?
        .block_on(serve(config))
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let recorder = PrometheusBuilder::new().build_recorder();
    let metrics = recorder.handle();
    metrics::set_global_recorder(recorder).context("metrics")?;
    let ca = Ca::open(&config)?;
    let bind =
        async |address| TcpListener::bind(address).await.with_context(|| format!("listening on {address}"));
    let (listener, admin) = (bind(config.listen).await?, bind(config.admin).await?);
    tracing::info!(listen = %config.listen, trust_domain = %config.trust_domain, "signing");
    let (drain, watch) = drain::channel();
    let serving = tokio::spawn(ca.serve(listener, watch.clone()));
    tokio::spawn(admin::serve(admin, metrics, watch));
    let signal = shutdown::signal().await.context("listening for signals")?;
    tracing::info!(signal, "ending");
    drain.start();
    if tokio::time::timeout(DRAIN, serving).await.is_err() {
        tracing::warn!("ended with open calls");
    }
    Ok(())
}

/// An authority that is ready to serve.
#[derive(Debug)]
pub struct Ca {
    authority: Arc<Authority>,
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
        let authority = Authority::open(&config.state_dir, config.trust_domain.clone(), limits)
            .with_context(|| format!("opening the authority in {}", config.state_dir.display()))?;
        let tokens = config.local_token_key.as_deref().map(TokenKey::read).transpose()?;
        write_public(&config.root_out, &authority.root_pem()).context("writing the root")?;
        let end = authority.not_after().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
        metrics::gauge!(counters::ROOT_EXPIRY).set(end);
        metrics::gauge!(counters::CHAIN_EXPIRY).set(end);
        for counter in
            [counters::CSR, counters::SUCCESS, counters::DENIED, counters::CSR_INVALID, counters::SIGN_FAILED]
        {
            metrics::counter!(counter).increment(0);
        }
        let identity = Identity::new(authority.own_leaf()?, RootsHandle::new(authority.roots()?));
        let attestor = Attestor::new(config.trust_domain.clone(), tokens);
        Ok(Self { authority: Arc::new(authority), attestor, identity })
    }

    /// Serves the certificate service until the drain starts and all calls are done.
    pub async fn serve(self, listener: TcpListener, drain: drain::Watch) {
        let tls = server_config(&self.identity, ClientAuth::Optional, &[b"h2"]);
        let routes = tonic::service::Routes::new(Service::new(self.authority.clone(), self.attestor));
        tokio::select! {
            () = grpc::serve(listener, tls, routes, drain) => {}
            () = renew(&self.authority, &self.identity) => {}
        }
    }
}

/// Keeps our own leaf fresh: a new one at half of its life. Never ends.
async fn renew(authority: &Authority, identity: &Identity) {
    let mut since = SystemTime::now();
    loop {
        let life = identity.leaf().not_after.duration_since(since).unwrap_or_default();
        let left = (since + life / 2).duration_since(SystemTime::now()).unwrap_or_default();
        if !left.is_zero() {
            tokio::time::sleep(left.min(RENEWAL_TICK)).await;
            continue;
        }
        let renewed = authority.own_leaf().map_err(|e| e.to_string());
        match renewed.and_then(|leaf| identity.swap_leaf(leaf).map_err(|e| e.to_string())) {
            Ok(()) => since = SystemTime::now(),
            Err(error) => {
                tracing::error!(error, "our own certificate was not renewed");
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
        }
    }
}
