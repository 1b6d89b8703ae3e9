//! Rows T5-T10: a corpus of certificates and SPIFFE IDs, and a second opinion on each: go-spiffe's. Its module is fetched by the
//! test run; where there is no Go, or no module, this says so and compares nothing.
//!
//! Whoever go-spiffe refuses we refuse, and whom we accept it accepts, as the same. Where we refuse more, the table says why.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, UnixTime};
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::model::SpiffeId;
use crate::runtime::identity::{Roots, RootsHandle};
use crate::runtime::testing::TestCa;
use crate::runtime::tls::{Role, verify_chain};

const MODULE: &str = "github.com/spiffe/go-spiffe/v2 v2.9.0";
const GOOD: &str = "spiffe://cluster.local/ns/default/sa/a";
const DAY: Duration = Duration::from_secs(86400);

/// Refused here, accepted there: why that is right.
const STRICTER: [(&str, &str); 9] = [
    ("server only", "Istio's mTLS wants both purposes, go-spiffe asks for none"),
    ("client only", "the same"),
    ("no purpose", "the same"),
    ("uri spiffe://cluster.local/ns/default/sa/A", "no Kubernetes name has upper case"),
    ("uri SPIFFE://cluster.local/ns/default/sa/a", "an identity has one spelling; Go's URLs have lower case"),
    ("uri spiffe://cluster.local", "no workload: an identity has a namespace and an account"),
    ("uri spiffe://cluster.local/web", "the same"),
    ("uri spiffe://cluster.local/ns/default/sa/a/b", "the same"),
    ("a long uri", "longer than the 2048 bytes that the specification allows"),
];

/// One case: a chain, and the roots that are known for each trust domain.
struct Vector {
    name: String,
    chain: Vec<CertificateDer<'static>>,
    roots: Vec<(&'static str, CertificateDer<'static>)>,
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("ASCII"))
}

/// A good certificate with one change.
fn changed(ca: &TestCa, name: impl Into<String>, change: impl FnOnce(&mut CertificateParams)) -> Vector {
    let mut params = ca.leaf_params(GOOD, DAY);
    change(&mut params);
    Vector { name: name.into(), chain: ca.sign(params).0, roots: vec![("cluster.local", ca.root_der())] }
}

fn of_names(ca: &TestCa) -> Vec<Vector> {
    let long = format!("spiffe://cluster.local/ns/default/sa/{}", "a".repeat(2100));
    let dns = |text: &str| SanType::DnsName(text.try_into().expect("ASCII"));
    let mut all = vec![
        changed(ca, "good", |_| ()),
        changed(ca, "a DNS name beside it", |p| p.subject_alt_names.push(dns("a.default.svc"))),
        changed(ca, "two identities", |p| {
            p.subject_alt_names.push(uri("spiffe://cluster.local/ns/default/sa/b"));
        }),
        changed(ca, "one twice", |p| p.subject_alt_names.push(uri(GOOD))),
        changed(ca, "another URI beside it", |p| p.subject_alt_names.push(uri("https://a"))),
        changed(ca, "no name", |p| p.subject_alt_names.clear()),
        changed(ca, "in a DNS name", |p| p.subject_alt_names = vec![dns(GOOD)]),
        changed(ca, "in the subject", |p| {
            p.subject_alt_names.clear();
            p.distinguished_name.push(DnType::CommonName, GOOD);
        }),
        changed(ca, "two lists of names", |p| {
            let mut der = vec![0x30, 2 + GOOD.len() as u8, 0x86, GOOD.len() as u8];
            der.extend_from_slice(GOOD.as_bytes());
            p.custom_extensions = vec![CustomExtension::from_oid_content(&[2, 5, 29, 17], der)];
        }),
        changed(ca, "a long uri", |p| p.subject_alt_names = vec![uri(&long)]),
    ];
    for text in IDS {
        all.push(changed(ca, format!("uri {text}"), |p| p.subject_alt_names = vec![uri(text)]));
    }
    all
}

