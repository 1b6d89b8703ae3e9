//! The authority on Kubernetes: settings from the environment, the signing certificate from a Secret, callers attested by
//! the API server, the roots in a ConfigMap.
//!
//! Any number of replicas run side by side: what they share is in Secrets and in the ConfigMap, and each reads them again
//! every few seconds. Nothing is kept anywhere else, so that a restart loses nothing.

mod api;
mod environment;
pub mod review;
pub mod shelf;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Context;
use kube::Client;
use mesh_proto::runtime::{crypto, drain, log, shutdown};
use tokio::net::TcpListener;

use crate::admin;
use crate::admin::commands::{self, Door};
use crate::app::{self, Ca};
use crate::attest::{Attestor, Tokens};
use crate::keeper::Keeper;
use crate::shelf::Shelf;

pub use environment::{InvalidEnvironment, Settings};

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start: addresses, or no API server is configured. One that is away is waited for.
pub fn run(settings: Settings) -> anyhow::Result<()> {
    crypto::install_provider();
    log::init("mesh-ca");
    app::runtime()?.block_on(serve(settings))
}

async fn serve(settings: Settings) -> anyhow::Result<()> {
    let metrics = app::metrics()?;
    let client = Client::try_default().await.context(
        "finding the API server: run in a pod with a service account, or set KUBECONFIG to a kubeconfig file",
    )?;
    let (listener, health, numbers) =
        (bind(settings.listen).await?, bind(settings.health).await?, bind(settings.metrics).await?);
    let commands = Door::loopback(bind(settings.admin).await?).context("CA_ADMIN")?;
    let bundle = match settings.bundle {
        Some(address) => Some(bind(address).await?),
        None => None,
    };
    let (drain, watch) = drain::channel();
    let ready = admin::Ready::default();
    ready.not_yet("no signing certificate yet");
    tokio::spawn(admin::serve(health, metrics.clone(), ready.clone(), watch.clone()));
    tokio::spawn(admin::serve(numbers, metrics, ready.clone(), watch.clone()));
    let serving = tokio::spawn(async move {
        let shelf = Shelf::Secrets(shelf::Secrets::new(client.clone(), &settings.namespace));
        let keeper = tokio::select! {
            keeper = Keeper::open(shelf, settings.keeper(), &ready) => Arc::new(keeper),
            () = watch.draining() => return,
        };
        let attestor = Attestor::new(settings.own.clone(), Tokens::Reviewed(review::Reviewer::new(client)));
        tokio::spawn(commands::serve(commands, keeper.clone(), watch.clone()));
        if let Some(listener) = bundle {
            tokio::spawn(crate::bundle::serve::serve(listener, keeper.clone(), None, watch.clone()));
        }
        for federated in settings.federation {
            tokio::spawn(crate::federation::keep(federated, keeper.clone()));
        }
        ready.now();
        tracing::info!(listen = %settings.listen, identity = %settings.own, "signing");
        Ca::new(keeper, attestor, settings.rate, settings.pilot).serve(listener, watch).await;
    });
    app::until_signal(drain, shutdown::LINGER, serving).await
}

/// Listens on `address`; where there is no IPv6, the IPv6 wildcard is the IPv4 one.
async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listening = match TcpListener::bind(address).await {
        Err(_) if address.is_ipv6() && address.ip().is_unspecified() => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        other => other,
    };
    listening.with_context(|| format!("listening on {address}"))
}

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
