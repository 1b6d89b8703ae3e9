//! The live inbound connections of one worker, so that a decision can be revised.
//!
//! In: each connection, while it lives. Out: [`Live::revise`] ends what policy or trust would not let in any more. Bytes end at
//! once, and so does everything on a connection that would not even be taken now; where policies forbid what it may carry, its
//! requests are decided one by one ([`UnderWay`]).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use mesh_proto::runtime::identity::RootsHandle;
use mesh_proto::runtime::tls::{Role, verify_chain};
use rustls::pki_types::{CertificateDer, UnixTime};

use super::decide::{Through, ended, still_allowed};
use crate::authorization::external::External;
use crate::authorization::under_way::UnderWay;
use crate::authorization::{Connection, Guards, gate};
use crate::drain::Closer;
use crate::gateway::termination::Terminations;
use crate::respond::Failure;
use crate::store::SelfConfig;

const UNTRUSTED: &str = "the client's certificate is not trusted any more";

/// What a decision was made on.
pub struct Admitted {
    /// Who is at the other end, and which port of ours it came to.
    pub connection: Rc<Connection>,
    /// It carries bytes, not requests.
    pub bytes: bool,
    /// How it came through.
    pub through: Through,
    /// The peer's chain, where it showed one.
    pub chain: Vec<CertificateDer<'static>>,
    /// Ends it.
    pub closer: Closer,
    /// Who was asked about its bytes when it was let in.
    pub asked: Option<Arc<External>>,
    /// By what a gateway's server has let its client in.
    pub client: Option<Client>,
}

/// A client of a gateway that was asked for a certificate.
pub struct Client {
    /// The server's settings.
    pub key: Arc<[u8]>,
    /// By which of its roots it was let in last.
    pub trust: Cell<u64>,
    /// What the client has shown.
    pub chain: Vec<CertificateDer<'static>>,
}

impl Client {
    /// Whether it would be let in by what there is now.
    fn is_trusted(&self, terminations: &Terminations) -> bool {
        let Some(now) = terminations.find(&self.key) else { return false };
        if now.trust != self.trust.get() {
            if !now.takes(&self.chain) {
                return false;
            }
            self.trust.set(now.trust);
        }
        true
    }
}

/// All of them.
#[derive(Default, Clone)]
pub struct Live(Rc<Inner>);

#[derive(Default)]
struct Inner {
    next: Cell<u64>,
    connections: RefCell<HashMap<u64, Admitted>>,
}

/// One; gone when dropped.
pub struct Entry {
    id: u64,
    of: Rc<Inner>,
}

impl Live {
    /// Remembers a connection until the guard is dropped.
    #[must_use]
    pub fn admit(&self, admitted: Admitted) -> Entry {
        let id = self.0.next.get();
        self.0.next.set(id + 1);
        self.0.connections.borrow_mut().insert(id, admitted);
        Entry { id, of: self.0.clone() }
    }

    /// Ends every connection that would not be let in now; says how many.
    pub fn revise(
        &self,
        config: &Arc<SelfConfig>,
        roots: Option<&RootsHandle>,
        guards: &RefCell<Guards>,
        under_way: &UnderWay,
        terminations: &Terminations,
    ) -> usize {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = UnixTime::since_unix_epoch(now);
        let connections = self.0.connections.borrow();
        let trusted = |c: &Admitted| match (&c.client, roots) {
            (Some(client), _) => client.is_trusted(terminations),
            (None, Some(roots)) if !c.chain.is_empty() => {
                verify_chain(&c.chain, roots, Role::Client, now).is_ok()
            }
            _ => true,
        };
        // Each request is asked for; a connection that none can pass on any more has no use.
        let permitted = |c: &Admitted| match c.bytes {
            true => gate::bytes(config, &c.connection).is_ok() && was_asked(config, c),
            false => !gate::is_shut(config, &c.connection, &mut guards.borrow_mut()),
        };
        let any = Cell::new(false);
        let refused = connections.values().filter(|c| {
            let port = c.connection.destination.port();
            let untrusted = || (!trusted(c)).then(|| Failure::Handshake(UNTRUSTED.to_owned()));
            if let Some(failure) = ended(config, port, c.through).or_else(untrusted) {
                // Also for what is on its way to being let in: whoever waits for an answer about it, or for its body.
                c.connection.ended.end(failure);
                any.set(true);
                return true;
            }
            !still_allowed(config, port, c.through) || !permitted(c)
        });
        let refused = refused.map(|c| c.closer.revoke()).count();
        if any.get() {
            under_way.end();
        }
        refused
    }

    /// How many live.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.connections.borrow().len()
    }

    /// Whether none lives.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Whether whoever is to be asked about a connection now was asked when it began.
fn was_asked(config: &SelfConfig, admitted: &Admitted) -> bool {
    let before = admitted.asked.as_deref();
    config.external.as_ref().is_none_or(|now| now.still_holds(before, &admitted.connection))
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.of.connections.borrow_mut().remove(&self.id);
    }
}