/// Texts that are no identity, or could be taken for another one.
const IDS: [&str; 27] = [
    "",
    "spiffe://",
    "spiffe:///ns/default/sa/a",
    "spiffe://cluster.local",
    "spiffe://cluster.local/",
    "spiffe://cluster.local/web",
    "spiffe://cluster.local/ns/default/sa/a/",
    "spiffe://cluster.local/ns/default/sa/a/b",
    "spiffe://cluster.local//ns/default/sa/a",
    "spiffe://cluster.local/ns//sa/a",
    "spiffe://cluster.local/ns/default/sa/A",
    "spiffe://cluster.local/ns/default/sa/.",
    "spiffe://cluster.local/ns/../sa/a",
    "spiffe://cluster.local/ns/default/sa/%61",
    "spiffe://cluster.local/ns/default/sa/a\0",
    "spiffe://cluster.local/ns/default\0/sa/a",
    "spiffe://cluster.local/ns/default/sa/a?b",
    "spiffe://cluster.local/ns/default/sa/a#b",
    "spiffe://cluster.local/ns/default/sa/a b",
    "spiffe://cluster.local:443/ns/default/sa/a",
    "spiffe://x@cluster.local/ns/default/sa/a",
    "spiffe://CLUSTER.LOCAL/ns/default/sa/a",
    "SPIFFE://cluster.local/ns/default/sa/a",
    "https://cluster.local/ns/default/sa/a",
    "cluster.local/ns/default/sa/a",
    "spiffe://cluster%2elocal/ns/default/sa/a",
    "spiffe://[::1]/ns/default/sa/a",
];

