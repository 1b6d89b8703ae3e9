//! Fetching over real sockets: what is good, what is refused, what stays.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

const JWKS: &str = r#"{"keys":[{"crv":"Ed25519","kty":"OKP","x":"a"}]}"#;

/// Answers each request with the next of its answers, the last one for ever; says what was asked for.
struct Issuer {
    at: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Issuer {
    async fn start(answers: Vec<(u16, String)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let told = asked.clone();
        let own = at.clone();
        tokio::spawn(async move {
            let mut answers = answers.into_iter().peekable();
            let mut last = (404, String::new());
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.is_ok_and(|n| n > 0) {}
                let head = String::from_utf8(head).unwrap();
                told.lock().push(head.split(' ').nth(1).unwrap_or_default().to_owned());
                last = answers.next().unwrap_or(last);
                let (status, body) = (last.0, last.1.replace("SELF", &own));
                let location = format!("location: {own}/elsewhere\r\n");
                let answer = format!(
                    "HTTP/1.1 {status} x\r\n{location}content-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Self { at, asked }
    }

    async fn keys(&self) -> Result<Bytes, String> {
        fetch::keys(&KeySource::Uri(format!("{}/keys", self.at)), Reach::Loopback)
            .await
            .map_err(|e| e.to_string())
    }
}

#[tokio::test]
async fn keys_of_a_uri_and_of_an_issuer() {
    let issuer = Issuer::start(vec![(200, JWKS.into())]).await;
    assert_eq!(issuer.keys().await.unwrap(), JWKS);
    let document = r#"{"issuer":"SELF","jwks_uri":"SELF/k"}"#;
    let issuer = Issuer::start(vec![(200, document.into()), (200, JWKS.into())]).await;
    let found = fetch::keys(&KeySource::Issuer(issuer.at.clone()), Reach::Loopback).await.unwrap();
    assert_eq!(found, JWKS);
    assert_eq!(*issuer.asked.lock(), ["/.well-known/openid-configuration", "/k"]);
    let other = r#"{"issuer":"https://other","jwks_uri":"SELF/k"}"#;
    let issuer = Issuer::start(vec![(200, other.into())]).await;
    let error = fetch::keys(&KeySource::Issuer(issuer.at.clone()), Reach::Loopback).await.unwrap_err();
    assert!(error.to_string().contains("the document of Some(\"https://other\")"), "{error}");
}

/// Row J3.
#[tokio::test]
async fn what_is_no_key_set_is_none() {
    for (status, body, why) in [
        (404, JWKS.to_owned(), "answers 404"),
        (500, String::new(), "answers 500"),
        (302, JWKS.to_owned(), "answers 302"),
        (200, String::new(), "no JSON"),
        (200, "{}".to_owned(), "no keys in it"),
        (200, r#"{"keys":[]}"#.to_owned(), "no keys in it"),
        (200, r#"{"keys":[{}]}"#.to_owned(), "no keys in it that can verify"),
        (200, format!("{JWKS}{}", " ".repeat(2 << 20)), "length limit"),
    ] {
        let issuer = Issuer::start(vec![(status, body)]).await;
        let error = issuer.keys().await.unwrap_err();
        assert!(error.contains(why), "{status}: {error}");
        assert_eq!(issuer.asked.lock().len(), 1, "a redirect is not followed");
    }
}

/// Row J7: nothing that only this machine or its hypervisor has.
#[tokio::test]
async fn addresses_that_are_nobodys_business() {
    let ask = |address: &str, reach| fetch::may_ask(address.parse().unwrap(), reach);
    for address in [
        "169.254.169.254",
        "fe80::1",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "::169.254.169.254",
        "fd00:ec2::254",
        "100.100.100.200",
    ] {
        assert!(!ask(address, Reach::Loopback) && !ask(address, Reach::Outside), "{address}");
    }
    for address in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
        assert!(ask(address, Reach::Loopback) && !ask(address, Reach::Outside), "{address}");
    }
    assert!(ask("10.0.0.1", Reach::Outside) && ask("2001:db8::1", Reach::Outside));
    let issuer = Issuer::start(vec![(200, JWKS.into())]).await;
    let source = KeySource::Uri(format!("{}/keys", issuer.at));
    let error = fetch::keys(&source, Reach::Outside).await.unwrap_err();
    assert!(error.to_string().contains("no address that may be asked"), "{error}");
    assert!(issuer.asked.lock().is_empty());
    for uri in ["", "keys", "file:///etc/passwd", "ftp://a/b", "http://"] {
        let error = fetch::keys(&KeySource::Uri(uri.into()), Reach::Loopback).await.unwrap_err();
        assert!(matches!(error, FetchError::Uri(_)), "{uri}: {error}");
    }
}

/// The last good keys stay while their source fails, and each source is followed by itself.
#[tokio::test]
async fn a_source_that_fails_keeps_its_keys_and_holds_up_nobody() {
    let answers = vec![(500, String::new()), (200, JWKS.into())];
    let (failing, good) = (Issuer::start(vec![(500, String::new())]).await, Issuer::start(answers).await);
    let sources = [&failing, &good].map(|issuer| KeySource::Uri(issuer.at.clone()));
    let (want, wanted) = watch::channel(BTreeSet::from(sources.clone()));
    let (found, mut events) = mpsc::channel(16);
    let keeper = tokio::spawn(keep(wanted, found, Reach::Loopback));
    let mut known: BTreeMap<KeySource, Keys> = BTreeMap::new();
    let seen = tokio::time::timeout(Duration::from_secs(20), async {
        while known.get(&sources[1]).is_none_or(|keys| keys.good.is_none()) {
            for event in events.recv().await.unwrap() {
                let Event::Keys { source, keys } = event else { panic!("{event:?}") };
                known.insert(source, keys);
            }
        }
    });
    seen.await.expect("the good one's keys come, after a failure");
    assert!(known[&sources[0]].good.is_none() && known[&sources[0]].wrong.as_ref().unwrap().contains("500"));
    assert_eq!(known[&sources[1]], Keys { good: Some(JWKS.into()), ..Keys::default() });
    want.send_replace(BTreeSet::new());
    drop(want);
    tokio::time::timeout(Duration::from_secs(5), keeper)
        .await
        .expect("it ends when nobody wants anything")
        .unwrap();
}
