//! Names outside of the mesh: what a ServiceEntry becomes on the wire, on real sockets.

use std::net::{Ipv4Addr, SocketAddr};

use mesh_proto::model::Kind;
use mesh_proto::wire::mesh::v1 as wire;
use tokio::net::TcpListener;
use wire::Protocol;

use crate::support::client::{self, Answer};
use crate::support::dns::NameServer;
use crate::support::eventually;
use crate::support::mesh::{Mesh, Pod, Spec, policy, route};
use crate::support::origin::Origin;

const NOBODY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 1);

/// What a host is like.
pub(crate) struct Outside {
    pub(crate) port: u16,
    pub(crate) protocol: Protocol,
    pub(crate) endpoints: Vec<wire::Endpoint>,
    pub(crate) addresses: wire::Addresses,
    pub(crate) policy: wire::Policy,
}

impl Outside {
    pub(crate) fn at(addresses: &[&str]) -> Self {
        let endpoint = |address: &&str| wire::Endpoint {
            uid: (*address).to_owned(),
            address: (*address).to_owned(),
            ready: true,
            weight: 1,
            ..Default::default()
        };
        Self {
            port: 80,
            protocol: Protocol::Http,
            endpoints: addresses.iter().map(endpoint).collect(),
            addresses: wire::Addresses::All,
            policy: wire::Policy { tls: wire::UpstreamTls::Disable.into(), ..policy() },
        }
    }
}

/// Publishes a host of a ServiceEntry.
pub(crate) fn publish(mesh: &Mesh, host: &str, outside: Outside) {
    let Outside { port, protocol, endpoints, addresses, policy } = outside;
    let name = format!("{host}:{port}");
    let cluster = Some(wire::HostPort { host: host.into(), port: port.into() });
    let backend = wire::WeightedBackend { cluster: cluster.clone(), weight: 1, ..Default::default() };
    mesh.pilot.publish(Kind::Endpoints, &name, &wire::Endpoints { endpoints });
    let message = wire::Cluster {
        name: cluster.clone(),
        policy: Some(policy),
        kind: wire::EntryKind::EntryExternal.into(),
        protocol: protocol.into(),
        addresses: addresses.into(),
        ..Default::default()
    };
    mesh.pilot.publish(Kind::Cluster, &name, &message);
    let destination = wire::Destination {
        name: cluster,
        http: Some(route(wire::RouteAction { backends: vec![backend.clone()], timeout: None, retry: None })),
        tcp: vec![wire::TcpRule { backends: vec![backend], ..Default::default() }],
        protocol: protocol.into(),
        ..Default::default()
    };
    mesh.pilot.publish(Kind::Destination, &name, &destination);
    mesh.announce_entry(wire::CatalogueEntry {
        host: host.into(),
        kind: wire::EntryKind::EntryExternal.into(),
        ports: vec![wire::CataloguePort {
            number: port.into(),
            protocol: protocol.into(),
            name: String::new(),
        }],
        ..Default::default()
    });
}

pub(crate) async fn story(name_server: Option<SocketAddr>) -> (Mesh, Pod) {
    let mut mesh = Mesh::start().await;
    mesh.name_servers.extend(name_server);
    let pod = mesh.pod(Spec::new("reviews", NOBODY)).await;
    (mesh, pod)
}

pub(crate) async fn get(pod: &Pod, host: &str) -> Answer {
    client::proxied(pod.proxy(), &format!("http://{host}/x")).await.unwrap()
}

/// Waits until the name is in the catalogue.
pub(crate) async fn known(pod: &Pod, host: &str) {
    eventually("the name is known", || async { get(pod, host).await.status != 502 }).await;
}

#[tokio::test]
async fn a_host_outside_is_reached_at_its_endpoints_as_it_is() {
    let origin = Origin::start("outside").await;
    let (mesh, pod) = story(None).await;
    publish(&mesh, "api.example.com", Outside::at(&[&origin.address.to_string()]));
    known(&pod, "api.example.com").await;
    let answer = get(&pod, "api.example.com").await;
    assert_eq!((answer.status, answer.header("x-instance")), (200, Some("outside")));
    assert!(!answer.body.contains("x-mesh-peer"), "nobody outside is told who we are: {}", answer.body);
    let metrics = client::get(pod.metrics(), "metrics", "/stats/prometheus").await.unwrap().body;
    assert!(metrics.contains("connection_security_policy=\"unknown\""), "{metrics}");
}

#[tokio::test]
async fn names_are_resolved_by_the_proxy_and_followed_as_they_change() {
    let (names, at) = NameServer::start().await;
    let (mesh, pod) = story(Some(at)).await;
    // One port on two addresses: each shows which one was dialled.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let (one, two) = (Ipv4Addr::new(127, 0, 0, 1), Ipv4Addr::new(127, 0, 0, 2));
    let first = Origin::start_at("first", (one, port).into()).await;
    let second = Origin::start_at("second", (two, port).into()).await;
    names.set("api.example.com", &[one]);
    let endpoint = format!("api.example.com:{port}");
    publish(&mesh, "api.example.com", Outside::at(&[&endpoint]));
    known(&pod, "api.example.com").await;
    // The very first request has waited for the answer.
    assert_eq!(get(&pod, "api.example.com").await.header("x-instance"), Some("first"));
    assert_eq!(second.count(), 0);
    names.set("api.example.com", &[one, two]);
    eventually("the second address is used", || async {
        get(&pod, "api.example.com").await;
        second.count() > 0
    })
    .await;
    assert!(first.count() > 1);
}

