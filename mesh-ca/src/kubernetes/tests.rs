//! The authority against an API server in memory: who is attested, what is created once, what a change does.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use mesh_proto::model::SpiffeId;
use mesh_proto::runtime::testing::TestCa;
use serde_json::{Value, json};

use super::fake::Fake;
use super::*;
use crate::attest::{Attestor, Caller, Credentials, Denied, NotAttested, Tokens};
use crate::authority::material;
use crate::keeper::{Clock, Keeper, Request};
use crate::rotation::{Phase, Report, Step};
use review::{Rejected, Reviewer};

const OWN: &str = "secrets/istio-ca-secret";
const PLUGGED: &str = "secrets/cacerts";
const ROOTS: &str = "configmaps/istio-ca-root-cert";
const STATE: &str = "secrets/mesh-ca-state";

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

fn keeper_settings() -> (crate::keeper::Settings, Clock) {
    let settings = settings().keeper();
    let clock = settings.clock.clone();
    (settings, clock)
}

async fn opened(fake: &Fake) -> (Arc<Keeper>, Clock) {
    let (settings, clock) = keeper_settings();
    let shelf = Shelf::Secrets(shelf::Secrets::new(fake.client(), "istio-system"));
    (Arc::new(Keeper::open(shelf, settings, &admin::Ready::default()).await), clock)
}

/// The root that signs.
fn root(keeper: &Keeper) -> String {
    let authority = keeper.signing().load();
    mesh_proto::runtime::identity::pem(&authority.root_certificates()[0])
}

fn root_in(fake: &Fake) -> String {
    fake.get(ROOTS).unwrap()["data"]["root-cert.pem"].as_str().unwrap().to_owned()
}

/// A Secret as an operator plugs one in: a self-signed root.
fn secret() -> (Value, String) {
    let domain = "cluster.local".parse().unwrap();
    let (key, root) = material::self_signed(&domain, material::ROOT_LIFE).unwrap();
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
    let ((one, _), (two, _)) = tokio::join!(opened(&fake), opened(&fake));
    let (restarted, _) = opened(&fake).await;
    assert_eq!(root(&one), root(&two));
    assert_eq!(root(&one), root(&restarted));
    assert!(same(&root_in(&fake), &root(&one)));
    let secret = fake.get(OWN).unwrap();
    assert_eq!(secret["type"], "istio.io/ca-root");
    for key in ["ca-cert.pem", "ca-key.pem", "root-cert.pem", "cert-chain.pem"] {
        assert!(secret["data"][key].is_string(), "{key}");
    }
}

