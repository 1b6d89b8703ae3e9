//! Who is let in at gateways that ask for certificates: names, pins, what was revoked; workloads of the mesh; and mTLS of
//! the mesh that is passed on.

use std::time::Duration;

use mesh_proto::model::Kind;
use mesh_proto::runtime::tls::{ClientIdentity, Expect, client_config};
use mesh_proto::wire::mesh::v1 as wire;
use rcgen::{CertificateRevocationListParams, RevocationReason, RevokedCertParams, SerialNumber};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use wire::tls_server::Action;
use wire::{ClientCertificates, MtlsMode, Protocol};

use crate::gateway::{edge, from_secret, listener, secret, server, settings};
use crate::support::eventually;
use crate::support::mesh::{PORT, Pair as Pods, Pod, Spec, backend};
use crate::support::origin::Origin;
use crate::support::tls::{Authority, Client};

fn from(name: &str) -> Option<wire::CaCertificates> {
    Some(wire::CaCertificates { source: Some(wire::ca_certificates::Source::Secret(name.into())) })
}

/// subjectAltNames, verifyCertificateSpki, verifyCertificateHash: with the CA, not in its place; OPTIONAL_MUTUAL checks who
/// shows something.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_and_pins_of_clients() {
    let app = Origin::start("ratings").await;
    let (authority, stranger) = (Authority::new("one"), Authority::new("stranger"));
    let (good, other) = (authority.leaf(&["good.example"]), authority.leaf(&["other.example"]));
    let hash = |pair: &crate::support::tls::Pair| {
        let der = CertificateDer::from_pem_slice(pair.chain.as_bytes()).unwrap();
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der);
        bytes::Bytes::copy_from_slice(digest.as_ref())
    };
    let named = wire::CertificateRules {
        subject_alt_names: vec!["spiffe://x/y".into(), "good.example".into()],
        ..Default::default()
    };
    let pinned = wire::CertificateRules { certificate_sha256: vec![hash(&good)], ..Default::default() };
    let ruled = |name: &str, clients, rules: &wire::CertificateRules| {
        let ruled = wire::TlsSettings {
            rules: Some(rules.clone()),
            ..settings(from_secret("ns/a"), clients, from("ns/a"))
        };
        server(&[name], &[name], ruled)
    };
    let (required, optional) = (ClientCertificates::Required, ClientCertificates::Optional);
    let servers = vec![
        ruled("named.example", required, &named),
        ruled("pinned.example", required, &pinned),
        ruled("either.example", optional, &named),
    ];
    let names = ["named.example", "pinned.example", "either.example"];
    let secrets = [("ns/a", secret(&authority.leaf(&names), &authority.root()))];
    let edge = edge(&app, &listener(servers), &secrets).await;
    let nobody = Client::new(&authority);
    let same_name = stranger.leaf(&["good.example"]);
    for name in names {
        let served =
            async |client: Client| client.get(edge.at, name, name).await.is_ok_and(|a| a.status == 200);
        assert!(served(nobody.clone().showing(&good)).await, "{name}");
        assert!(!served(nobody.clone().showing(&other)).await, "{name}");
        assert!(!served(nobody.clone().showing(&same_name)).await, "{name}: signed by somebody else");
        assert_eq!(served(nobody.clone()).await, name == "either.example", "{name}: nothing is shown");
    }
    assert_eq!(app.count(), 4);
}

/// What the CA has revoked is not let in, from a Secret or a file, on a connection that is open neither; a list that says
/// nothing of this CA lets nobody in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoked_clients() {
    let app = Origin::start("ratings").await;
    let (authority, stranger) = (Authority::new("one"), Authority::new("stranger"));
    let (good, bad) = (authority.numbered("good", 7), authority.numbered("bad", 8));
    let of = settings(from_secret("ns/a"), ClientCertificates::Required, from("ns/a"));
    let own = authority.leaf(&["a.example"]);
    let before = secret(&own, &authority.root());
    let edge = edge(&app, &listener(vec![server(&["*"], &["*"], of)]), &[("ns/a", before.clone())]).await;
    let served = async |pair| {
        let client = Client::new(&authority).showing(pair);
        client.get(edge.at, "a.example", "a.example").await.is_ok_and(|answer| answer.status == 200)
    };
    assert!(served(&good).await && served(&bad).await);
    let mut kept = Client::new(&authority).showing(&bad).connect(edge.at, "a.example").await.unwrap();

    let publish = |crl: String| {
        let secret = wire::Secret { crl: crl.into(), ..before.clone() };
        edge.pods.mesh.pilot.publish(Kind::Secret, "ns/a", &secret);
    };
    publish(authority.revoking(&[8], Duration::from_secs(3600)));
    eventually("the revoked one is out", || async { !served(&bad).await }).await;
    assert!(served(&good).await);
    let seen = app.count();
    let _ = kept.write_all(b"GET / HTTP/1.1\r\nhost: a.example\r\n\r\n").await;
    let mut answer = String::new();
    let read = tokio::time::timeout(Duration::from_secs(20), kept.read_to_string(&mut answer)).await;
    assert!(read.is_ok() && !answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(app.count(), seen);
    // Garbage is refused, and what was revoked stays so.
    publish("garbage".into());
    let pilot = &edge.pods.mesh.pilot;
    let refused = || async { pilot.rejected().iter().any(|r| r.contains("ca.crl") && r.contains("CRL")) };
    eventually("garbage is refused", refused).await;
    assert!(served(&good).await && !served(&bad).await);
    publish(authority.revoking(&[], Duration::from_secs(3600)));
    eventually("nobody is revoked", || async { served(&bad).await }).await;
    // Fail closed: a list of another CA, a list of yesterday.
    publish(stranger.revoking(&[], Duration::from_secs(3600)));
    eventually("nobody says that it is not revoked", || async { !served(&good).await }).await;
    publish(authority.revoking(&[], Duration::from_secs(3600)));
    eventually("somebody does", || async { served(&good).await }).await;
    publish(authority.revoking(&[], Duration::ZERO));
    eventually("that was yesterday", || async { !served(&good).await }).await;
}

