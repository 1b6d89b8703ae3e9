//! Where requests and bytes are let in, or not. In: this workload's settings as they are now. Out: nothing, or the failure
//! that says which policy.

use std::cell::{OnceCell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderName;
use http::request::Parts;

use super::external::{self, Asked, External, Whom};
use super::under_way::{self, Admission, Place};
use super::{Connection, Guard, Guards, RequestFacts, Token, Verdict, Watched};
use crate::authentication::Verified;
use crate::exchange::Exchange;
use crate::http::{Body, path};
use crate::inbound::decide;
use crate::respond::{External as Refusal, Failure};
use crate::store::SelfConfig;
use crate::telemetry::{Carries, DryRun};
use crate::worker::Worker;

/// Settings by which one request is asked about, where they change while an answer is waited for.
const VIEWS: usize = 4;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// One connection's way in: what its policies come to is kept until they change.
pub struct Gate {
    connection: Rc<Connection>,
    /// Of HTTP/1: where the present request can be decided again.
    place: OnceCell<Place>,
    /// Routes may look at claims.
    routes: bool,
    known: RefCell<Option<(Arc<SelfConfig>, Rc<Guard>)>>,
    /// What somebody else is asked about.
    asking: RefCell<Option<(Arc<External>, Rc<Guard>)>>,
}

impl Gate {
    /// Of a connection.
    #[must_use]
    pub fn new(connection: Rc<Connection>) -> Self {
        Self {
            connection,
            place: OnceCell::new(),
            routes: false,
            known: RefCell::default(),
            asking: RefCell::default(),
        }
    }

    /// Of a connection whose requests are routed from here: what their tokens say goes with them.
    #[must_use]
    pub fn to_routes(connection: Rc<Connection>) -> Self {
        Self { routes: true, ..Self::new(connection) }
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

    /// Asks whoever is to be asked about a request (CUSTOM), before tokens and policies: they see what comes of it. Returns
    /// the settings that are in force then: where others are to be asked by them, they are asked, about the request as it was.
    ///
    /// # Errors
    /// What keeps it out.
    pub async fn ask(
        &self,
        worker: &Rc<Worker>,
        mut config: Arc<SelfConfig>,
        source: SocketAddr,
        (head, body): (&mut Parts, &mut Body),
    ) -> Result<(Asked, Arc<SelfConfig>), Failure> {
        for _ in 0..VIEWS {
            self.begin(&config, head)?;
            let asked = self.ask_by(worker, &config, source, (&mut *head, &mut *body)).await;
            // What is in force now, not what was when the answer was waited for.
            let now = worker.store.self_config().ok_or(Failure::NotReady)?;
            let same = Arc::ptr_eq(&now, &config) || now.external == config.external;
            config = now;
            match asked {
                Ok(asked) if same => {
                    self.begin(&config, head)?;
                    return Ok((asked, config));
                }
                Ok(asked) => asked.undo(head),
                Err(failure) if same || !failure.is_an_answer() => return Err(failure),
                Err(_) => {}
            }
        }
        Err(Failure::External(Refusal::CannotAsk("who is asked changes faster than he answers".to_owned())))
    }

    async fn ask_by(
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
    pub fn admit(
        &self,
        worker: &Worker,
        config: &Arc<SelfConfig>,
        (head, body): (&mut Parts, &mut Body),
        exchange: &mut Exchange,
    ) -> Result<(), Failure> {
        // The connection may have ended while somebody was asked, or before this request was looked at at all.
        if let Some(failure) = self.connection.ended.failure() {
            return Err(failure);
        }
        let tokens = &config.jwt_rules;
        let verified = match tokens.is_empty() {
            true => None,
            false => tokens.verify(head, &mut worker.tokens.borrow_mut(), SystemTime::now())?,
        };
        if let Some(verified) = verified.as_ref().filter(|_| self.routes) {
            head.extensions.insert(verified.told());
        }
        if !config.authorization.is_empty() {
            self.decide(worker, config, head, verified.as_ref(), exchange)?;
        }
        let remote = self.remote(head);
        let by = Admission::new(self.connection.clone(), remote, verified, config);
        let permit = match under_way::is_own(head) {
            true => worker.under_way.admit(by, head),
            false => self.place.get_or_init(|| worker.under_way.connect()).admit(by),
        };
        permit.follow(body);
        exchange.permit(permit);
        Ok(())
    }

    fn decide(
        &self,
        worker: &Worker,
        config: &Arc<SelfConfig>,
        head: &Parts,
        verified: Option<&Verified>,
        exchange: &mut Exchange,
    ) -> Result<(), Failure> {
        let token = verified.map(|v| Token::new(&v.claims, v.space_delimited()));
        let (guard, facts) = (self.guard(worker, config), RequestFacts::new(head, self.remote(head), token));
        let watched = guard.watch(&facts);
        if !watched.is_empty() {
            exchange.policies(watch(worker, &self.connection, &watched, Carries::Requests));
        }
        told(guard.decide(&facts))
    }

    fn guard(&self, worker: &Worker, config: &Arc<SelfConfig>) -> Rc<Guard> {
        let mut known = self.known.borrow_mut();
        match &*known {
            Some((of, guard)) if Arc::ptr_eq(of, config) => guard.clone(),
            _ => {
                let guard = worker.guards.borrow_mut().get(config, &self.connection);
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
        if let Some(failure) = connection.ended.failure() {
            return Err(failure);
        }
    }
    bytes(config, connection)
}

/// What a connection's bytes are told of that decides nothing.
#[must_use]
pub fn watch_bytes(worker: &Worker, config: &SelfConfig, connection: &Connection) -> Option<Rc<str>> {
    let watched = config.authorization.watch_bytes(connection);
    (!watched.is_empty()).then(|| watch(worker, connection, &watched, Carries::Bytes))
}

/// Counts what dry runs come to; what the log says.
fn watch(worker: &Worker, connection: &Connection, watched: &Watched, carries: Carries) -> Rc<str> {
    for (action, shadow) in watched.shadows() {
        let port = connection.destination.port();
        worker.telemetry.dry_run(DryRun { carries, port, action, result: shadow.result() });
    }
    Rc::from(watched.to_string())
}

/// Whether nothing that could be asked for on a connection would be let in.
#[must_use]
pub fn is_shut(config: &Arc<SelfConfig>, connection: &Connection, guards: &mut Guards) -> bool {
    !config.authorization.is_empty()
        && matches!(guards.get(config, connection).whole(), Some(Verdict::Denied(_)))
}

fn told(verdict: Verdict) -> Result<(), Failure> {
    match verdict {
        Verdict::Allowed => Ok(()),
        Verdict::Denied(rule) => Err(Failure::Denied { rule }),
    }
}
