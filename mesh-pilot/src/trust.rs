//! Whom to trust, as the authority says: its bundles in, resources `trust_bundle/...` for every proxy out, and back to the
//! authority how many proxies have them in force.
//!
//! What was said last is kept on disk, so that a pilot that starts while the authority is away tells no less than before:
//! an identity that was revoked stays revoked. Until something is known, discovery is not served. An authority that does not
//! speak `mesh.v1.Authority` (another issuer) revokes nobody, and its roots are those of the file.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mesh_proto::model::{SpiffeId, TrustDomain};
use mesh_proto::runtime::certificates::CaConfig;
use mesh_proto::runtime::grpc;
use mesh_proto::runtime::identity::{Identity, Roots};
use mesh_proto::runtime::tls::{ClientIdentity, Expect, client_config};
use mesh_proto::wire::mesh::v1::authority_client::AuthorityClient;
use mesh_proto::wire::mesh::v1::{BundleReport, BundleState, TrustBundle};
use prost::Message as _;
use rustls::pki_types::CertificateDer;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::push::Hub;
use crate::source::file::last_good::write_by_rename;

/// The file, beside our certificate.
pub(crate) const FILE: &str = "trust.bin";
/// The largest answer: a thousand revoked identities and some roots.
const MAX_STATE: usize = 4 << 20;
/// How often to see how far proxies are.
const LOOK: Duration = Duration::from_millis(250);
/// How often to say so although nothing has changed.
const REPORT: Duration = Duration::from_secs(5);
/// After a lost stream; twice as long after each further one.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// Within that time after a start proxies come back (they wait 3 s at most between two tries): a count before it says that
/// nobody is behind, because nobody is there.
pub(crate) const SETTLED: Duration = Duration::from_secs(6);
/// How often an issuer that does not know of this is asked again: it may have been replaced.
const OTHER_ISSUER: Duration = Duration::from_secs(60);
/// How long an authority may take to hear that we have ended. It finds out by itself too, in minutes.
const FAREWELL: Duration = Duration::from_secs(2);
/// Names of proxies in a report.
const NAMES: usize = 5;

/// Follows the authority.
pub(crate) struct Trust {
    pub hub: Arc<Hub>,
    pub identity: Identity,
    /// Where the authority is and who it is.
    pub ca: CaConfig,
    /// What this replica is called.
    pub name: String,
    /// Nothing is reported until discovery was served for that long.
    pub settles: Duration,
    /// Something is known.
    pub known: watch::Sender<bool>,
    /// This replica serves no more: that is its last word.
    pub ended: watch::Receiver<bool>,
}

impl Trust {
    /// Ends when the authority was told that this replica has ended, or cannot be told.
    pub async fn follow(self) {
        let silent = async {
            self.end().await;
            tokio::time::sleep(FAREWELL).await;
        };
        tokio::select! {
            () = self.follow_until_the_end() => {}
            () = silent => {}
        }
    }

    async fn follow_until_the_end(&self) {
        let file = self.ca.state_dir.join(FILE);
        let mut sequence = 0;
        if let Some(kept) = read(&file, self.identity.id().trust_domain()) {
            tracing::info!(sequence = kept.sequence, "whom to trust, as it was told last");
            sequence = kept.sequence;
            self.take(kept);
        }
        let settled = self.settled();
        let mut wait = RETRY.0;
        let mut told = String::new();
        loop {
            let status = match self.converse(&file, &mut sequence, &settled).await {
                _ if *self.ended.borrow() => return,
                Ok(()) => {
                    wait = RETRY.0;
                    continue;
                }
                Err(status) => status,
            };
            if status.code() == Code::Unimplemented {
                tracing::info!("the issuer tells no trust bundle: its roots are those of the file");
                self.roots_of_the_file().await;
                continue;
            }
            let why = status.message().to_owned();
            if why != told {
                tracing::warn!(
                    why,
                    "the authority does not tell whom to trust; what is known stays in force"
                );
                told = why;
            }
            let _ = tokio::time::timeout(wait, self.end()).await;
            wait = (wait * 2).min(RETRY.1);
        }
    }

