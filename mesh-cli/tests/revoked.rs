//! Servers outside of the mesh whose certificates are revoked: a DestinationRule's `caCrl` at a sidecar, and the list of its
//! `credentialName` at a gateway. Whoever is on the list is refused, its neighbour with a certificate of the same authority not.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DistinguishedName,
    DnType, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use serde_json::Value;

use super::egress::serve;
use super::support::{BASE, Mesh, eventually};

const PARTNER: &str = "partner.example.com";
const NEIGHBOUR: &str = "neighbour.example.com";

/// Signs servers, clients and lists of what is revoked.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn leaf(&self, name: &str, serial: u64) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.serial_number = Some(SerialNumber::from(serial));
        (params.signed_by(&key, &self.0).unwrap(), key)
    }

    /// A server of that name. Clients that show a certificate of `clients` are asked for it.
    fn server(&self, name: &str, serial: u64, clients: Option<&Self>) -> SocketAddr {
        let (leaf, key) = self.leaf(name, serial);
        let provider = mesh_proto::runtime::crypto::provider();
        let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(clients) => {
                let mut roots = rustls::RootCertStore::empty();
                roots.add(clients.0.der().clone()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        serve(builder.with_single_cert(vec![leaf.der().clone()], key).unwrap())
    }

    /// The list of what it has revoked, good until that year.
    fn revoking(&self, serials: &[u64], until: i32) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(until, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.0).unwrap().pem().unwrap()
    }
}

/// A ServiceEntry of a server at `at`, and a DestinationRule with `tls` for it.
fn outside(host: &str, at: SocketAddr, tls: &str) -> String {
    let (name, port) = (host.split('.').next().unwrap(), at.port());
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: {name} }}\nspec:\n  hosts: [{host}]\n  \
         ports: [{{ number: 80, name: http, protocol: HTTP, targetPort: {port} }}]\n  resolution: DNS\n  \
         endpoints: [{{ address: localhost }}]\n---\n\
         apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{ name: {name} }}\nspec:\n  host: {host}\n  \
         trafficPolicy:\n    tls: {{ {tls} }}\n"
    )
}

/// Both servers as one story sees them.
struct Story {
    mesh: Mesh,
    /// `http://HOST/` with what follows the name.
    way: Vec<&'static str>,
}

impl Story {
    fn ask(&self, host: &str) -> Value {
        let url = format!("http://{host}{}", self.way[0]);
        self.mesh.one(&[&[url.as_str()], &self.way[1..]].concat())
    }

    fn until(&self, what: &str, host: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let url = format!("http://{host}{}", self.way[0]);
        self.mesh.until(what, &[&[url.as_str()], &self.way[1..]].concat(), wanted)
    }

    fn is_let_through(&self, what: &str, host: &str) {
        let answer = self.until(what, host, |answer| answer["status"] == 200);
        assert!(said(&answer).starts_with(&format!("sni={host}\n")), "{answer}");
    }

    /// Refused with that reason. Our own application is told, a client of a gateway is not: there the log says it.
    fn is_refused(&self, what: &str, host: &str, why: &str) {
        if self.way.len() == 1 {
            self.until(what, host, |answer| answer["status"] == 503 && said(answer).contains(why));
            return;
        }
        let answer = self.until(what, host, |answer| answer["status"] == 503);
        assert!(!said(&answer).contains(why), "{answer}");
        eventually(what, || {
            assert_eq!(self.ask(host)["status"], 503, "{what}");
            let log = self.mesh.must(&["logs", "istio-ingressgateway-0", "--tail", "3"]);
            let last = log.lines().rfind(|line| line.contains(host)).unwrap_or_default().to_owned();
            if last.contains(&why.replace(' ', "_")) { Ok(()) } else { Err(log) }
        });
    }
}

fn said(answer: &Value) -> &str {
    answer["body"].as_str().unwrap_or_default()
}

#[test]
fn a_sidecar_refuses_servers_that_a_list_in_a_file_has() {
    let authority = Authority::new("outside");
    let (partner, neighbour) = (authority.server(PARTNER, 7, None), authority.server(NEIGHBOUR, 8, None));
    let own = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(own.path().join(name), text).unwrap();
    let path = |name: &str| own.path().join(name).display().to_string();
    write("ca.pem", &authority.0.pem());
    let tls = format!("mode: SIMPLE, caCertificates: {}, caCrl: {}", path("ca.pem"), path("crl.pem"));
    let files = [outside(PARTNER, partner, &tls), outside(NEIGHBOUR, neighbour, &tls)].join("---\n");
    let story =
        Story { mesh: Mesh::up(&[("base.yaml", BASE), ("outside.yaml", &files)], &[]), way: vec!["/"] };
    // A list that is not there yet says of nobody that it is not revoked.
    story.is_refused("the list is missing", PARTNER, "crl.pem");
    story.mesh.status_says("crl.pem");
    write("crl.pem", &authority.revoking(&[], 2100));
    story.is_let_through("nobody is revoked", PARTNER);
    story.is_let_through("nobody is revoked", NEIGHBOUR);

    // While connections are open.
    write("crl.pem", &authority.revoking(&[7], 2100));
    story.is_refused("revoked", PARTNER, "Revoked");
    story.is_let_through("its neighbour is not", NEIGHBOUR);
    // What is no list changes nothing.
    write("crl.pem", "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n");
    story.mesh.status_says("the last good one stays in force");
    assert_eq!(story.ask(PARTNER)["status"], 503);
    assert_eq!(story.ask(NEIGHBOUR)["status"], 200);
    // A list that is out of date vouches for nobody, nor does another authority's.
    write("crl.pem", &authority.revoking(&[], 2021));
    story.is_refused("out of date", NEIGHBOUR, "certificate revocation list expired");
    write("crl.pem", &Authority::new("other").revoking(&[], 2100));
    story.is_refused("another authority's", NEIGHBOUR, "UnknownRevocationStatus");
    write("crl.pem", &authority.revoking(&[8], 2100));
    story.is_let_through("taken back", PARTNER);
    story.is_refused("and the other one is revoked", NEIGHBOUR, "Revoked");
    assert_eq!(story.mesh.one(&["http://web/"])["status"], 200);
}