#[tokio::test]
async fn what_is_plugged_in_counts() {
    let fake = Fake::default();
    let (plugged, theirs) = secret();
    fake.put(PLUGGED, plugged);
    let (keeper, _) = opened(&fake).await;
    assert!(same(&root(&keeper), &theirs));
    assert!(fake.get(OWN).is_none(), "nothing else is created");
    let prepare = Request::Rotate { step: Step::Prepare, force: true, automatic: false };
    let refused = keeper.command(&prepare).await.unwrap_err().to_string();
    assert!(refused.contains("plugged in"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn garbage_in_the_secret_is_named_and_waited_out() {
    let fake = Fake::default();
    let (mut plugged, theirs) = secret();
    let good = plugged.clone();
    plugged["data"]["ca-key.pem"] = BASE64_STANDARD.encode("garbage").into();
    fake.put(PLUGGED, plugged);
    let ready = admin::Ready::default();
    let told = ready.clone();
    let opening = tokio::spawn({
        let shelf = Shelf::Secrets(shelf::Secrets::new(fake.client(), "istio-system"));
        let (settings, _) = keeper_settings();
        async move { root(&Keeper::open(shelf, settings, &ready).await) }
    });
    tokio::time::sleep(Duration::from_secs(60)).await;
    let why = told.why().unwrap();
    assert!(why.contains("Secret istio-system/cacerts, key ca-key.pem") && !why.contains("garbage"), "{why}");
    assert!(fake.get(OWN).is_none(), "a bad root is never replaced by another");
    fake.put(PLUGGED, good);
    assert!(same(&opening.await.unwrap(), &theirs));
}

#[tokio::test]
async fn a_root_that_is_plugged_in_is_known_before_it_signs() {
    let fake = Fake::default();
    let (keeper, clock) = opened(&fake).await;
    let old = root(&keeper);
    keeper.look().await.unwrap();
    let (plugged, new) = secret();
    fake.put(PLUGGED, plugged);
    keeper.look().await.unwrap();
    let published = root_in(&fake);
    assert!(published.contains(new.trim()) && published.contains(old.trim()), "{published}");
    assert_eq!(root(&keeper), old, "not yet");
    clock.advance(119);
    keeper.look().await.unwrap();
    assert_eq!(root(&keeper), old, "not yet");
    // A replica that is started meanwhile has not got the old key: it waits rather than sign with what few know.
    let (settings, _) = keeper_settings();
    let shelf = Shelf::Secrets(shelf::Secrets::new(fake.client(), "istio-system"));
    let early = Keeper::open_once(shelf, settings).await.unwrap_err().to_string();
    assert!(early.contains("signs when it has spread"), "{early}");
    clock.advance(2);
    keeper.look().await.unwrap();
    assert!(same(&root(&keeper), &new));
    // The old one is still trusted, by a restarted authority too.
    keeper.look().await.unwrap();
    let (restarted, _) = opened(&fake).await;
    restarted.look().await.unwrap();
    assert!(root_in(&fake).contains(old.trim()) && same(&root(&restarted), &new));
    // Somebody breaks the ConfigMap: it is put right.
    let both = root_in(&fake);
    fake.put(
        ROOTS,
        json!({ "metadata": { "name": "istio-ca-root-cert" }, "data": { "root-cert.pem": "x" } }),
    );
    keeper.look().await.unwrap();
    assert_eq!(root_in(&fake), both);
    fake.delete(ROOTS);
    keeper.look().await.unwrap();
    assert_eq!(root_in(&fake), both);
    // The last certificate of the old one has ended.
    clock.advance(86400 + 31);
    keeper.look().await.unwrap();
    assert!(same(&root_in(&fake), &new));
}

#[tokio::test]
async fn what_is_bad_or_gone_changes_nothing() {
    let fake = Fake::default();
    let (keeper, _) = opened(&fake).await;
    let own = root(&keeper);
    let (mut other, _) = secret();
    other["data"]["ca-cert.pem"] = BASE64_STANDARD.encode(TestCa::new().root_pem()).into();
    fake.put(PLUGGED, other);
    let error = keeper.look().await.unwrap_err().to_string();
    assert!(error.contains("cacerts") && error.contains("not good"), "{error}");
    assert_eq!(root(&keeper), own);
    fake.delete(PLUGGED);
    fake.delete(OWN);
    let error = keeper.look().await.unwrap_err().to_string();
    assert!(error.contains("gone"), "{error}");
    assert_eq!(root(&keeper), own);
    // The state is written again from memory, and read by who starts next; one of a newer version is not overwritten.
    fake.delete(STATE);
    assert!(keeper.look().await.is_err());
    assert!(fake.get(STATE).is_some());
    fake.break_with(Some(503));
    assert!(keeper.look().await.unwrap_err().to_string().contains("503"));
    assert_eq!(root(&keeper), own);
}

fn rotate(step: Step) -> Request {
    Request::Rotate { step, force: false, automatic: false }
}

/// Two replicas, a pilot that reports to one of them, and a restart at every step: all agree, and the root changes once.
#[tokio::test]
async fn replicas_rotate_together_and_a_restart_changes_nothing() {
    let fake = Fake::default();
    let (one, clock) = opened(&fake).await;
    let (two, other_clock) = opened(&fake).await;
    let old = root(&one);
    one.command(&rotate(Step::Prepare)).await.unwrap();
    assert!(same(&root_in(&fake), &old), "nobody has heard of it");
    let (two_again, _) = opened(&fake).await;
    assert_eq!(two_again.status().await.unwrap().rotation.unwrap().phase, Phase::Prepared);
    // The other replica is asked for the next step.
    let published = two.command(&rotate(Step::Publish)).await.unwrap();
    assert_eq!(root_in(&fake).matches("BEGIN").count(), 2);
    let refused = one.command(&rotate(Step::Activate)).await.unwrap_err().to_string();
    assert!(refused.contains("no pilot has said"), "{refused}");
    // The pilot talks to the second replica, and the first one is commanded.
    let report = Report { sequence: published.sequence, proxies: 3, ..Report::default() };
    two.report("mesh-pilot-a", report.clone());
    two.look().await.unwrap();
    one.look().await.unwrap();
    assert_eq!(root(&one), old);
    one.command(&rotate(Step::Activate)).await.unwrap();
    let new = root(&one);
    assert_ne!(new, old);
    two.look().await.unwrap();
    assert_eq!(root(&two), new, "the other replica follows at its next look");
    let (restarted, _) = opened(&fake).await;
    assert_eq!(root(&restarted), new);
    assert_eq!(root_in(&fake).matches("BEGIN").count(), 2, "the old one is still trusted");
    let key = fake.get(STATE).unwrap()["data"]["state.json"].as_str().unwrap().to_owned();
    let text = String::from_utf8(BASE64_STANDARD.decode(key).unwrap()).unwrap();
    assert!(!text.contains("PRIVATE"), "the key is in one place");
    let refused = two.command(&rotate(Step::Retire)).await.unwrap_err().to_string();
    assert!(refused.contains("are valid for up to"), "{refused}");
    for clock in [&clock, &other_clock] {
        clock.advance(86400 + 31);
    }
    let sequence = two.status().await.unwrap().sequence;
    two.report("mesh-pilot-a", Report { sequence, ..report });
    two.command(&rotate(Step::Retire)).await.unwrap();
    assert!(same(&root_in(&fake), &new));
    one.look().await.unwrap();
    let (a, b) = (one.status().await.unwrap(), two.status().await.unwrap());
    assert_eq!((a.sequence, a.roots.len(), a.rotation), (b.sequence, 1, None));
}

/// Ended between the two writes of an activation: who starts next goes on where it was.
#[tokio::test]
async fn half_an_activation_is_completed() {
    let fake = Fake::default();
    let (keeper, _) = opened(&fake).await;
    keeper.command(&rotate(Step::Prepare)).await.unwrap();
    keeper.command(&rotate(Step::Publish)).await.unwrap();
    let state = fake.get(STATE).unwrap();
    let old = root(&keeper);
    keeper.command(&Request::Rotate { step: Step::Activate, force: true, automatic: false }).await.unwrap();
    let new = root(&keeper);
    // As if the state had not been written any more.
    fake.put(STATE, state);
    let (restarted, _) = opened(&fake).await;
    assert_eq!(root(&restarted), new);
    let status = restarted.status().await.unwrap();
    assert_eq!(status.rotation.unwrap().phase, Phase::Activated);
    assert!(root_in(&fake).contains(old.trim()));
    keeper.look().await.unwrap();
    assert_eq!(root(&keeper), new);
}

/// A taint is kept before it is told, and told by every replica.
#[tokio::test]
async fn a_taint_is_kept_and_shared() {
    let fake = Fake::default();
    let (one, _) = opened(&fake).await;
    let (two, _) = opened(&fake).await;
    let identity = "spiffe://cluster.local/ns/shop/sa/reviews";
    let id: SpiffeId = identity.parse().unwrap();
    let taint =
        |identity: &str| Request::Taint { identity: identity.to_owned(), reason: "stolen".to_owned() };
    one.command(&taint(identity)).await.unwrap();
    assert!(one.told().borrow().is_tainted(&id) && one.identity().roots().is_tainted(&id));
    two.look().await.unwrap();
    assert!(two.told().borrow().is_tainted(&id));
    // Somebody deletes the Secret: what is in memory is kept again, not forgotten. One without its key is no empty state.
    let sequence = one.told().borrow().sequence;
    fake.delete(STATE);
    one.look().await.unwrap();
    assert!(one.told().borrow().is_tainted(&id));
    assert_eq!(one.told().borrow().sequence, sequence);
    let mut emptied = fake.get(STATE).unwrap();
    let kept = emptied.clone();
    emptied["data"] = serde_json::json!({});
    fake.put(STATE, emptied);
    assert!(one.look().await.unwrap_err().to_string().contains("no such key"));
    assert!(one.told().borrow().is_tainted(&id));
    fake.put(STATE, kept);
    let (restarted, _) = opened(&fake).await;
    assert!(restarted.told().borrow().is_tainted(&id));
    for (bad, why) in [
        ("spiffe://cluster.local/ns/istio-system/sa/mesh-ca", "control plane"),
        ("spiffe://cluster.local/ns/istio-system/sa/mesh-pilot", "control plane"),
        ("spiffe://other/ns/a/sa/b", "nobody here trusts"),
        ("reviews", "not a SPIFFE ID"),
    ] {
        let refused = one.command(&taint(bad)).await.unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
    }
    // What cannot be kept is not promised.
    fake.break_with(Some(500));
    assert!(one.command(&Request::Untaint { identity: identity.to_owned() }).await.is_err());
    assert!(one.told().borrow().is_tainted(&id));
    fake.break_with(None);
    two.command(&Request::Untaint { identity: identity.to_owned() }).await.unwrap();
    one.look().await.unwrap();
    assert!(!one.told().borrow().is_tainted(&id));
}