    /// Waits for the end.
    async fn end(&self) {
        // Nobody there who could say so: that is the end of a test, not ours.
        if self.ended.clone().wait_for(|ended| *ended).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// One stream, to its end.
    async fn converse(
        &self,
        file: &Path,
        sequence: &mut u64,
        settled: &watch::Receiver<bool>,
    ) -> Result<(), tonic::Status> {
        let expect = Expect::Exactly(self.ca.authority.clone());
        let roots = self.identity.roots_handle().clone();
        let tls = client_config(ClientIdentity::Mesh(&self.identity), roots, expect, &[b"h2"]);
        let channel = grpc::channel(&self.ca.address, tls);
        let channel = channel.map_err(|e| tonic::Status::invalid_argument(e.to_string()))?;
        let mut client = AuthorityClient::new(channel).max_decoding_message_size(MAX_STATE);
        let (reports, outgoing) = mpsc::channel(4);
        let mut states = client.follow(ReceiverStream::new(outgoing)).await?.into_inner();
        let mut look = tokio::time::interval(LOOK);
        let mut said: Option<(BundleReport, Instant)> = None;
        let mut heard = false;
        loop {
            tokio::select! {
                () = self.end() => {
                    // Who has reported nothing is not waited for.
                    if said.is_some() {
                        let _ = reports.send(BundleReport { ended: true, ..self.report(*sequence) }).await;
                    }
                    // Theirs ends when all of ours was heard.
                    drop(reports);
                    while states.message().await?.is_some() {}
                    return Ok(());
                }
                state = states.message() => {
                    let Some(state) = state? else { return Ok(()) };
                    *sequence = state.sequence;
                    heard = true;
                    if let Err(error) = write_by_rename(file, &state.encode_to_vec()) {
                        tracing::warn!(file = %file.display(), %error, "whom to trust cannot be kept");
                    }
                    self.take(state);
                }
                _ = look.tick(), if heard => {
                    if !*settled.borrow() {
                        continue;
                    }
                    let report = self.report(*sequence);
                    let again = said.as_ref().is_none_or(|(last, at)| *last != report || at.elapsed() >= REPORT);
                    if again {
                        if reports.send(report.clone()).await.is_err() {
                            return Ok(());
                        }
                        said = Some((report, Instant::now()));
                    }
                }
            }
        }
    }

    /// Whether discovery has been served for long enough that those who have not come back are gone.
    fn settled(&self) -> watch::Receiver<bool> {
        let (settled, seen) = watch::channel(false);
        // Discovery is served as soon as something is known.
        let (mut known, settles) = (self.known.subscribe(), self.settles);
        tokio::spawn(async move {
            if known.wait_for(|known| *known).await.is_ok() {
                tokio::time::sleep(settles).await;
                settled.send_replace(true);
            }
        });
        seen
    }

    fn report(&self, sequence: u64) -> BundleReport {
        let (proxies, behind) = self.hub.trust_coverage();
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        BundleReport {
            pilot: self.name.clone(),
            sequence,
            proxies: count(proxies),
            behind: count(behind.len()),
            waiting: behind.into_iter().take(NAMES).collect(),
            ended: false,
        }
    }

    /// Has what the authority says in force: here, and at every proxy.
    fn take(&self, state: BundleState) {
        let own = self.identity.id().trust_domain();
        if let Some(bundle) = state.bundles.iter().find(|bundle| bundle.trust_domain == own.as_str()) {
            match roots(&self.identity.roots(), own, bundle) {
                Ok(roots) => self.identity.swap_roots(roots),
                Err(error) => tracing::error!(error, "the authority's bundle cannot be used here"),
            }
        }
        self.hub.set_trust(state.bundles);
        self.known.send_replace(true);
    }

    /// For a while: the roots are those of our own file. Whom an authority of ours has revoked stays revoked, and the other
    /// trust domains that it told stay known: this issuer takes nothing of that back.
    async fn roots_of_the_file(&self) {
        let own = self.identity.id().trust_domain();
        let mut changed = self.identity.changed();
        let until = Instant::now() + OTHER_ISSUER;
        loop {
            let roots = self.identity.roots();
            let certificates = roots.domain(own).map(|d| d.certificates.clone()).unwrap_or_default();
            let is_own = |bundle: &TrustBundle| bundle.trust_domain == own.as_str();
            let (mut known, mut bundles): (Vec<_>, Vec<_>) = self.hub.trust().into_iter().partition(is_own);
            bundles.push(TrustBundle {
                trust_domain: own.to_string(),
                roots: certificates.iter().map(|der| der.to_vec().into()).collect(),
                tainted: known.pop().map(|bundle| bundle.tainted).unwrap_or_default(),
                ..TrustBundle::default()
            });
            self.hub.set_trust(bundles);
            self.known.send_replace(true);
            tokio::select! {
                () = tokio::time::sleep_until(until) => return,
                () = self.end() => return,
                _ = changed.changed() => {}
            }
        }
    }
}

/// Our own roots with what a bundle says of our trust domain.
fn roots(known: &Roots, domain: &TrustDomain, bundle: &TrustBundle) -> Result<Roots, String> {
    let der = |der: &bytes::Bytes| CertificateDer::from(der.to_vec());
    let tainted: Result<_, _> = bundle.tainted.iter().map(|id| id.parse::<SpiffeId>()).collect();
    let roots = known.clone().with_domain(domain, bundle.roots.iter().map(der).collect());
    let roots = roots.map_err(|e| e.to_string())?.with_tainted(domain, tainted.map_err(|e| e.to_string())?);
    let signing = (!bundle.signing.is_empty()).then(|| der(&bundle.signing));
    Ok(roots.with_signing(domain, signing))
}

/// What was told last, if that was kept. What says nothing of our own trust domain `own` is not what was told: an empty
/// file, say, decodes, and would revoke nobody.
fn read(file: &Path, own: &TrustDomain) -> Option<BundleState> {
    let text = match std::fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::error!(file = %file.display(), %error, "whom to trust was kept and cannot be read");
            return None;
        }
    };
    let state = BundleState::decode(text.as_slice()).map_err(|error| error.to_string());
    let whole = |state: &BundleState| state.bundles.iter().any(|bundle| bundle.trust_domain == own.as_str());
    state
        .and_then(|state| whole(&state).then_some(state).ok_or_else(|| format!("no bundle of {own}")))
        .inspect_err(
            |error| tracing::error!(file = %file.display(), %error, "whom to trust: not as it was kept"),
        )
        .ok()
}

#[cfg(test)]
mod tests;
