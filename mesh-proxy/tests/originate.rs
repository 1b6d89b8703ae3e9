//! TLS to servers outside of the mesh: who is verified, what is shown, which name is asked for.

use std::path::Path;

use mesh_proto::wire::mesh::v1 as wire;
use tempfile::TempDir;
use wire::ca_certificates::Source as CaSource;
use wire::key_pair::Source as KeySource;

use crate::egress::{Outside, get, known, publish, story};
use crate::support::client::Answer;
use crate::support::eventually;
use crate::support::mesh::{Mesh, Pod, policy};
use crate::support::tls::{Authority, Pair, serve};

const HOST: &str = "api.example.com";

struct Story {
    mesh: Mesh,
    pod: Pod,
    dir: TempDir,
    authority: Authority,
}

fn file(dir: &TempDir, name: &str) -> String {
    dir.path().join(name).display().to_string()
}

impl Story {
    async fn start() -> Self {
        let (mesh, pod) = story(None).await;
        let (dir, authority) = (TempDir::new().unwrap(), Authority::new("outside"));
        std::fs::write(dir.path().join("ca.pem"), authority.root()).unwrap();
        Self { mesh, pod, dir, authority }
    }

    /// Verified with the authority's root.
    fn simple(&self) -> wire::ClientTls {
        let source = Some(CaSource::File(file(&self.dir, "ca.pem")));
        wire::ClientTls { ca: Some(wire::CaCertificates { source }), ..Default::default() }
    }

    fn showing(&self, pair: &Pair) -> wire::ClientTls {
        pair.write(self.dir.path());
        let files = wire::FileKeyPair {
            certificate_chain: file(&self.dir, "tls.crt"),
            private_key: file(&self.dir, "tls.key"),
        };
        let key_pair = Some(wire::KeyPair { source: Some(KeySource::Files(files)) });
        wire::ClientTls { key_pair, ..self.simple() }
    }

    fn publish(&self, host: &str, at: std::net::SocketAddr, client_tls: wire::ClientTls) {
        let policy = wire::Policy {
            tls: wire::UpstreamTls::Originate.into(),
            client_tls: Some(client_tls),
            ..policy()
        };
        publish(&self.mesh, host, Outside { policy, ..Outside::at(&[&at.to_string()]) });
    }

    /// The answer once the newest settings are in force: until it is as wanted.
    async fn until(&self, what: &str, wanted: impl Fn(&Answer) -> bool) -> Answer {
        eventually(what, || async { wanted(&get(&self.pod, HOST).await) }).await;
        get(&self.pod, HOST).await
    }
}

#[tokio::test]
async fn a_plain_request_leaves_as_tls_to_a_server_that_is_verified() {
    let story = Story::start().await;
    let at = serve(&story.authority.leaf(&[HOST]), None, &[b"h2", b"http/1.1"]).await;
    story.publish(HOST, at, story.simple());
    known(&story.pod, HOST).await;
    let answer = get(&story.pod, HOST).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(answer.body.starts_with("sni=api.example.com alpn=http/1.1 client=false"), "{}", answer.body);
    assert!(!answer.body.contains("x-mesh-peer"), "{}", answer.body);
}

#[tokio::test]
async fn a_server_that_is_not_the_right_one_gets_nothing() {
    let story = Story::start().await;
    let stranger = Authority::new("stranger").leaf(&[HOST]);
    let leaf = |names: &[&str]| story.authority.leaf(names);
    // Row T6: a star stands for one label, a subject is no name, and a client's certificate is no server's.
    let with = |change: fn(&mut rcgen::CertificateParams)| {
        let mut params = rcgen::CertificateParams::new(vec![HOST.to_owned()]).unwrap();
        change(&mut params);
        story.authority.sign(params)
    };
    let subject = with(|params| {
        params.subject_alt_names = vec![rcgen::SanType::URI(format!("https://{HOST}").try_into().unwrap())];
        params.distinguished_name.push(rcgen::DnType::CommonName, HOST);
    });
    let of_a_client =
        with(|params| params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth]);
    for (pair, why) in [
        (stranger, "UnknownIssuer"),
        (leaf(&["b.example.com"]), "not valid for name"),
        (leaf(&["*.com"]), "not valid for name"),
        (subject, "not valid for name"),
        (of_a_client, "extended key usage"),
    ] {
        let at = serve(&pair, None, &[]).await;
        story.publish(HOST, at, story.simple());
        let answer = story.until("refused", |answer| answer.body.contains(why)).await;
        assert_eq!(answer.status, 503, "{}", answer.body);
    }
    let at = serve(&leaf(&["*.example.com"]), None, &[]).await;
    story.publish(HOST, at, story.simple());
    story.until("a star for one label", |answer| answer.status == 200).await;
    // The first server again, when nobody is asked to verify it.
    let at = serve(&leaf(&["b.example.com"]), None, &[]).await;
    story.publish(HOST, at, wire::ClientTls { insecure_skip_verify: true, ..Default::default() });
    story.until("unverified", |answer| answer.status == 200).await;
}

