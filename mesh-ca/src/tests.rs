//! The authority on loopback: calls as clients make them, and certificates that renew themselves (`mesh_proto::runtime`
//! `::certificates` against the real thing).

mod calls;
mod rotation;

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mesh_proto::model::SpiffeId;
use mesh_proto::runtime::drain;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;

use crate::Ca;
use crate::config::Config;
use crate::token::{Claims, TokenKey, mint};

fn id(account: &str) -> SpiffeId {
    format!("spiffe://cluster.local/ns/default/sa/{account}").parse().unwrap()
}

fn key() -> TokenKey {
    TokenKey::new(&[0x11; 32])
}

fn token(account: &str, life: Duration) -> String {
    let expires = (SystemTime::now() + life).duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = Claims {
        namespace: "default".to_owned(),
        service_account: account.to_owned(),
        pod: format!("{account}-0"),
        expires,
    };
    mint(&key(), &claims)
}

/// An authority with its state in `dir`, running.
struct Running {
    address: SocketAddr,
    drain: drain::Drain,
    serving: JoinHandle<()>,
}

impl Running {
    async fn start(dir: &Path, leaf_ttl: u64) -> Self {
        Self::start_at(dir, leaf_ttl, "127.0.0.1:0".parse().unwrap()).await
    }

    async fn start_at(dir: &Path, leaf_ttl: u64, listen: SocketAddr) -> Self {
        std::fs::write(dir.join("token.key"), "11".repeat(32)).unwrap();
        let config = Config {
            listen,
            trust_domain: "cluster.local".parse().unwrap(),
            state_dir: dir.join("ca"),
            local_token_key: Some(dir.join("token.key")),
            leaf_ttl: Duration::from_secs(leaf_ttl),
            max_leaf_ttl: Duration::from_secs(7200),
            root_out: dir.join("root.pem"),
            admin: "127.0.0.1:0".parse().unwrap(),
            parent_pid: None,
        };
        mesh_proto::runtime::crypto::install_provider();
        let ca = Ca::open(&config).unwrap();
        let listener = bind(listen);
        let address = listener.local_addr().unwrap();
        let (drain, watch) = drain::channel();
        let serving = tokio::spawn(ca.serve(listener, watch));
        Self { address, drain, serving }
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
