//! Asking about one request, or about a connection that carries bytes.
//!
//! In: what was selected for it. Out: the changes to carry out, or the failure that the client is told.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::HeaderMap;
use http::header::{EXPECT, UPGRADE};
use http::request::Parts;

use super::answer::{Answer, NoAnswer};
use super::{Changes, External, Protocol, Provider, body, call, grpc, http as by_http};
use crate::authorization::{Connection, Verdict};
use crate::http::Body;
use crate::respond::{External as Refusal, Failure};
use crate::store::SelfConfig;
use crate::worker::Worker;

/// Whose request it is.
#[derive(Debug, Clone, Copy)]
pub struct Whom<'a> {
    /// What is known of the connection.
    pub connection: &'a Connection,
    /// The client's end of it.
    pub source: SocketAddr,
}

/// What came of asking.
#[derive(Debug, Default)]
pub struct Asked {
    /// The request about which somebody was asked, as it was before he changed it.
    before: Option<Box<Parts>>,
    changes: Option<Box<Changes>>,
}

impl Asked {
    /// The request about which somebody was asked, as it was before he changed it.
    #[must_use]
    pub fn before(&self) -> Option<&Parts> {
        self.before.as_deref()
    }

    /// Makes of a request what it was.
    pub(in crate::authorization) fn undo(self, head: &mut Parts) {
        if let Some(before) = self.before {
            *head = *before;
        }
    }

    /// Changes the answer to a request that has passed.
    pub fn to_response(&self, headers: &mut HeaderMap) {
        if let Some(changes) = &self.changes {
            changes.to_response(headers);
        }
    }
}

impl External {
    /// Asks about a request that `rule` has selected. It goes on as the provider wants it.
    ///
    /// # Errors
    /// It may not pass.
    pub(in crate::authorization) async fn request(
        &self,
        worker: &Rc<Worker>,
        whom: Whom<'_>,
        rule: &Arc<str>,
        head: &mut Parts,
        content: &mut Body,
    ) -> Result<Asked, Failure> {
        let provider = self.provider()?;
        // An upgraded stream is no body, and has no end.
        let shown = provider.body.filter(|_| !head.headers.contains_key(UPGRADE));
        let size = content.known_len();
        let beginning = match shown {
            Some(shown) => {
                let waits = take_expectation(&mut head.headers);
                Some(body::hold(content, shown, worker.settings.hold_timeout, waits).await?)
            }
            None => None,
        };
        let answer = match &provider.protocol {
            Protocol::Grpc => {
                let as_bytes = shown.is_some_and(|shown| shown.as_bytes);
                let mut told = grpc::attributes(&whom, worker.identity.id());
                told.request = Some(grpc::request(head, size, beginning.as_ref(), as_bytes));
                by_grpc(worker, provider, told).await
            }
            Protocol::Http(settings) => match by_http::request(settings, head, beginning.as_ref()) {
                Ok((asked, body)) => call::call(worker, provider, false, &asked, &body)
                    .await
                    .and_then(|received| by_http::answer(settings, received, &head.headers)),
                Err(why) => Err(why),
            },
        };
        let changes = self.verdict(provider, rule, answer, &head.headers)?;
        let before = Some(Box::new(head.clone()));
        if let Some(changes) = &changes {
            changes.to_request(head);
        }
        Ok(Asked { before, changes: changes.map(Box::new) })
    }

    /// What an answer means here. `client`: what the request that is asked about has.
    fn verdict(
        &self,
        provider: &Provider,
        rule: &Arc<str>,
        answer: Result<Answer, NoAnswer>,
        client: &HeaderMap,
    ) -> Result<Option<Changes>, Failure> {
        let failure = |why: &str| {
            tracing::debug!(provider = self.name, %rule, "external authorization: {why}");
            let why = format!("{}: {why}", self.name);
            Err(Failure::External(Refusal::NotAnswered { why, status: provider.status_on_error }))
        };
        match answer {
            Ok(Answer::Allowed(changes)) => Ok(Some(changes)),
            Ok(Answer::Denied(denial)) => {
                Err(Failure::External(Refusal::Denied { rule: rule.clone(), denial: Box::new(denial) }))
            }
            Err(NoAnswer::Failed(why)) if provider.fail_open => {
                tracing::debug!(provider = self.name, %rule, "passes without an answer (failOpen): {why}");
                match &provider.protocol {
                    Protocol::Http(settings) => Ok(Some(by_http::unanswered(settings, client))),
                    Protocol::Grpc => Ok(None),
                }
            }
            Err(NoAnswer::Failed(why) | NoAnswer::Invalid(why)) => failure(&why),
        }
    }
}

/// Whether the client waits to be told to send its body. Who is shown it tells the client, as in Envoy: the application learns of
/// the request only afterwards, and need not say anything.
fn take_expectation(headers: &mut HeaderMap) -> bool {
    let waits = headers.get(EXPECT).is_some_and(|e| e.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if waits {
        headers.remove(EXPECT);
    }
    waits
}

impl External {
    /// Whom to ask.
    fn provider(&self) -> Result<&Provider, Failure> {
        self.provider.as_ref().map_err(|trouble| Failure::External(Refusal::CannotAsk(trouble.clone())))
    }
}

async fn by_grpc(
    worker: &Rc<Worker>,
    provider: &Provider,
    told: mesh_proto::wire::envoy::service::auth::v3::AttributeContext,
) -> Result<Answer, NoAnswer> {
    let head = grpc::head(provider.cluster.name().host(), provider.timeout);
    let received = call::call(worker, provider, true, &head, &grpc::framed(told)).await?;
    grpc::answer(&received)
}

/// Whether a connection's bytes may pass, as far as another one is asked. What HTTP alone can ask for is not asked about
/// bytes: they do not pass then (Istio lets them).
///
/// # Errors
/// They may not.
pub async fn bytes(worker: &Rc<Worker>, config: &SelfConfig, whom: Whom<'_>) -> Result<(), Failure> {
    let Some(external) = &config.external else { return Ok(()) };
    let Verdict::Denied(rule) = external.selection.of_bytes(whom.connection) else { return Ok(()) };
    let rule = rule.unwrap_or_else(|| Arc::from("none"));
    let provider = external.provider()?;
    let answer = match &provider.protocol {
        Protocol::Grpc => {
            Box::pin(by_grpc(worker, provider, grpc::attributes(&whom, worker.identity.id()))).await
        }
        Protocol::Http(_) => Err(NoAnswer::Invalid("by HTTP it cannot be asked about bytes".to_owned())),
    };
    external.verdict(provider, &rule, answer, &HeaderMap::new()).map(|_| ())
}