impl Authority {
    /// A certificate with a serial number.
    pub(crate) fn numbered(&self, name: &str, serial: u64) -> crate::support::tls::Pair {
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.serial_number = Some(SerialNumber::from(serial));
        self.sign(params)
    }

    /// The list of what it has revoked, good until `life` from now.
    pub(crate) fn revoking(&self, serials: &[u64], life: Duration) -> String {
        let now = time::OffsetDateTime::now_utc();
        let yesterday = now - Duration::from_secs(86400);
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: yesterday,
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: yesterday,
            next_update: now + life,
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        params.signed_by(self.issuer()).unwrap().pem().unwrap()
    }
}

async fn gateway(pods: &Pods, listener: &wire::Listener) -> (Pod, std::net::SocketAddr) {
    pods.mesh.pilot.publish(Kind::Listener, "443", listener);
    let mut spec = Spec::new("gateway", "127.0.0.1:1".parse().unwrap());
    spec.gateway = true;
    let pod = pods.mesh.pod(spec).await;
    let at = std::net::SocketAddr::new(pod.ip, 8443);
    (pod, at)
}

/// Requests `host` by mTLS of the mesh as `account`, expecting `server`: what comes back, or why nothing does.
async fn as_workload(
    pods: &Pods,
    at: std::net::SocketAddr,
    (account, server): (&str, &str),
    (sni, alpn): (&str, &[u8]),
) -> std::io::Result<String> {
    let identity = pods.mesh.ca.identity("default", account);
    let expect = Expect::Exactly(format!("spiffe://cluster.local/ns/default/sa/{server}").parse().unwrap());
    let config =
        client_config(ClientIdentity::Mesh(&identity), identity.roots_handle().clone(), expect, &[alpn]);
    let name = sni.to_owned().try_into().unwrap();
    let mut stream = TlsConnector::from(config).connect(name, TcpStream::connect(at).await?).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: ratings\r\nconnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// ISTIO_MUTUAL: the gateway shows its own identity and takes members of the mesh, of which the rules may choose some.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_of_the_mesh() {
    let app = Origin::start("ratings").await;
    let pods = Pods::start(app.address, Protocol::Http, MtlsMode::MtlsStrict).await;
    let mesh = wire::KeyPair { source: Some(wire::key_pair::Source::Mesh(wire::Empty {})) };
    let ca = wire::CaCertificates { source: Some(wire::ca_certificates::Source::Mesh(wire::Empty {})) };
    let mut of = settings(mesh, ClientCertificates::Required, Some(ca));
    of.rules = Some(wire::CertificateRules {
        subject_alt_names: vec!["spiffe://cluster.local/ns/default/sa/friend".into()],
        ..Default::default()
    });
    of.parameters = Some(wire::TlsParameters { tls13: true, ..Default::default() });
    let (_pod, at) = gateway(&pods, &listener(vec![server(&["*"], &["ratings"], of)])).await;
    let ask = async |account| {
        as_workload(&pods, at, (account, "gateway"), ("ratings.example", b"istio-http/1.1")).await
    };
    let answers = || async { ask("friend").await.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")) };
    eventually("friends are let in", answers).await;
    assert!(!ask("stranger").await.is_ok_and(|answer| answer.contains("HTTP/1.1")));
}

/// AUTO_PASSTHROUGH: mTLS between two members goes through the gateway as it is, to the service that its SNI names; T13:
/// what has no such name, or is no mTLS of the mesh, is closed without an answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mtls_is_passed_on_to_the_service_that_it_names() {
    let app = Origin::start("ratings").await;
    let pods = Pods::start(app.address, Protocol::Http, MtlsMode::MtlsStrict).await;
    let sni = format!("outbound_.{PORT}_._.ratings.default.svc.cluster.local");
    let rule =
        wire::TcpRule { backends: vec![backend("ratings", PORT)], mesh_tls: true, ..Default::default() };
    let passed =
        wire::TlsServer { hosts: vec![sni.clone()], origin: None, action: Some(Action::Forward(rule)) };
    let (_pod, at) = gateway(&pods, &listener(vec![passed])).await;
    let ask = async |sni: &str, alpn: &[u8]| {
        as_workload(&pods, at, ("reviews", "ratings"), (sni, alpn)).await.ok().filter(|a| !a.is_empty())
    };
    let answers = || async { ask(&sni, b"istio-http/1.1").await.is_some() };
    eventually("it is passed on", answers).await;
    let answer = ask(&sni, b"istio-http/1.1").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // Whom the application hears of is the client, not the gateway.
    assert!(answer.contains("URI=spiffe://cluster.local/ns/default/sa/reviews"), "{answer}");
    let before = app.count();
    assert_eq!(ask(&sni, b"http/1.1").await, None, "TLS of somebody else");
    let other = format!("outbound_.{PORT}_._.secret.default.svc.cluster.local");
    for name in [
        other.as_str(),
        "ratings.default.svc.cluster.local",
        "outbound_.1_._.ratings.default.svc.cluster.local",
    ] {
        assert_eq!(ask(name, b"istio-http/1.1").await, None, "{name}");
    }
    assert_eq!(app.count(), before);
}
