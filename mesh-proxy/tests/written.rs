//! What clients write goes on as they wrote it, in its own place, and steers nothing: rows J17 and C15 of the advisories.

use std::net::SocketAddr;

use mesh_proto::model::Kind;
use mesh_proto::wire::mesh::v1 as wire;
use wire::{MtlsMode, Protocol};

use crate::gateway::{edge, listener};
use crate::support::client;
use crate::support::eventually;
use crate::support::mesh::{PORT, Pair, default_route};
use crate::support::origin::Origin;

/// J17: whatever the path, a redirect leads to the host that was asked, and adds no field to the answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j17_what_a_client_writes_stays_in_its_place() {
    let app = Origin::start("ratings").await;
    let edge = edge(&app, &listener(vec![]), &[]).await;
    let redirected = wire::VirtualHost {
        domains: vec!["a.example".to_owned()],
        table: Some(default_route("ratings", PORT)),
        https_redirect: true,
    };
    let plain =
        wire::Listener { port: 80, target_port: 8081, virtual_hosts: vec![redirected], ..Default::default() };
    edge.pods.mesh.pilot.publish(Kind::Listener, "80", &plain);
    let at = SocketAddr::new(edge.gateway.ip, 8081);
    eventually("the port opens", || async move { tokio::net::TcpStream::connect(at).await.is_ok() }).await;
    for (path, location) in [
        ("/%0d%0aset-cookie:%20a=b", "https://a.example/%0d%0aset-cookie:%20a=b"),
        ("/%0D%0Ax-spoofed: 1", ""),
        ("//evil.example/x", "https://a.example//evil.example/x"),
        (r"/\evil.example", "https://a.example//evil.example"),
        ("/.evil.example/@b", "https://a.example/.evil.example/@b"),
        ("/a/../../../b", "https://a.example/b"),
        ("/x?next=https://evil.example/%0d%0a", "https://a.example/x?next=https://evil.example/%0d%0a"),
        ("/x?a=b#c", ""),
        (".evil.example", ""),
        ("@evil.example", ""),
    ] {
        let answer = client::get(at, "a.example:80", path).await.unwrap();
        let told = (answer.status, answer.header("location").unwrap_or_default());
        assert_eq!(told, (if location.is_empty() { 400 } else { 301 }, location), "{path}");
        assert_eq!((answer.header("set-cookie"), answer.header("x-spoofed")), (None, None), "{path}");
    }
    for host in
        ["a.example@evil.example", "evil.example/a.example", "a.example:80@evil.example", "a.example\\.evil"]
    {
        let answer = client::get(at, host, "/").await.unwrap();
        assert!(answer.status >= 400 && answer.header("location").is_none(), "{host}: {answer:?}");
    }
    assert_eq!(app.count(), 0);
}

/// C15: how long a client says that it waits is between it and its service. No clock of ours runs by it, however it is written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c15_times_that_clients_write_are_theirs_alone() {
    let app = Origin::start("ratings").await;
    let pair = Pair::start(app.address, Protocol::Http, MtlsMode::MtlsPermissive).await;
    let outbound = pair.vip();
    eventually("it serves", || async move {
        client::get(outbound, "ratings", "/").await.is_ok_and(|answer| answer.status == 200)
    })
    .await;
    for time in
        ["99999999H", "-1S", "", "0n", "1x", "S", "18446744073709551616n", "1 S", "1S,2S", "000000000000001S"]
    {
        let request = format!(
            "GET / HTTP/1.1\r\nhost: ratings\r\ncontent-type: application/grpc\r\ngrpc-timeout: {time}\r\nconnection: close\r\n\r\n"
        );
        let answer = client::send(pair.vip(), &request).await.unwrap();
        assert_eq!(answer.status, 200, "{time:?}");
        let seen = answer.body.lines().find_map(|line| line.strip_prefix("grpc-timeout:")).map(str::trim);
        assert_eq!(seen, Some(time), "as it was written");
    }
}
