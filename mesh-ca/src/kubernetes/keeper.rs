//! Keeps authority, Secret and ConfigMap in step, for as long as the process lives.
//!
//! A new root is published before it signs: a leaf that it signed is good only in the eyes of those who have heard of it.
//! What cannot be read changes nothing: the authority that signs goes on, and the log says what is wrong, once.

use std::time::{Duration, SystemTime};

use kube::Client;
use mesh_proto::model::TrustDomain;
use tokio::time::Instant;

use super::bundle::{Bundle, NotPublished, Publisher};
use super::environment::Settings;
use super::secret::{Found, NoMaterial, Secrets};
use crate::admin::Ready;
use crate::app::Handle;
use crate::authority::{Authority, OpenError, Policy};

/// How often Secret and ConfigMap are read again.
const LOOK: Duration = Duration::from_secs(10);
/// The first wait after a failure at the start; it doubles up to [`LOOK`].
const FIRST_BACKOFF: Duration = Duration::from_millis(250);
/// How long a new root is known before it signs: the kubelet brings a ConfigMap into pods within a minute or so.
const SPREAD: Duration = Duration::from_secs(120);

/// Why a look changed nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    #[error(transparent)]
    Material(#[from] NoMaterial),
    #[error(transparent)]
    Publish(#[from] NotPublished),
    #[error("{version}: {error}")]
    Bad { version: String, error: OpenError },
    #[error("our own leaf: {0}")]
    Own(anyhow::Error),
    #[error(
        "Secrets cacerts and istio-ca-secret are gone: signing goes on with what is in memory, a restart makes a new root"
    )]
    Gone,
}

/// Keeps things in step.
pub(super) struct Keeper {
    secrets: Secrets,
    publisher: Publisher,
    policy: Policy,
    /// The version of the Secret that signs.
    signing: String,
    /// The version of the Secret that waits until its root has spread, and since when.
    waiting: Option<(String, Instant)>,
    /// What is trusted now.
    trusted: Option<Bundle>,
    /// The last failure, so that it is told once.
    told: Option<String>,
}

impl Keeper {
    pub(super) fn new(client: Client, settings: &Settings) -> Self {
        Self {
            secrets: Secrets::new(client.clone(), &settings.namespace),
            publisher: Publisher::new(client, &settings.namespace, settings.limits.max),
            policy: settings.policy(),
            signing: String::new(),
            waiting: None,
            trusted: None,
            told: None,
        }
    }

    /// The first authority, however long it takes, and what keeps it from here on. Its roots are published.
    pub(super) async fn open(mut self, ready: &Ready) -> (Authority, Self) {
        let mut wait = FIRST_BACKOFF;
        loop {
            match self.try_open().await {
                Ok(authority) => {
                    self.told = None;
                    return (authority, self);
                }
                Err(error) => {
                    ready.not_yet(&error.to_string());
                    self.tell(&error);
                }
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LOOK);
        }
    }

    async fn try_open(&mut self) -> Result<Authority, Failed> {
        let found = match self.secrets.find().await? {
            Some(found) => found,
            None => self.secrets.create(self.domain()).await?,
        };
        let version = found.version.clone();
        let authority = self.authority(found)?;
        self.publisher.publish(authority.root_certificates(), SystemTime::now()).await?;
        self.signing = version;
        Ok(authority)
    }

    /// Never ends.
    pub(super) async fn keep(mut self, handle: Handle) {
        loop {
            match self.look(&handle).await {
                Ok(()) => self.told = None,
                Err(error) => self.tell(&error),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// One look: what changed since the last one is taken over.
    pub(super) async fn look(&mut self, handle: &Handle) -> Result<(), Failed> {
        let found = self.secrets.find().await;
        // The ConfigMap is kept whatever is wrong with the Secret.
        match found {
            Ok(Some(found)) if found.version != self.signing => self.change(handle, found).await,
            other => {
                self.waiting = None;
                let current = handle.signing();
                self.publish(handle, &current).await?;
                match other? {
                    Some(_) => Ok(()),
                    None => Err(Failed::Gone),
                }
            }
        }
    }

    /// Another signing certificate than the one that signs.
    async fn change(&mut self, handle: &Handle, found: Found) -> Result<(), Failed> {
        let version = found.version.clone();
        let authority = self.authority(found)?;
        let current = handle.signing();
        let known = current.root_certificates().first() == authority.root_certificates().first();
        self.publish(handle, &authority).await?;
        if !known {
            match &self.waiting {
                Some((waiting, since)) if *waiting == version => {
                    if since.elapsed() < SPREAD {
                        return Ok(());
                    }
                }
                _ => {
                    let seconds = SPREAD.as_secs();
                    tracing::info!(version, "a new root is published; it signs in {seconds} s");
                    self.waiting = Some((version, Instant::now()));
                    return Ok(());
                }
            }
        }
        handle.sign_with(authority).map_err(Failed::Own)?;
        tracing::info!(version, "another signing certificate signs");
        self.signing = version;
        self.waiting = None;
        Ok(())
    }

    /// Publishes the roots of `authority`, and trusts what is published.
    async fn publish(&mut self, handle: &Handle, authority: &Authority) -> Result<(), Failed> {
        let bundle = self.publisher.publish(authority.root_certificates(), SystemTime::now()).await?;
        if self.trusted.as_ref() != Some(&bundle) {
            match bundle.roots(self.domain()) {
                Ok(roots) => handle.trust(roots),
                Err(error) => tracing::warn!(%error, "a published root cannot be trusted"),
            }
            self.trusted = Some(bundle);
        }
        Ok(())
    }

    fn authority(&self, found: Found) -> Result<Authority, Failed> {
        let version = found.version;
        Authority::new(found.material, self.policy.clone()).map_err(|error| Failed::Bad { version, error })
    }

    fn domain(&self) -> &TrustDomain {
        self.policy.own.trust_domain()
    }

    fn tell(&mut self, error: &Failed) {
        let text = error.to_string();
        if self.told.as_ref() != Some(&text) {
            if self.signing.is_empty() {
                tracing::error!(error = text, "no signing certificate yet: trying again");
            } else {
                tracing::error!(
                    error = text,
                    "cannot look after certificate and roots: what is in memory goes on"
                );
            }
            self.told = Some(text);
        }
    }
}
