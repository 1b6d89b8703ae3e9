//! Certificates with lives of seconds, in real time: certificates are about the clock on the wall.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use mesh_proto::runtime::certificates::{CaConfig, Rotation, describe, obtain};
use mesh_proto::runtime::identity::Identity;
use mesh_proto::runtime::tls::{self, ClientAuth, ClientIdentity, Expect, client_config, server_config};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;

fn settings(dir: &Path, address: SocketAddr, account: &str) -> CaConfig {
    let file = dir.join(format!("{account}.token"));
    std::fs::write(&file, token(account, Duration::from_secs(3600))).unwrap();
    CaConfig {
        address: address.to_string(),
        roots: dir.join("root.pem"),
        token: Some(file),
        identity: id(account),
        authority: mesh_proto::runtime::certificates::authority_id(id(account).trust_domain()),
        state_dir: dir.join(format!("{account}.state")),
        ttl: None,
    }
}

/// Waits for the next leaf.
async fn next_leaf(identity: &Identity) {
    let (mut changed, serial) = (identity.changed(), identity.leaf().serial.clone());
    let wait = async {
        while identity.leaf().serial == serial {
            changed.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("a new leaf in time");
}

/// Waits for a failed renewal.
async fn next_failure(rotation: &Rotation) -> String {
    let mut watch = rotation.watch();
    let failed = watch.wait_for(|status| status.last_error.is_some());
    let status =
        tokio::time::timeout(Duration::from_secs(20), failed).await.expect("a failure in time").unwrap();
    status.last_error.clone().unwrap()
}

type Streams = (tokio_rustls::server::TlsStream<DuplexStream>, tokio_rustls::client::TlsStream<DuplexStream>);

async fn connect(from: &Identity, to: &Identity) -> std::io::Result<Streams> {
    let (near, far) = tokio::io::duplex(64 << 10);
    let client = client_config(
        ClientIdentity::Mesh(from),
        from.roots_handle().clone(),
        Expect::Exactly(to.id().clone()),
        &[],
    );
    let server = server_config(to, ClientAuth::Required, &[]);
    tokio::try_join!(
        TlsAcceptor::from(server).accept(far),
        TlsConnector::from(client).connect(tls::server_name("b:1"), near)
    )
}

async fn echo((server, client): &mut Streams) {
    client.write_all(b"x").await.unwrap();
    client.flush().await.unwrap();
    assert_eq!(server.read_u8().await.unwrap(), b'x');
}

#[tokio::test]
async fn renews_under_an_open_connection() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(dir.path(), 3).await;
    let (a, rotation) = obtain(settings(dir.path(), running.address, "a")).await;
    let (b, _other) = obtain(settings(dir.path(), running.address, "b")).await;
    assert_eq!((a.id(), b.id()), (&id("a"), &id("b")));
    let mut open = connect(&a, &b).await.unwrap();
    let first = a.leaf();
    for _ in 0..2 {
        next_leaf(&a).await;
        echo(&mut open).await;
    }
    while SystemTime::now() < first.not_after {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // The first leaf is over: new connections show a newer one.
    let mut again = connect(&a, &b).await.unwrap();
    echo(&mut again).await;
    assert!(rotation.status().renewals >= 2);
    assert_eq!(a.leaf().certified_key.cert.len(), 1, "the root is not shown to peers");
    let told = describe(&a);
    assert_eq!(told["identity"], id("a").as_str());
    assert_eq!(told["serial"], a.leaf().serial.as_str());
    assert_eq!(told["roots"].as_array().unwrap().len(), 1);
    running.stop().await;
}

#[tokio::test]
async fn renews_when_the_authority_was_away_past_half_of_the_life() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(dir.path(), 4).await;
    let address = running.address;
    let config = settings(dir.path(), address, "a");
    let token_file = config.token.clone().unwrap();
    let (a, rotation) = obtain(config).await;
    // From here on only the certificate speaks for us.
    std::fs::remove_file(token_file).unwrap();
    running.stop().await;
    let error = next_failure(&rotation).await;
    assert!(!error.is_empty());
    assert!(a.leaf().is_valid_at(SystemTime::now()), "retries come before the end");
    let (again, root) =
        (Running::start_at(dir.path(), 3600, address), std::fs::read(dir.path().join("root.pem")));
    let again = again.await;
    next_leaf(&a).await;
    assert_eq!(
        root.unwrap(),
        std::fs::read(dir.path().join("root.pem")).unwrap(),
        "a restart keeps the root"
    );
    assert_eq!(rotation.watch().wait_for(|s| s.renewals > 0).await.unwrap().last_error, None);
    again.stop().await;
}

#[tokio::test]
async fn starts_from_disk_while_the_authority_is_away() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(dir.path(), 3600).await;
    let config = settings(dir.path(), running.address, "a");
    let (a, rotation) = obtain(config.clone()).await;
    let serial = a.leaf().serial.clone();
    running.stop().await;
    drop((a, rotation));
    let mode = |path: PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(config.state_dir.clone()), 0o700);
    assert_eq!(mode(config.state_dir.join("identity.pem")), 0o600);

    let (a, rotation) = obtain(config.clone()).await;
    assert_eq!(a.leaf().serial, serial);
    let due = rotation.status().renew_at.duration_since(SystemTime::now()).unwrap().as_secs();
    assert!((1500..2100).contains(&due), "half of its life is not yet over: {due}");
}

