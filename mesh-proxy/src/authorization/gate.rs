//! Where requests and bytes are let in, or not. In: this workload's settings as they are now. Out: nothing, or the failure
//! that says which policy.

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderName;
use http::request::Parts;

use super::{Connection, Guard, RequestFacts, Token, Verdict};
use crate::http::path;
use crate::inbound::decide;
use crate::respond::Failure;
use crate::store::SelfConfig;
use crate::worker::Worker;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// One connection's way in: what its policies come to is kept until they change.
pub struct Gate {
    connection: Connection,
    known: RefCell<Option<(Arc<SelfConfig>, Rc<Guard>)>>,
}

impl Gate {
    /// Of a connection.
    #[must_use]
    pub fn new(connection: Connection) -> Self {
        Self { connection, known: RefCell::default() }
    }

    /// Lets a request in: its path is put right, its token verified, its policies asked. What they have looked at is what
    /// goes on.
    ///
    /// # Errors
    /// What keeps it out.
    pub fn admit(&self, worker: &Worker, config: &Arc<SelfConfig>, head: &mut Parts) -> Result<(), Failure> {
        if let Some(failure) = decide::closed(config) {
            return Err(failure);
        }
        path::normalise(&mut head.uri, config.path_normalization)?;
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
