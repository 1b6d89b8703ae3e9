//! Asks the other replicas of the pilot how objects stand with their proxies: a proxy is connected to one of them, and
//! conditions count all. In: the pods that have our identity. Out: [`Others`], for the writer of conditions.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::join_all;
use mesh_proto::runtime::grpc;
use mesh_proto::runtime::identity::Identity;
use mesh_proto::runtime::tls::{ClientIdentity, Expect, client_config};
use mesh_proto::wire::mesh::v1::replicas_client::ReplicasClient;
use mesh_proto::wire::mesh::v1::{StandingRequest, StandingResponse};
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::snapshot::Snapshot;
use crate::status::Others;

/// A replica that has not answered by then is not waited for.
const ANSWER: Duration = Duration::from_secs(2);
/// What a replica told counts for so long after its last answer: its proxies go to another one sooner.
const KEEP: Duration = Duration::from_secs(30);
/// The largest answer: ten thousand objects stay far below.
const MAX_ANSWER: usize = 16 << 20;

/// The other replicas.
pub struct Replicas {
    /// Our pod's name.
    us: Arc<str>,
    namespace: Arc<str>,
    /// Where each replica serves discovery.
    port: u16,
    identity: watch::Receiver<Option<Identity>>,
    known: HashMap<IpAddr, Replica>,
}

struct Replica {
    client: ReplicasClient<Channel>,
    told: StandingResponse,
    answered: Option<Instant>,
    /// Told once, not at every try.
    silent: bool,
}

impl Replicas {
    /// Nobody known yet. `identity`: our certificate, as soon as there is one.
    #[must_use]
    pub fn new(us: &str, namespace: &str, port: u16, identity: watch::Receiver<Option<Identity>>) -> Self {
        Self { us: us.into(), namespace: namespace.into(), port, identity, known: HashMap::new() }
    }

    /// Asks all of them at once, for a bounded time; one that does not answer holds up nobody.
    pub async fn ask(&mut self, snapshot: &Snapshot) -> Others {
        let identity = self.identity.borrow().clone();
        let Some(identity) = identity else { return Others::default() };
        let there = self.pods(snapshot, &identity);
        self.known.retain(|address, _| there.contains(address));
        for address in there {
            if self.known.contains_key(&address) {
                continue;
            }
            match connect(SocketAddr::new(address, self.port), &identity) {
                Ok(replica) => drop(self.known.insert(address, replica)),
                Err(error) => {
                    tracing::warn!(%address, error = format!("{error:#}"), "another replica cannot be asked");
                }
            }
        }
        join_all(self.known.iter_mut().map(|(address, replica)| replica.ask(*address))).await;
        Others::new(self.known.values().filter(|r| r.counts()).flat_map(|r| r.told.objects.iter().cloned()))
    }

    /// The addresses of the other pods that are pilots like us.
    fn pods(&self, snapshot: &Snapshot, identity: &Identity) -> Vec<IpAddr> {
        let pods = snapshot.pods.values();
        let others = pods.filter(|pod| {
            pod.identity == *identity.id() && pod.namespace == self.namespace && pod.name != self.us
        });
        others.map(|pod| pod.address).collect()
    }
}

fn connect(address: SocketAddr, identity: &Identity) -> anyhow::Result<Replica> {
    let expect = Expect::Exactly(identity.id().clone());
    let tls =
        client_config(ClientIdentity::Mesh(identity), identity.roots_handle().clone(), expect, &[b"h2"]);
    let channel = grpc::channel(&address.to_string(), tls).context("its address")?;
    let client = ReplicasClient::new(channel).max_decoding_message_size(MAX_ANSWER);
    Ok(Replica { client, told: StandingResponse::default(), answered: None, silent: false })
}

impl Replica {
    async fn ask(&mut self, address: IpAddr) {
        let request = StandingRequest { known: self.told.version };
        let why = match tokio::time::timeout(ANSWER, self.client.standing(request)).await {
            Ok(Ok(answer)) => {
                let answer = answer.into_inner();
                // The same version: what it told before.
                if answer.version != self.told.version {
                    self.told = answer;
                }
                self.answered = Some(Instant::now());
                self.silent = false;
                return;
            }
            Ok(Err(status)) => status.to_string(),
            Err(_) => format!("no answer within {ANSWER:?}"),
        };
        if !std::mem::replace(&mut self.silent, true) {
            tracing::info!(%address, why, "another replica does not say how objects stand with its proxies");
        }
    }

    fn counts(&self) -> bool {
        self.answered.is_some_and(|at| at.elapsed() < KEEP)
    }
}
