//! Where requests and bytes are let in, or not. In: this workload's settings as they are now. Out: nothing, or the failure
//! that says which policy.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderName;
use http::request::Parts;

use super::external::{self, Asked, External, Whom};
use super::{Connection, Guard, RequestFacts, Token, Verdict};
use crate::http::{Body, path};
use crate::inbound::decide;
use crate::respond::Failure;
use crate::store::SelfConfig;
use crate::worker::Worker;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// One connection's way in: what its policies come to is kept until they change.
pub struct Gate {
    connection: Connection,
    known: RefCell<Option<(Arc<SelfConfig>, Rc<Guard>)>>,
    /// What somebody else is asked about.
    asking: RefCell<Option<(Arc<External>, Rc<Guard>)>>,
}

impl Gate {
    /// Of a connection.
    #[must_use]
    pub fn new(connection: Connection) -> Self {
        Self { connection, known: RefCell::default(), asking: RefCell::default() }
    }

    /// Puts a request's path right. What policies look at from here on is what goes on.
    ///
    /// # Errors
    /// Nothing is let in, or the path is none.
    pub fn begin(&self, config: &SelfConfig, head: &mut Parts) -> Result<(), Failure> {
        if let Some(failure) = decide::closed(config) {
            return Err(failure);
        }
        path::normalise(&mut head.uri, config.path_normalization)?;
        Ok(())
    }

    /// Asks whoever is to be asked about a request (CUSTOM), before tokens and policies: they see what comes of it.
    ///
    /// # Errors
    /// What keeps it out.
    pub async fn ask(
        &self,
        worker: &Rc<Worker>,
        config: &SelfConfig,
        source: SocketAddr,
        (head, body): (&mut Parts, &mut Body),
    ) -> Result<Asked, Failure> {
        let Some(external) = &config.external else { return Ok(Asked::default()) };
        let facts = RequestFacts::new(head, self.remote(head), None);
        let Verdict::Denied(rule) = self.asking(external).decide(&facts) else { return Ok(Asked::default()) };
        let rule = rule.unwrap_or_else(|| Arc::from("none"));
        let whom = Whom { connection: &self.connection, source };
        // Boxed: who is not asked about does not pay for it.
        Box::pin(external.request(worker, whom, &rule, head, body)).await
    }

    /// Lets a request in: its token is verified, its policies asked.
    ///
    /// # Errors
    /// What keeps it out.
    pub fn admit(&self, worker: &Worker, config: &Arc<SelfConfig>, head: &mut Parts) -> Result<(), Failure> {
        let tokens = &config.jwt_rules;
        let verified = match tokens.is_empty() {
            true => None,
            false => tokens.verify(head, &mut worker.tokens.borrow_mut(), SystemTime::now())?,
        };
        if config.authorization.is_empty() {
            return Ok(());
        }
        let token = verified.as_ref().map(|v| Token::new(&v.claims, v.space_delimited));
        told(self.guard(config).decide(&RequestFacts::new(head, self.remote(head), token)))
    }

    fn guard(&self, config: &Arc<SelfConfig>) -> Rc<Guard> {
        let mut known = self.known.borrow_mut();
        match &*known {
            Some((of, guard)) if Arc::ptr_eq(of, config) => guard.clone(),
            _ => {
                let guard = Rc::new(Guard::of_requests(&config.authorization, &self.connection));
                known.insert((config.clone(), guard)).1.clone()
            }
        }
    }

    fn asking(&self, external: &Arc<External>) -> Rc<Guard> {
        let mut asking = self.asking.borrow_mut();
        match &*asking {
            Some((of, guard)) if Arc::ptr_eq(of, external) => guard.clone(),
            _ => {
                let guard = Rc::new(external.guard(&self.connection));
                asking.insert((external.clone(), guard)).1.clone()
            }
        }
    }

    /// The client: whom a verified peer says that it has a request from; of nobody else anything is believed.
    fn remote(&self, head: &Parts) -> IpAddr {
        let said = || {
            let last = head.headers.get_all(&FORWARDED_FOR).iter().next_back()?;
            let last = last.to_str().ok()?.rsplit(',').next()?;
            last.trim().parse::<IpAddr>().ok()
        };
        let believed = self.connection.peer.as_ref().and_then(|_| said());
        believed.unwrap_or(self.connection.source)
    }
}

/// Whether a connection's bytes may pass.
///
/// # Errors
/// Which policy keeps it out.
pub fn bytes(config: &SelfConfig, connection: &Connection) -> Result<(), Failure> {
    match decide::closed(config) {
        Some(failure) => Err(failure),
        None => told(config.authorization.of_bytes(connection)),
    }
}

/// The same, and whoever is to be asked about it (CUSTOM) lets them pass. `source`: the client's end.
///
/// # Errors
/// What keeps it out.
pub async fn bytes_of(
    worker: &Rc<Worker>,
    config: &SelfConfig,
    connection: &Connection,
    source: SocketAddr,
) -> Result<(), Failure> {
    if config.external.is_some() {
        if let Some(failure) = decide::closed(config) {
            return Err(failure);
        }
        external::bytes(worker, config, Whom { connection, source }).await?;
    }
    bytes(config, connection)
}

/// Whether nothing that could be asked for on a connection would be let in.
#[must_use]
pub fn is_shut(config: &SelfConfig, connection: &Connection) -> bool {
    let guard = || Guard::of_requests(&config.authorization, connection);
    !config.authorization.is_empty() && matches!(guard().whole(), Some(Verdict::Denied(_)))
}

fn told(verdict: Verdict) -> Result<(), Failure> {
    match verdict {
        Verdict::Allowed => Ok(()),
        Verdict::Denied(rule) => Err(Failure::Denied { rule }),
    }
}