#[tokio::test]
async fn a_stored_certificate_that_is_not_good_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(dir.path(), 3600).await;
    let config = settings(dir.path(), running.address, "a");
    let file = config.state_dir.join("identity.pem");
    let (a, rotation) = obtain(config.clone()).await;
    let mut last = a.leaf().serial.clone();
    drop((a, rotation));
    let stored = std::fs::read(&file).unwrap();
    let others = {
        let config = settings(dir.path(), running.address, "b");
        obtain(config.clone()).await;
        std::fs::read(config.state_dir.join("identity.pem")).unwrap()
    };
    let stranger = {
        let other = tempfile::tempdir().unwrap();
        let running = Running::start(other.path(), 3600).await;
        let config = settings(other.path(), running.address, "a");
        obtain(config.clone()).await;
        std::fs::read(config.state_dir.join("identity.pem")).unwrap()
    };
    // Cut short, another workload's, another authority's, readable by others: each means a new one.
    for (content, mode) in [
        (&stored[..stored.len() / 2], 0o600),
        (&b""[..], 0o600),
        (&others, 0o600),
        (&stranger, 0o600),
        (&stored, 0o644),
    ] {
        std::fs::write(&file, content).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        let (a, _rotation) = obtain(config.clone()).await;
        assert_eq!(a.id(), &id("a"));
        assert_ne!(a.leaf().serial, last);
        last.clone_from(&a.leaf().serial);
    }
}

#[tokio::test]
async fn waits_for_roots_and_authority_and_survives_a_new_root() {
    let dir = tempfile::tempdir().unwrap();
    // Nothing is there yet: no roots, nobody listens.
    let address = bind("127.0.0.1:0".parse().unwrap()).local_addr().unwrap();
    let waiting = tokio::spawn(obtain(settings(dir.path(), address, "a")));
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    let running = Running::start_at(dir.path(), 3, address).await;
    let (a, _rotation) = tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap().unwrap();
    running.stop().await;
    // The authority is set up anew: its old state is lost, everybody's certificate is worth nothing.
    std::fs::remove_dir_all(dir.path().join("ca")).unwrap();
    let running = Running::start_at(dir.path(), 3, address).await;
    next_leaf(&a).await;
    let (b, _other) = obtain(settings(dir.path(), address, "b")).await;
    // Whoever renewed before the new root was there renews again.
    while connect(&a, &b).await.is_err() {
        next_leaf(&a).await;
    }
    running.stop().await;
}