#[tokio::test]
async fn a_name_without_an_address_is_told_and_disturbs_nobody() {
    let (_names, at) = NameServer::start().await;
    let origin = Origin::start("outside").await;
    let (mesh, pod) = story(Some(at)).await;
    publish(&mesh, "api.example.com", Outside::at(&[&origin.address.to_string()]));
    publish(&mesh, "gone.example.com", Outside::at(&["gone.example.com:80"]));
    known(&pod, "gone.example.com").await;
    let answer = get(&pod, "gone.example.com").await;
    assert_eq!(answer.status, 503, "{}", answer.body);
    assert_eq!(get(&pod, "api.example.com").await.status, 200);
}

#[tokio::test]
async fn what_is_where_it_is_dialled_is_not_at_the_proxy_itself() {
    let (mesh, pod) = story(None).await;
    let nowhere = Outside { addresses: wire::Addresses::Dialled, ..Outside::at(&[]) };
    publish(&mesh, "api.example.com", nowhere);
    known(&pod, "api.example.com").await;
    let answer = get(&pod, "api.example.com").await;
    assert_eq!(answer.status, 503, "{}", answer.body);
}

#[tokio::test]
async fn outside_a_port_that_was_not_named_is_no_other() {
    let origin = Origin::start("outside").await;
    let (mesh, pod) = story(None).await;
    publish(&mesh, "api.example.com", Outside { port: 443, ..Outside::at(&[&origin.address.to_string()]) });
    publish(&mesh, "b.example.com", Outside::at(&[&origin.address.to_string()]));
    known(&pod, "b.example.com").await;
    assert_ne!(get(&pod, "api.example.com").await.status, 200);
    assert_eq!(get(&pod, "api.example.com:443").await.status, 200);
}

#[tokio::test]
async fn tls_of_the_applications_own_goes_where_its_server_name_says() {
    use crate::support::tls::{Authority, serve};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let authority = Authority::new("outside");
    let pair = authority.leaf(&["api.example.com", "b.example.com"]);
    let (own, other) = (serve(&pair, None, &[b"own"]).await, serve(&pair, None, &[b"other"]).await);
    let (mesh, pod) = story(None).await;
    let tls =
        |at: SocketAddr| Outside { port: 443, protocol: Protocol::Tls, ..Outside::at(&[&at.to_string()]) };
    publish(&mesh, "other.example.com", tls(other));
    publish(&mesh, "api.example.com", tls(own));
    let name = |host: &str| Some(wire::HostPort { host: host.into(), port: 443 });
    let rule = |host: &str| {
        let backend = wire::WeightedBackend { cluster: name(host), weight: 1, ..Default::default() };
        wire::TcpRule { backends: vec![backend], ..Default::default() }
    };
    let routed = |tls: Vec<wire::TlsRule>| wire::Destination {
        name: name("api.example.com"),
        tcp: vec![rule("api.example.com")],
        tls,
        protocol: Protocol::Tls.into(),
        ..Default::default()
    };
    let ask = || async {
        let mut tunnel = tokio::net::TcpStream::connect(pod.proxy()).await.ok()?;
        let connect = "CONNECT api.example.com:443 HTTP/1.1\r\nhost: api.example.com:443\r\n\r\n";
        tunnel.write_all(connect.as_bytes()).await.ok()?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(tunnel.read_u8().await.ok()?);
        }
        if !head.starts_with(b"HTTP/1.1 200") {
            return Some("refused".to_owned());
        }
        let client = crate::support::tls::Client::new(&authority).offering(&[b"own", b"other"]);
        let stream = client.over(tunnel, "api.example.com").await.ok()?;
        let chosen = stream.get_ref().1.alpn_protocol()?;
        Some(String::from_utf8_lossy(chosen).into_owned())
    };
    eventually("as it is", || async { ask().await.as_deref() == Some("own") }).await;
    let to_other = |host: &str| {
        vec![wire::TlsRule { sni_hosts: vec![host.into()], rule: Some(rule("other.example.com")) }]
    };
    mesh.pilot.publish(Kind::Destination, "api.example.com:443", &routed(to_other("*.example.com")));
    eventually("by the rule", || async { ask().await.as_deref() == Some("other") }).await;
    // Rules for other names only: nothing else is for TLS.
    mesh.pilot.publish(Kind::Destination, "api.example.com:443", &routed(to_other("b.example.com")));
    eventually("no rule", || async { ask().await.as_deref() == Some("refused") }).await;
}
