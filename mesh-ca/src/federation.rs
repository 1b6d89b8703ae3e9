//! Other trust domains: their bundles, fetched from their endpoints or read from files, for as long as the process lives.
//!
//! In: [`Federated`]. Out: roots for [`Keeper::federate`], which tells them to everybody, for identities of that trust
//! domain alone. A bundle that cannot be had changes nothing: the last one stays. Source: the SPIFFE Federation
//! specification §5 (profiles `https_web` and `https_spiffe`).

mod fetch;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mesh_proto::model::{SpiffeId, TrustDomain};
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Deserializer};

use crate::bundle::{Document, InvalidBundle};
use crate::keeper::{Keeper, Told};

/// How often to ask where the document does not say.
const REFRESH: Duration = Duration::from_secs(300);
/// The bounds of what it may say.
const REFRESH_WITHIN: (u64, u64) = (5, 3600);
/// The wait after a failure; twice as long after each further one, up to [`REFRESH`].
const RETRY: Duration = Duration::from_secs(2);
/// More trust domains than that are not federated with.
pub const MAX_DOMAINS: usize = 100;

/// Another trust domain, and where its bundle is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Federated {
    /// Whose identities it vouches for, and nobody else's.
    #[serde(deserialize_with = "parsed")]
    pub trust_domain: TrustDomain,
    /// Where it is.
    pub bundle: Source,
}

/// Where a bundle is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A file with a bundle document, or with PEM roots.
    File(PathBuf),
    /// An endpoint whose certificate is one of the Web's.
    HttpsWeb(Web),
    /// An endpoint that has a SPIFFE identity.
    HttpsSpiffe(Spiffe),
}

/// An `https_web` endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Web {
    /// `https://...`.
    pub url: String,
    /// PEM file with the roots of its certificate; the machine's if absent.
    #[serde(default)]
    pub roots: Option<PathBuf>,
}

/// An `https_spiffe` endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spiffe {
    /// `https://...`.
    pub url: String,
    /// Who serves it.
    #[serde(deserialize_with = "parsed")]
    pub endpoint_spiffe_id: SpiffeId,
    /// The bundle to begin with: a document or PEM roots of the endpoint's trust domain. It is believed until the endpoint
    /// has said something newer, and again when it is another one.
    pub bundle: PathBuf,
}

/// By what an endpoint can be believed.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Known<'a> {
    /// The newest roots of its own trust domain.
    pub(crate) roots: &'a [CertificateDer<'static>],
    /// What names the first bundle that these have taken the place of.
    pub(crate) superseded: Option<&'a str>,
}

/// A bundle that was had.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) document: Document,
    /// What names the first bundle, which this takes the place of.
    pub(crate) first: Option<String>,
}

impl From<Document> for Got {
    fn from(document: Document) -> Self {
        Self { document, first: None }
    }
}

/// Why there is no bundle now.
#[derive(Debug, thiserror::Error)]
pub enum NoBundle {
    /// A file cannot be read.
    #[error("{path}: {why}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// What is there is none.
    #[error("{place}: {source}")]
    Invalid {
        /// Where.
        place: String,
        /// Why.
        source: InvalidBundle,
    },
    /// The endpoint does not answer as it should.
    #[error("{url}: {why}")]
    Endpoint {
        /// Which.
        url: String,
        /// Why.
        why: String,
    },
    /// An old one, whoever served it.
    #[error(
        "the bundle of {trust_domain} has the number {now} (spiffe_sequence) after {known}: an older one is not taken, over a \
         restart neither; if its publisher counts from the beginning again, change the first bundle of the endpoint, or start this \
         authority once without the trust domain"
    )]
    Older {
        /// Whose.
        trust_domain: TrustDomain,
        /// The highest number so far.
        known: u64,
        /// That of this one.
        now: u64,
    },
}

/// The trust domains of `all`, if they can be meant beside our own.
///
/// # Errors
/// When one is our own, or there twice, or there are too many.
pub fn domains(all: &[Federated], own: &TrustDomain) -> Result<Vec<TrustDomain>, String> {
    let mut domains = Vec::new();
    for Federated { trust_domain, .. } in all {
        if trust_domain == own {
            return Err(format!("federation with {own}, which is our own trust domain"));
        }
        if domains.contains(trust_domain) {
            return Err(format!("federation with {trust_domain} twice"));
        }
        domains.push(trust_domain.clone());
    }
    match domains.len() > MAX_DOMAINS {
        true => Err(format!("federation with more than {MAX_DOMAINS} trust domains")),
        false => Ok(domains),
    }
}

