//! The authority on loopback: calls as clients make them, and certificates that renew themselves (`mesh_proto::runtime`
//! `::certificates` against the real thing).

mod calls;
mod federation;
mod follow;
mod plugged;
mod rotation;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mesh_proto::model::SpiffeId;
use mesh_proto::runtime::drain;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;

use crate::Ca;
use crate::config::Config;
use crate::keeper::Keeper;
use crate::limit::Rate;
use crate::token::{Claims, TokenKey, mint};

fn id(account: &str) -> SpiffeId {
    format!("spiffe://cluster.local/ns/default/sa/{account}").parse().unwrap()
}

fn key() -> TokenKey {
    TokenKey::new(&[0x11; 32])
}

fn token(account: &str, life: Duration) -> String {
    token_of(&id(account), life)
}

fn token_of(id: &SpiffeId, life: Duration) -> String {
    let expires = (SystemTime::now() + life).duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = Claims {
        namespace: id.namespace().to_owned(),
        service_account: id.service_account().to_owned(),
        pod: format!("{}-0", id.service_account()),
        expires,
    };
    mint(&key(), &claims)
}

/// An authority with its state in `dir`, running.
struct Running {
    address: SocketAddr,
    drain: drain::Drain,
    serving: JoinHandle<()>,
    keeper: Arc<Keeper>,
}

impl Running {
    async fn start(dir: &Path, leaf_ttl: u64) -> Self {
        Self::start_at(dir, leaf_ttl, "127.0.0.1:0".parse().unwrap()).await
    }

    async fn start_with(dir: &Path, leaf_ttl: u64, rate: Rate) -> Self {
        Self::start_as(dir, leaf_ttl, "127.0.0.1:0".parse().unwrap(), rate).await
    }

    async fn start_at(dir: &Path, leaf_ttl: u64, listen: SocketAddr) -> Self {
        Self::start_as(dir, leaf_ttl, listen, Rate::default()).await
    }

    async fn start_as(dir: &Path, leaf_ttl: u64, listen: SocketAddr, rate_limit: Rate) -> Self {
        std::fs::write(dir.join("token.key"), "11".repeat(32)).unwrap();
        let config = Config {
            listen,
            trust_domain: "cluster.local".parse().unwrap(),
            state_dir: dir.join("ca"),
            local_token_key: Some(dir.join("token.key")),
            leaf_ttl: Duration::from_secs(leaf_ttl),
            min_leaf_ttl: Duration::from_secs(1),
            max_leaf_ttl: Duration::from_secs(7200),
            root_ttl: Duration::from_secs(86400 * 365),
            root_grace_percent: 20,
            rate_limit,
            admin_socket: None,
            bundle_endpoint: None,
            federation: Vec::new(),
            root_out: dir.join("root.pem"),
            admin: "127.0.0.1:0".parse().unwrap(),
            parent_pid: None,
        };
        mesh_proto::runtime::crypto::install_provider();
        let ca = Ca::open(&config).await.unwrap();
        let keeper = ca.keeper();
        let listener = bind(listen);
        let address = listener.local_addr().unwrap();
        let (drain, watch) = drain::channel();
        let serving = tokio::spawn(ca.serve(listener, watch));
        Self { address, drain, serving, keeper }
    }

    async fn stop(self) {
        self.drain.start();
        self.serving.await.unwrap();
    }
}

/// A restart takes the same port again.
fn bind(address: SocketAddr) -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address).unwrap();
    socket.listen(128).unwrap()
}
