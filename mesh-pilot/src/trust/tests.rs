//! A pilot and three authorities: one that is away, one of somebody else's, one of ours.

use std::pin::Pin;

use mesh_proto::runtime::certificates::authority_id;
use mesh_proto::runtime::drain;
use mesh_proto::runtime::testing::TestCa;
use mesh_proto::runtime::tls::{ClientAuth, server_config};
use mesh_proto::wire::mesh::v1::authority_server::{Authority, AuthorityServer};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_stream::Stream;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

use super::*;
use crate::push::rules::Rules;
use crate::snapshot::MeshSettings;

const LIMIT: Duration = Duration::from_secs(20);
const SETTLES: Duration = Duration::from_millis(800);
const STOLEN: &str = "spiffe://cluster.local/ns/default/sa/stolen";

struct Running {
    hub: Arc<Hub>,
    identity: Identity,
    told: watch::Receiver<bool>,
    end: watch::Sender<bool>,
    ended: tokio::task::JoinHandle<()>,
    dir: tempfile::TempDir,
}

/// A pilot that follows the authority at `address`; `kept` is what it was told before.
fn pilot(ca: &TestCa, address: &str, kept: Option<&BundleState>) -> Running {
    let mesh = MeshSettings {
        trust_domain: "cluster.local".parse().unwrap(),
        cluster_domain: Arc::from("cluster.local"),
        root_namespace: Arc::from("istio-system"),
    };
    let (snapshot, _) = crate::index::Index::new(mesh).snapshot();
    let hub = Arc::new(Hub::new(snapshot, Box::new(Rules)));
    let identity = ca.identity("istio-system", "mesh-pilot");
    let dir = tempfile::tempdir().unwrap();
    if let Some(kept) = kept {
        std::fs::write(dir.path().join(FILE), kept.encode_to_vec()).unwrap();
    }
    let settings = CaConfig {
        address: address.to_owned(),
        roots: dir.path().join("root.pem"),
        token: None,
        identity: identity.id().clone(),
        authority: authority_id(identity.id().trust_domain()),
        state_dir: dir.path().to_owned(),
        ttl: None,
    };
    let (known, told) = watch::channel(false);
    let name = "mesh-pilot-a".to_owned();
    let (end, ended) = watch::channel(false);
    let (followed, own) = (hub.clone(), identity.clone());
    let trust = Trust { hub: followed, identity: own, ca: settings, name, settles: SETTLES, known, ended };
    let ended = tokio::spawn(trust.follow());
    Running { hub, identity, told, end, ended, dir }
}

impl Running {
    async fn known(&mut self) -> Vec<TrustBundle> {
        tokio::time::timeout(LIMIT, self.told.wait_for(|known| *known)).await.expect("known").unwrap();
        self.hub.trust()
    }
}

async fn serve(ca: &TestCa, routes: Routes) -> (String, drain::Drain) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let tls = server_config(&ca.identity("istio-system", "mesh-ca"), ClientAuth::Optional, &[b"h2"]);
    let (drain, watch) = drain::channel();
    tokio::spawn(grpc::serve(listener, tls, routes, watch));
    (address, drain)
}

fn bundle(ca: &TestCa, domain: &str, tainted: &[&str]) -> TrustBundle {
    TrustBundle {
        trust_domain: domain.to_owned(),
        roots: vec![ca.root_der().to_vec().into()],
        tainted: tainted.iter().map(|id| (*id).to_owned()).collect(),
        ..TrustBundle::default()
    }
}

/// Who was revoked stays revoked, whatever starts in which order.
#[tokio::test]
async fn what_was_told_last_counts_while_the_authority_is_away() {
    let ca = TestCa::new();
    let kept = BundleState { sequence: 7, bundles: vec![bundle(&ca, "cluster.local", &[STOLEN])] };
    let mut running = pilot(&ca, "127.0.0.1:1", Some(&kept));
    assert_eq!(running.known().await, kept.bundles);
    assert!(
        running.identity.roots().is_tainted(&STOLEN.parse().unwrap()),
        "its handshakes are refused here too"
    );
    // Nothing was ever told, and nobody can be asked: nothing is said to anybody.
    let mut new = pilot(&ca, "127.0.0.1:1", None);
    assert!(tokio::time::timeout(Duration::from_millis(300), new.known()).await.is_err());
    assert!(new.hub.trust().is_empty());
}

