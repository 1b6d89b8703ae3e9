//! The authority against an API server in memory: who is attested, what is created once, what a change does.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use mesh_proto::model::SpiffeId;
use mesh_proto::runtime::testing::TestCa;
use serde_json::{Value, json};

use super::fake::Fake;
use super::keeper::Keeper;
use super::*;
use crate::attest::{Attestor, Caller, Credentials, Denied, NotAttested, Tokens};
use crate::authority::{Authority, material};
use review::{Rejected, Reviewer};

const OWN: &str = "secrets/istio-ca-secret";
const PLUGGED: &str = "secrets/cacerts";
const ROOTS: &str = "configmaps/istio-ca-root-cert";

fn settings() -> Settings {
    crypto::install_provider();
    Settings::from_lookup(|_| None).unwrap()
}

fn attestor(fake: &Fake) -> Attestor {
    Attestor::new(settings().own, Tokens::Reviewed(Reviewer::new(fake.client())))
}

async fn ask(
    attestor: &Attestor,
    token: &str,
    certificate: Option<&SpiffeId>,
) -> Result<Caller, NotAttested> {
    let bearer = format!("Bearer {token}");
    let credentials = Credentials { authorization: &[bearer.as_bytes()], certificate };
    attestor.attest(credentials, SystemTime::now()).await
}

fn account(namespace: &str, name: &str) -> Value {
    json!({
        "authenticated": true,
        "audiences": ["istio-ca"],
        "user": {
            "username": format!("system:serviceaccount:{namespace}:{name}"),
            "groups": ["system:serviceaccounts"],
            "extra": {
                "authentication.kubernetes.io/pod-name": ["reviews-0"],
                "authentication.kubernetes.io/pod-uid": ["u-1"],
            },
        },
    })
}