const INGRESS: &str = r"
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: { name: shop }
spec:
  selector: { istio: ingressgateway }
  servers:
    - { port: { number: 8081, name: http, protocol: HTTP }, hosts: ['*'] }
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: partner }
spec:
  hosts: [partner.example.com]
  gateways: [shop]
  http: [{ route: [{ destination: { host: partner.example.com, port: { number: 80 } } }] }]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: neighbour }
spec:
  hosts: [neighbour.example.com]
  gateways: [shop]
  http: [{ route: [{ destination: { host: neighbour.example.com, port: { number: 80 } } }] }]
";

/// Writes a Secret of the gateway's namespace.
fn secret(dir: &Path, fields: &[(&str, &str)]) {
    let field = |(name, pem): &(&str, &str)| {
        let lines: String = pem.lines().map(|line| format!("    {line}\n")).collect();
        format!("  {name}: |\n{lines}")
    };
    let fields: String = fields.iter().map(field).collect();
    let text = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{ name: outside, namespace: istio-system }}\nstringData:\n{fields}"
    );
    std::fs::write(dir.join("secret.yaml"), text).unwrap();
}

#[test]
fn a_gateway_shows_its_secret_and_refuses_servers_that_the_secrets_list_has() {
    let (authority, clients) = (Authority::new("outside"), Authority::new("clients"));
    let partner = authority.server(PARTNER, 7, Some(&clients));
    let neighbour = authority.server(NEIGHBOUR, 8, Some(&clients));
    let tls = "mode: MUTUAL, credentialName: outside";
    let files = [outside(PARTNER, partner, tls), outside(NEIGHBOUR, neighbour, tls)].join("---\n");
    let mesh = Mesh::up(&[("base.yaml", BASE), ("ingress.yaml", INGRESS), ("outside.yaml", &files)], &[]);
    let story = Story { mesh, way: vec![":8081/", "--via", "shop"] };
    story.is_refused("no Secret", PARTNER, "there is no Secret istio-system/outside");
    story.mesh.status_says("there is no Secret istio-system/outside");

    let (certificate, key) = clients.leaf("gateway", 1);
    let (certificate, key, root) = (certificate.pem(), key.serialize_pem(), authority.0.pem());
    let own = [("tls.crt", certificate.as_str()), ("tls.key", &key), ("ca.crt", &root)];
    let publish = |fields: &[(&str, &str)]| secret(story.mesh.dir(), fields);
    publish(&own);
    for host in [PARTNER, NEIGHBOUR] {
        story.is_let_through("the Secret is there", host);
        assert!(said(&story.ask(host)).contains("\nclient=true\n"), "{host}");
    }
    let revoking = |serials: &[u64]| authority.revoking(serials, 2100);
    publish(&[&own[..], &[("ca.crl", &revoking(&[7]))]].concat());
    story.is_refused("revoked", PARTNER, "Revoked");
    story.is_let_through("its neighbour is not", NEIGHBOUR);
    publish(&[&own[..], &[("ca.crl", &revoking(&[8]))]].concat());
    story.is_let_through("taken back", PARTNER);
    story.is_refused("revoked", NEIGHBOUR, "Revoked");

    // Somebody else's certificate: the servers refuse it.
    let (stranger, key) = authority.leaf("gateway", 2);
    let (stranger, key) = (stranger.pem(), key.serialize_pem());
    publish(&[("tls.crt", &stranger), ("tls.key", &key), ("ca.crt", &root)]);
    story.until("a stranger's", PARTNER, |answer| answer["status"] == 503);
    publish(&own);
    story.is_let_through("the right one again", PARTNER);
    story.mesh.delete("secret.yaml");
    story.is_refused("the Secret is gone", PARTNER, "there is no Secret istio-system/outside");
    // A sidecar gets no Secret, and says so.
    let sidecars = story.mesh.one(&["http://partner.example.com/"]);
    assert!(sidecars["status"] == 503 && said(&sidecars).contains("a sidecar none"), "{sidecars}");
}