/// It decodes, and says that nobody is revoked.
#[test]
fn an_empty_file_is_nothing_that_was_told() {
    let (ca, domain) = (TestCa::new(), "cluster.local".parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(FILE);
    let foreign = BundleState { sequence: 1, bundles: vec![bundle(&ca, "b.test", &[])] };
    for content in [Vec::new(), foreign.encode_to_vec()] {
        std::fs::write(&file, content).unwrap();
        assert_eq!(read(&file, &domain), None);
    }
}

/// An issuer that knows of no bundle takes nothing back.
#[tokio::test]
async fn who_was_revoked_stays_revoked_with_another_issuer() {
    let (ca, foreign) = (TestCa::new(), TestCa::of("b.test"));
    let (address, _drain) = serve(&ca, Routes::default()).await;
    let bundles = vec![bundle(&foreign, "b.test", &[]), bundle(&ca, "cluster.local", &[STOLEN])];
    let running = pilot(&ca, &address, Some(&BundleState { sequence: 7, bundles: bundles.clone() }));
    let other = TestCa::new();
    let expected = [bundles[0].clone(), bundle(&other, "cluster.local", &[STOLEN])];
    let told = async {
        while running.hub.trust() != expected {
            // As `certificates` does when the file has changed: what is revoked is not of the file.
            let roots = (*running.identity.roots()).clone();
            let domain = running.identity.id().trust_domain();
            let roots = roots.with_domain(domain, vec![other.root_der()]).unwrap();
            running.identity.swap_roots(roots);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, told).await.expect("told");
    assert!(running.identity.roots().is_tainted(&STOLEN.parse().unwrap()));
}

/// cert-manager's istio-csr, say: certificates, and nothing of ours.
#[tokio::test]
async fn another_issuers_roots_are_those_of_the_file() {
    let ca = TestCa::new();
    let (address, _drain) = serve(&ca, Routes::default()).await;
    let mut running = pilot(&ca, &address, None);
    assert_eq!(running.known().await, [bundle(&ca, "cluster.local", &[])]);
    // Its roots change in the file: told at once.
    let other = TestCa::new();
    running.identity.swap_roots(other.roots());
    let expected = [bundle(&other, "cluster.local", &[])];
    let told = async {
        while running.hub.trust() != expected {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, told).await.expect("told");
}

/// Tells one state, and keeps what pilots report.
struct Ours {
    state: BundleState,
    reports: Arc<Mutex<Vec<BundleReport>>>,
}

#[tonic::async_trait]
impl Authority for Ours {
    type FollowStream = Pin<Box<dyn Stream<Item = Result<BundleState, Status>> + Send>>;

    async fn follow(
        &self,
        request: Request<Streaming<BundleReport>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let (send, receive) = mpsc::unbounded_channel();
        let (state, reports) = (self.state.clone(), self.reports.clone());
        tokio::spawn(async move {
            let _ = send.send(Ok(state));
            let mut incoming = request.into_inner();
            while let Ok(Some(report)) = incoming.message().await {
                reports.lock().push(report);
            }
            drop(send);
        });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(receive))))
    }
}

#[tokio::test]
async fn our_authority_is_followed_told_and_remembered() {
    let (ca, foreign) = (TestCa::new(), TestCa::of("b.test"));
    let bundles = vec![bundle(&foreign, "b.test", &[]), bundle(&ca, "cluster.local", &[STOLEN])];
    let state = BundleState { sequence: 3, bundles: bundles.clone() };
    let reports = Arc::new(Mutex::new(Vec::new()));
    let service = AuthorityServer::new(Ours { state: state.clone(), reports: reports.clone() });
    let (address, _drain) = serve(&ca, Routes::new(service)).await;
    let started = Instant::now();
    let mut running = pilot(&ca, &address, None);
    assert_eq!(running.known().await, bundles);
    let reported = async {
        while reports.lock().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, reported).await.expect("a report");
    assert!(started.elapsed() >= SETTLES, "said before proxies had the time to come back");
    let first = reports.lock()[0].clone();
    assert_eq!((first.pilot.as_str(), first.sequence, first.behind), ("mesh-pilot-a", 3, 0));
    let domain = running.identity.id().trust_domain().clone();
    let domain = &domain;
    assert_eq!(read(&running.dir.path().join(FILE), domain), Some(state));
    assert!(!reports.lock().iter().any(|report| report.ended));
    // Its last word, and nothing after it.
    running.end.send_replace(true);
    tokio::time::timeout(LIMIT, running.ended).await.expect("it has ended").unwrap();
    assert!(reports.lock().last().is_some_and(|report| report.ended && report.pilot == "mesh-pilot-a"));
    // Nobody else is the authority.
    let impostor = TestCa::new();
    let service = AuthorityServer::new(Ours { state: BundleState::default(), reports });
    let (address, _other) = serve(&impostor, Routes::new(service)).await;
    let mut deceived = pilot(&ca, &address, None);
    assert!(tokio::time::timeout(Duration::from_millis(300), deceived.known()).await.is_err());
}