fn of_use_and_time(ca: &TestCa) -> Vec<Vector> {
    use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    let now = OffsetDateTime::now_utc();
    let purposes = |name: &str, purposes: &[ExtendedKeyUsagePurpose]| {
        changed(ca, name, |p| p.extended_key_usages = purposes.to_vec())
    };
    vec![
        changed(ca, "an authority", |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        changed(ca, "may sign certificates", |p| p.key_usages.push(KeyUsagePurpose::KeyCertSign)),
        changed(ca, "may sign lists", |p| p.key_usages.push(KeyUsagePurpose::CrlSign)),
        changed(ca, "expired", |p| p.not_after = now - Duration::from_secs(10)),
        changed(ca, "not yet", |p| p.not_before = now + Duration::from_secs(100)),
        purposes("server only", &[ServerAuth]),
        purposes("client only", &[ClientAuth]),
        purposes("no purpose", &[]),
    ]
}

fn of_trust(ca: &TestCa) -> Vec<Vector> {
    let (same, other) = (TestCa::new(), TestCa::of("other.example"));
    let their = "spiffe://other.example/ns/default/sa/a";
    let vector = |name: &str, signer: &TestCa, id: &str, roots: &[(&'static str, &TestCa)]| Vector {
        name: name.to_owned(),
        chain: signer.sign(signer.leaf_params(id, DAY)).0,
        roots: roots.iter().map(|(domain, ca)| (*domain, ca.root_der())).collect(),
    };
    let both = [("cluster.local", ca), ("other.example", &other)];
    let mut all = vec![
        vector("a stranger of our name", &same, GOOD, &both),
        vector("theirs, known", &other, their, &both),
        vector("theirs, unknown", &other, their, &both[..1]),
        vector("they sign for us", &other, GOOD, &both),
        vector("we sign for them", ca, their, &both),
        vector("no roots at all", ca, GOOD, &[]),
    ];
    let root = rcgen::Issuer::from_ca_cert_der(
        &ca.root_der(),
        KeyPair::from_pem(&ca.root_key_pem()).expect("a key"),
    )
    .expect("an issuer");
    for (name, is_ca, sign) in [
        ("by an intermediate", IsCa::Ca(BasicConstraints::Constrained(0)), true),
        ("by a leaf", IsCa::NoCa, true),
        ("by an authority that may not sign", IsCa::Ca(BasicConstraints::Constrained(0)), false),
    ] {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "intermediate");
        params.is_ca = is_ca;
        params.key_usages =
            vec![if sign { KeyUsagePurpose::KeyCertSign } else { KeyUsagePurpose::DigitalSignature }];
        let middle =
            CertifiedIssuer::signed_by(params, KeyPair::generate().expect("a key"), &root).expect("one");
        let leaf =
            ca.leaf_params(GOOD, DAY).signed_by(&KeyPair::generate().expect("a key"), &middle).expect("one");
        let chain = vec![leaf.der().clone(), middle.der().clone()];
        all.push(Vector { name: name.to_owned(), chain, roots: vec![("cluster.local", ca.root_der())] });
    }
    all
}

fn of_bytes(ca: &TestCa) -> Vec<Vector> {
    let good = changed(ca, "", |_| ());
    let with = |name: &str, leaf: Vec<u8>| Vector {
        name: name.to_owned(),
        chain: vec![leaf.into()],
        roots: vec![("cluster.local", ca.root_der())],
    };
    let leaf = good.chain[0].to_vec();
    let mut longer = leaf.clone();
    longer.push(0);
    let mut flipped = leaf.clone();
    *flipped.last_mut().expect("a byte") ^= 1;
    vec![
        with("nothing", vec![]),
        with("half of it", leaf[..leaf.len() / 2].to_vec()),
        with("a byte more", longer),
        with("another signature", flipped),
        Vector { name: "no chain".to_owned(), chain: vec![], roots: vec![("cluster.local", ca.root_der())] },
    ]
}

/// Our verdict, for both sides of a handshake.
fn ours(vector: &Vector) -> Result<String, String> {
    let mut roots = Roots::none();
    for (domain, root) in &vector.roots {
        roots = roots.with_domain(&domain.parse().expect("a domain"), vec![root.clone()]).expect("a root");
    }
    let roots = RootsHandle::new(roots);
    let judge = |role| verify_chain(&vector.chain, &roots, role, UnixTime::now());
    match (judge(Role::Client), judge(Role::Server)) {
        (Ok(client), Ok(server)) => {
            assert_eq!(client.id, server.id);
            Ok(client.id.to_string())
        }
        (Err(why), _) | (_, Err(why)) => Err(why.to_string()),
    }
}

/// Asks go-spiffe, or says why that is not possible.
fn theirs(question: &Value) -> Result<Value, String> {
    let folder = tempfile::tempdir().map_err(|why| why.to_string())?;
    let write = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).map_err(|why| why.to_string())
    };
    write("main.go", include_str!("go_spiffe/main.go"))?;
    write("go.mod", &format!("module verdicts\n\ngo 1.24.0\n\nrequire {MODULE}\n"))?;
    let mut go = Command::new("go")
        .args(["run", "-mod=mod", "."])
        .env("GOFLAGS", "")
        .current_dir(&folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|why| format!("go: {why}"))?;
    let mut input = go.stdin.take().expect("a pipe");
    let text = question.to_string();
    let writing = std::thread::spawn(move || input.write_all(text.as_bytes()));
    let output = go.wait_with_output().map_err(|why| why.to_string())?;
    // Where it has ended before it read all, it says why.
    let _ = writing.join();
    serde_json::from_slice(&output.stdout).map_err(|_| String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn t5_t6_t7_t8_go_spiffe_has_no_other_verdict() {
    let ca = TestCa::new();
    let vectors: Vec<Vector> =
        [of_names(&ca), of_use_and_time(&ca), of_trust(&ca), of_bytes(&ca)].into_iter().flatten().collect();
    let encode = |der: &CertificateDer<'_>| BASE64_STANDARD.encode(der);
    let chains = vectors.iter().map(|vector| {
        let mut roots: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        vector.roots.iter().for_each(|(domain, root)| roots.entry(domain).or_default().push(encode(root)));
        json!({"Chain": vector.chain.iter().map(encode).collect::<Vec<_>>(), "Roots": roots})
    });
    let texts: Vec<&str> = IDS.into_iter().chain([GOOD, "spiffe://td.example/ns/a.b/sa/c-d"]).collect();
    let question = json!({"Chains": chains.collect::<Vec<_>>(), "IDs": texts});
    // Ours alone: what is good is good, and nearly nothing is.
    let ours: Vec<_> = vectors.iter().map(ours).collect();
    assert_eq!(ours.iter().filter(|verdict| verdict.is_ok()).count(), 4, "{ours:?}");
    let answer = match theirs(&question) {
        Ok(answer) => answer,
        Err(why) => return println!("skipped: no second opinion of go-spiffe: {why}"),
    };
    let told = |verdict: &Value| match verdict["error"].as_str() {
        Some("") => Ok(verdict["id"].as_str().expect("a text").to_owned()),
        why => Err(why.expect("a text").to_owned()),
    };
    let mut stricter = Vec::new();
    for ((vector, ours), theirs) in
        vectors.iter().zip(&ours).zip(answer["chains"].as_array().expect("a list"))
    {
        match (ours, told(theirs)) {
            (Ok(ours), Ok(theirs)) => assert_eq!(*ours, theirs, "{}", vector.name),
            (Ok(ours), Err(why)) => panic!("{}: accepted as {ours}, and go-spiffe says: {why}", vector.name),
            (Err(_), Ok(_)) => stricter.push(vector.name.as_str()),
            (Err(_), Err(_)) => {}
        }
    }
    let mut expected = STRICTER.map(|(name, _)| name);
    expected.sort_unstable();
    stricter.sort_unstable();
    assert_eq!(stricter, expected, "refused by us alone");
    for (text, theirs) in texts.iter().zip(answer["ids"].as_array().expect("a list")) {
        if let Ok(id) = text.parse::<SpiffeId>() {
            assert_eq!(told(theirs).as_deref(), Ok(id.as_str()));
        }
    }
}