#[tokio::test]
async fn names_of_its_own_and_the_name_that_is_asked_for() {
    let story = Story::start().await;
    let at = serve(&story.authority.leaf(&["b.example.com"]), None, &[]).await;
    story.publish(HOST, at, wire::ClientTls { sni: "b.example.com".into(), ..story.simple() });
    let answer = story.until("by sni", |answer| answer.status == 200).await;
    assert!(answer.body.starts_with("sni=b.example.com"), "{}", answer.body);
    let with = |names: &[&str]| {
        let subject_alt_names = names.iter().map(|name| (*name).to_owned()).collect();
        wire::ClientTls { subject_alt_names, ..story.simple() }
    };
    story.publish(HOST, at, with(&["c.example.com", "b.example.com"]));
    let answer =
        story.until("by one of the names", |answer| answer.body.contains("sni=api.example.com")).await;
    assert_eq!(answer.status, 200);
    story.publish(HOST, at, with(&["urn:other"]));
    story.until("none of the names", |answer| answer.body.contains("none of the names urn:other")).await;
    story.publish(HOST, at, with(&["urn:outside"]));
    story.until("a URI", |answer| answer.status == 200).await;
}

#[tokio::test]
async fn a_client_certificate_is_shown_and_renewed_from_its_files() {
    let story = Story::start().await;
    let clients = Authority::new("clients");
    let at = serve(&story.authority.leaf(&[HOST]), Some(&clients), &[]).await;
    story.publish(HOST, at, story.simple());
    known(&story.pod, HOST).await;
    assert_eq!(get(&story.pod, HOST).await.status, 503, "without a certificate");
    story.publish(HOST, at, story.showing(&Authority::new("stranger").leaf(&["client"])));
    story.until("somebody else's", |answer| answer.status == 503).await;
    clients.leaf(&["client"]).write(story.dir.path());
    let answer = story.until("the new one", |answer| answer.status == 200).await;
    assert!(answer.body.contains("client=true"), "{}", answer.body);
}

#[tokio::test]
async fn a_file_that_is_missing_closes_its_destination_and_no_other() {
    let story = Story::start().await;
    let at = serve(&story.authority.leaf(&[HOST, "b.example.com"]), None, &[]).await;
    let missing = file(&story.dir, "later.pem");
    let source = Some(CaSource::File(missing.clone()));
    let later = wire::ClientTls { ca: Some(wire::CaCertificates { source }), ..Default::default() };
    story.publish(HOST, at, later);
    story.publish("b.example.com", at, story.simple());
    known(&story.pod, "b.example.com").await;
    let answer = get(&story.pod, HOST).await;
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains(&missing), "{}", answer.body);
    assert_eq!(get(&story.pod, "b.example.com").await.status, 200);
    eventually("the pilot is told", || async {
        story.mesh.pilot.troubles().iter().any(|t| t.contains(&missing) && t.contains("refused"))
    })
    .await;
    std::fs::copy(Path::new(&file(&story.dir, "ca.pem")), &missing).unwrap();
    story.until("the file is there", |answer| answer.status == 200).await;
    eventually("the pilot is told", || async { story.mesh.pilot.troubles().is_empty() }).await;
}

#[tokio::test]
async fn a_host_that_is_a_wildcard_is_asked_for_by_the_name_of_the_request() {
    let story = Story::start().await;
    let at = serve(&story.authority.leaf(&["*.example.com"]), None, &[]).await;
    story.publish("*.example.com", at, story.simple());
    for host in ["a.example.com", "b.example.com"] {
        known(&story.pod, host).await;
        let answer = get(&story.pod, host).await;
        assert!(answer.body.starts_with(&format!("sni={host}")), "{}", answer.body);
    }
}