fn denied(answer: Result<Caller, NotAttested>) -> Denied {
    match answer {
        Err(NotAttested::Denied(denied)) => denied,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn who_calls_is_what_the_api_server_says() {
    let fake = Fake::default();
    fake.token("a.b.c", account("shop", "reviews"));
    let attestor = attestor(&fake);
    let caller = ask(&attestor, "a.b.c", None).await.unwrap();
    assert_eq!(caller.id.as_str(), "spiffe://cluster.local/ns/shop/sa/reviews");
    assert_eq!(caller.pod.as_deref(), Some("reviews-0 (u-1)"));
    // A certificate of somebody else beside it: refused, with both names.
    let other: SpiffeId = "spiffe://cluster.local/ns/shop/sa/ratings".parse().unwrap();
    assert!(matches!(denied(ask(&attestor, "a.b.c", Some(&other)).await), Denied::Disagree { .. }));
    // Each call is asked anew: a token that was revoked a moment ago counts for nothing.
    let before = fake.reviews();
    let gone = json!({ "authenticated": false, "error": "[invalid bearer token, pod deleted]" });
    fake.token("a.b.c", gone);
    let refused = denied(ask(&attestor, "a.b.c", None).await);
    assert!(refused.to_string().contains("pod deleted"), "{refused}");
    assert_eq!(fake.reviews(), before + 1);
}

#[tokio::test]
async fn bad_tokens_are_refused_by_name() {
    let fake = Fake::default();
    let error = |text: &str| json!({ "authenticated": false, "error": text });
    fake.token("ex.pi.red", error("[invalid bearer token, service account token has expired]"));
    fake.token("o.th.er", error("[invalid bearer token, token audiences [\"x\"] is invalid for ...]"));
    let mut unaware = account("shop", "reviews");
    unaware.as_object_mut().unwrap().remove("audiences");
    fake.token("un.aw.are", unaware);
    let mut person = account("a", "b");
    person["user"]["username"] = "kubernetes-admin".into();
    fake.token("per.s.on", person);
    fake.token("c.a.own", account("istio-system", "mesh-ca"));
    fake.token("o.d.d", account("shop", "../admin"));
    let attestor = attestor(&fake);
    let refused = async |token: &str| denied(ask(&attestor, token, None).await);
    assert_eq!(refused("ex.pi.red").await, Denied::Rejected(Rejected::Expired));
    assert_eq!(refused("o.th.er").await, Denied::Rejected(Rejected::Audience));
    assert_eq!(refused("un.aw.are").await, Denied::Rejected(Rejected::Audience));
    assert!(matches!(refused("per.s.on").await, Denied::Rejected(Rejected::NoServiceAccount(_))));
    assert!(matches!(refused("un.kno.wn").await, Denied::Rejected(Rejected::Unknown(_))));
    assert!(matches!(refused("c.a.own").await, Denied::Authority(_)));
    assert!(matches!(refused("o.d.d").await, Denied::Identity(_)));
    let asked = fake.reviews();
    for garbage in ["", "x", "a.b", "a.b.c d", &"x".repeat(100_000)] {
        assert_eq!(refused(garbage).await, Denied::Rejected(Rejected::Malformed));
    }
    assert_eq!(fake.reviews(), asked, "garbage is not shown to the API server");
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_away_refuses_nobody_for_good() {
    let fake = Fake::default();
    fake.token("a.b.c", account("shop", "reviews"));
    let attestor = attestor(&fake);
    for (broken, said) in [
        (500, "500 InternalError: told to fail"),
        (429, "429"),
        (403, "needs `create` on `tokenreviews"),
        (0, "did not answer within 5 s"),
    ] {
        fake.break_with(Some(broken));
        match ask(&attestor, "a.b.c", None).await {
            Err(NotAttested::Unavailable(why)) => assert!(why.contains(said), "{why}"),
            other => panic!("{broken}: {other:?}"),
        }
    }
    // Renewal by certificate asks nobody.
    let own: SpiffeId = "spiffe://cluster.local/ns/shop/sa/reviews".parse().unwrap();
    let by_certificate = Credentials { authorization: &[], certificate: Some(&own) };
    assert!(attestor.attest(by_certificate, SystemTime::now()).await.is_ok());
    fake.break_with(None);
    assert!(ask(&attestor, "a.b.c", None).await.is_ok());
}

/// Many callers while the API server is silent: all get their answer in the time of one, and nothing piles up.
#[tokio::test(start_paused = true)]
async fn a_crowd_is_told_to_come_again() {
    let fake = Fake::default();
    fake.break_with(Some(0));
    let attestor = Arc::new(attestor(&fake));
    let since = tokio::time::Instant::now();
    let mut asked = tokio::task::JoinSet::new();
    for _ in 0..500 {
        let attestor = attestor.clone();
        asked.spawn(async move { ask(&attestor, "a.b.c", None).await });
    }
    while let Some(answer) = asked.join_next().await {
        assert!(matches!(answer.unwrap(), Err(NotAttested::Unavailable(_))));
    }
    assert!(since.elapsed() <= Duration::from_secs(11), "{:?}", since.elapsed());
}

async fn opened(fake: &Fake) -> (Authority, Keeper) {
    Keeper::new(fake.client(), &settings()).open(&admin::Ready::default()).await
}

fn root_in(fake: &Fake) -> String {
    fake.get(ROOTS).unwrap()["data"]["root-cert.pem"].as_str().unwrap().to_owned()
}

/// A Secret as an operator plugs one in: a self-signed root.
fn secret() -> (Value, String) {
    let (key, root) = material::self_signed(&"cluster.local".parse().unwrap()).unwrap();
    let encode = |text: &str| BASE64_STANDARD.encode(text);
    let object = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "x", "uid": "u" },
        "data": {
            "ca-cert.pem": encode(&root), "ca-key.pem": encode(&key),
            "root-cert.pem": encode(&root), "cert-chain.pem": "",
        },
    });
    (object, root)
}

fn same(a: &str, b: &str) -> bool {
    a.split_whitespace().eq(b.split_whitespace())
}

#[tokio::test]
async fn replicas_and_restarts_have_one_root() {
    let fake = Fake::default();
    let (one, two) = tokio::join!(opened(&fake), opened(&fake));
    let restarted = opened(&fake).await;
    assert_eq!(one.0.root_pem(), two.0.root_pem());
    assert_eq!(one.0.root_pem(), restarted.0.root_pem());
    assert!(same(&root_in(&fake), &one.0.root_pem()));
    let secret = fake.get(OWN).unwrap();
    assert_eq!(secret["type"], "istio.io/ca-root");
    for key in ["ca-cert.pem", "ca-key.pem", "root-cert.pem", "cert-chain.pem"] {
        assert!(secret["data"][key].is_string(), "{key}");
    }
}