/// Keeps the roots of one other trust domain; never ends.
pub async fn keep(federated: Federated, keeper: Arc<Keeper>) {
    let trust_domain = federated.trust_domain.clone();
    let mut course = Course::new(federated, &keeper).await;
    let mut told = String::new();
    let mut retry = RETRY;
    loop {
        let wait = match course.turn(&keeper).await {
            Ok(wait) => {
                retry = RETRY;
                told.clear();
                wait
            }
            Err(error) => {
                let why = error.to_string();
                if why != told {
                    tracing::warn!(%trust_domain, why, "no bundle: the last one stays in force");
                    told = why;
                }
                let wait = retry;
                retry = (retry * 2).min(REFRESH);
                wait
            }
        };
        tokio::time::sleep(wait).await;
    }
}

/// How far we are with one other trust domain.
pub(crate) struct Course {
    pub(crate) federated: Federated,
    /// What was had last.
    known: Option<Document>,
    /// Its number, also before a restart; none of a file, which is the operator's.
    number: Option<u64>,
    /// The first bundle that was last taken the place of: also before the keeper has kept it.
    superseded: Option<String>,
}

impl Course {
    /// As it was kept.
    pub(crate) async fn new(federated: Federated, keeper: &Keeper) -> Self {
        let superseded = keeper.superseded(&federated.trust_domain).await;
        let number = match federated.bundle {
            Source::File(_) => None,
            _ => keeper.number(&federated.trust_domain).await,
        };
        Self { federated, known: None, number, superseded }
    }

    /// Asks once; when to ask again.
    pub(crate) async fn turn(&mut self, keeper: &Keeper) -> Result<Duration, NoBundle> {
        let Federated { trust_domain, bundle: source } = &self.federated;
        // What was fetched before a restart vouches for the endpoint too.
        let all = keeper.told().borrow().clone();
        let known = Known { roots: source.vouching(&all), superseded: self.superseded.as_deref() };
        let Got { document, first } = source.get(known).await?;
        // The operator has begun anew: whatever was known before may be of another time. Nobody else can.
        let anew = first.is_some() && first != self.superseded;
        let (least, most) = REFRESH_WITHIN;
        let hint = document.refresh.map(|seconds| Duration::from_secs(seconds.clamp(least, most)));
        let wait = match source {
            Source::File(_) => Duration::from_secs(least),
            _ => hint.unwrap_or(REFRESH),
        };
        // One without a number is from before its publisher counted: as old as any.
        let now = document.sequence.unwrap_or_default();
        if !anew && let Some(known) = self.number.filter(|known| now < *known) {
            return Err(NoBundle::Older { trust_domain: trust_domain.clone(), known, now });
        }
        if anew || self.known.as_ref() != Some(&document) {
            tracing::info!(%trust_domain, roots = document.roots.len(), "the bundle of another trust domain");
            self.number = document.sequence.filter(|_| !matches!(source, Source::File(_)));
            keeper.federate(trust_domain, &document.roots, self.number, first.clone());
            self.superseded = first.or(self.superseded.take());
            self.known = Some(document);
        }
        Ok(wait)
    }
}

impl Source {
    /// The bundle of now.
    pub(crate) async fn get(&self, known: Known<'_>) -> Result<Got, NoBundle> {
        match self {
            Self::File(path) => fetch::file(path).await.map(Got::from),
            Self::HttpsWeb(web) => fetch::web(web).await.map(Got::from),
            Self::HttpsSpiffe(spiffe) => fetch::spiffe(spiffe, known).await,
        }
    }

    /// The newest roots that can vouch for the endpoint: those of its own trust domain, which need not be the one whose
    /// bundle it has.
    pub(crate) fn vouching<'a>(&self, told: &'a Told) -> &'a [CertificateDer<'static>] {
        let Self::HttpsSpiffe(spiffe) = self else { return &[] };
        let bundle = told.bundles.get(spiffe.endpoint_spiffe_id.trust_domain());
        bundle.map(|bundle| &*bundle.roots).unwrap_or_default()
    }
}

fn parsed<'de, D: Deserializer<'de>, T: std::str::FromStr<Err: std::fmt::Display>>(
    from: D,
) -> Result<T, D::Error> {
    String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
}