#[tokio::test]
async fn what_is_plugged_in_counts() {
    let fake = Fake::default();
    let (plugged, root) = secret();
    fake.put(PLUGGED, plugged);
    let (authority, _) = opened(&fake).await;
    assert!(same(&authority.root_pem(), &root));
    assert!(fake.get(OWN).is_none(), "nothing else is created");
}

#[tokio::test(start_paused = true)]
async fn garbage_in_the_secret_is_named_and_waited_out() {
    let fake = Fake::default();
    let (mut plugged, root) = secret();
    let good = plugged.clone();
    plugged["data"]["ca-key.pem"] = BASE64_STANDARD.encode("garbage").into();
    fake.put(PLUGGED, plugged);
    let ready = admin::Ready::default();
    let told = ready.clone();
    let opening = tokio::spawn({
        let client = fake.client();
        async move { Keeper::new(client, &settings()).open(&ready).await.0.root_pem() }
    });
    tokio::time::sleep(Duration::from_secs(60)).await;
    let why = told.why().unwrap();
    assert!(why.contains("Secret istio-system/cacerts, key ca-key.pem") && !why.contains("garbage"), "{why}");
    assert!(fake.get(OWN).is_none(), "a bad root is never replaced by another");
    fake.put(PLUGGED, good);
    assert!(same(&opening.await.unwrap(), &root));
}

#[tokio::test(start_paused = true)]
async fn a_new_root_is_known_before_it_signs() {
    let fake = Fake::default();
    let (authority, mut keeper) = opened(&fake).await;
    let old = authority.root_pem();
    let ca = Ca::new(authority, attestor(&fake)).unwrap();
    let handle = ca.handle();
    keeper.look(&handle).await.unwrap();
    let (plugged, new) = secret();
    fake.put(PLUGGED, plugged);
    keeper.look(&handle).await.unwrap();
    let published = root_in(&fake);
    assert!(published.contains(new.trim()) && published.contains(old.trim()), "{published}");
    assert_eq!(handle.signing().root_pem(), old, "not yet");
    tokio::time::advance(Duration::from_secs(119)).await;
    keeper.look(&handle).await.unwrap();
    assert_eq!(handle.signing().root_pem(), old, "not yet");
    tokio::time::advance(Duration::from_secs(2)).await;
    keeper.look(&handle).await.unwrap();
    assert!(same(&handle.signing().root_pem(), &new));
    // The old one is still trusted, by a restarted authority too.
    keeper.look(&handle).await.unwrap();
    let (_, mut restarted) = opened(&fake).await;
    restarted.look(&handle).await.unwrap();
    assert!(root_in(&fake).contains(old.trim()));
    // Somebody breaks the ConfigMap: it is put right.
    fake.put(
        ROOTS,
        json!({ "metadata": { "name": "istio-ca-root-cert" }, "data": { "root-cert.pem": "x" } }),
    );
    keeper.look(&handle).await.unwrap();
    assert!(same(&root_in(&fake), &new));
    fake.delete(ROOTS);
    keeper.look(&handle).await.unwrap();
    assert!(same(&root_in(&fake), &new));
}

#[tokio::test]
async fn what_is_bad_or_gone_changes_nothing() {
    let fake = Fake::default();
    let (authority, mut keeper) = opened(&fake).await;
    let root = authority.root_pem();
    let handle = Ca::new(authority, attestor(&fake)).unwrap().handle();
    let (mut other, _) = secret();
    other["data"]["ca-cert.pem"] = BASE64_STANDARD.encode(TestCa::new().root_pem()).into();
    fake.put(PLUGGED, other);
    let error = keeper.look(&handle).await.unwrap_err().to_string();
    assert!(error.contains("cacerts") && error.contains("not good"), "{error}");
    assert_eq!(handle.signing().root_pem(), root);
    fake.delete(PLUGGED);
    fake.delete(OWN);
    let error = keeper.look(&handle).await.unwrap_err().to_string();
    assert!(error.contains("gone"), "{error}");
    assert_eq!(handle.signing().root_pem(), root);
    fake.break_with(Some(503));
    assert!(keeper.look(&handle).await.unwrap_err().to_string().contains("503"));
    assert_eq!(handle.signing().root_pem(), root);
}
