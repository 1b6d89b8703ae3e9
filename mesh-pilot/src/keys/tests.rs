//! Fetching over real sockets: what is good, what is refused, what stays.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

const TIMEOUT: Duration = Duration::from_secs(5);

const JWKS: &str = r#"{"keys":[{"crv":"Ed25519","kty":"OKP","x":"a"}]}"#;

/// Answers each request with the next of its answers, the last one for ever; says what was asked for.
struct Issuer {
    at: String,
    asked: Arc<Mutex<Vec<String>>>,
    /// The heads of what was asked.
    heads: Arc<Mutex<Vec<String>>>,
}

impl Issuer {
    async fn start(answers: Vec<(u16, String)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let heads = Arc::new(Mutex::new(Vec::new()));
        let (told, whole) = (asked.clone(), heads.clone());
        let own = at.clone();
        tokio::spawn(async move {
            let mut answers = answers.into_iter().peekable();
            let mut last = (404, String::new());
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.is_ok_and(|n| n > 0) {}
                let head = String::from_utf8(head).unwrap();
                told.lock().push(head.split(' ').nth(1).unwrap_or_default().to_owned());
                whole.lock().push(head);
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
        Self { at, asked, heads }
    }

    async fn keys(&self) -> Result<Bytes, String> {
        let source = KeySource::Uri(format!("{}/keys", self.at));
        fetch(&source, Reach::Loopback).await.map_err(|e| e.to_string())
    }
}

async fn fetch(source: &KeySource, reach: Reach) -> Result<Bytes, FetchError> {
    fetch::keys(source, reach, turn(TIMEOUT).await).await
}

async fn turn(within: Duration) -> Turn {
    let (_told, mut want) = watch::channel(wanted_by(&["default"]));
    Turn { within, slot: Lanes::default().turn(&mut want, Pace::Short).await }
}

fn wanted_by(namespaces: &[&str]) -> Want {
    Want { namespaces: namespaces.iter().map(|name| Arc::from(*name)).collect(), timeout: TIMEOUT }
}

#[tokio::test]
async fn keys_of_a_uri_and_of_an_issuer() {
    let issuer = Issuer::start(vec![(200, JWKS.into())]).await;
    assert_eq!(issuer.keys().await.unwrap(), JWKS);
    let document = r#"{"issuer":"SELF","jwks_uri":"SELF/k"}"#;
    let issuer = Issuer::start(vec![(200, document.into()), (200, JWKS.into())]).await;
    let found = fetch(&KeySource::Issuer(issuer.at.clone()), Reach::Loopback).await.unwrap();
    assert_eq!(found, JWKS);
    assert_eq!(*issuer.asked.lock(), ["/.well-known/openid-configuration", "/k"]);
    let other = r#"{"issuer":"https://other","jwks_uri":"SELF/k"}"#;
    let issuer = Issuer::start(vec![(200, other.into())]).await;
    let error = fetch(&KeySource::Issuer(issuer.at.clone()), Reach::Loopback).await.unwrap_err();
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
    let error = fetch(&source, Reach::Outside).await.unwrap_err();
    assert!(error.to_string().contains("no address that may be asked"), "{error}");
    assert!(issuer.asked.lock().is_empty());
    for uri in ["", "keys", "file:///etc/passwd", "ftp://a/b", "http://"] {
        let error = fetch(&KeySource::Uri(uri.into()), Reach::Loopback).await.unwrap_err();
        assert!(matches!(error, FetchError::Uri(_)), "{uri}: {error}");
    }
}

/// Row J7: nobody's credentials go with a fetch, neither this machine's nor any that a document names.
#[tokio::test]
async fn j7_a_fetch_shows_nobodys_credentials() {
    let issuer = Issuer::start(vec![(200, JWKS.into())]).await;
    issuer.keys().await.unwrap();
    let head = issuer.heads.lock()[0].to_ascii_lowercase();
    let host = issuer.at.trim_start_matches("http://");
    let expected = format!("get /keys http/1.1\r\nhost: {host}\r\naccept: application/json\r\n\r\n");
    assert_eq!(head, expected, "what is not there cannot be somebody's");
    let document = r#"{"issuer":"SELF","jwks_uri":"WITH/k"}"#;
    let issuer = Issuer::start(vec![(200, document.replace("WITH", "http://ann:secret@127.0.0.1"))]).await;
    let error = fetch(&KeySource::Issuer(issuer.at.clone()), Reach::Loopback).await.unwrap_err().to_string();
    assert!(error.ends_with("its jwks_uri has credentials in it") && !error.contains("secret"), "{error}");
}

/// Row J7: an answer is read up to 1 MiB, however it is announced; what a document leads to is asked no more than what a rule does.
#[tokio::test]
async fn j7_bounds_hold_for_every_step() {
    let padded = |size: usize| format!("{JWKS}{}", " ".repeat(size - JWKS.len()));
    let issuer = Issuer::start(vec![(200, padded(1 << 20))]).await;
    issuer.keys().await.unwrap();
    let issuer = Issuer::start(vec![(200, padded((1 << 20) + 1))]).await;
    let error = issuer.keys().await.unwrap_err();
    assert!(error.contains("length limit"), "{error}");
    for keys in [
        "http://169.254.169.254/latest/meta-data",
        "http://[::ffff:169.254.169.254]/",
        "http://[fe80::1]/",
        "http://0.0.0.0/",
    ] {
        let document = format!(r#"{{"issuer":"SELF","jwks_uri":"{keys}"}}"#);
        let issuer = Issuer::start(vec![(200, document)]).await;
        let error = fetch(&KeySource::Issuer(issuer.at.clone()), Reach::Loopback).await.unwrap_err();
        assert!(error.to_string().contains("no address that may be asked"), "{keys}: {error}");
    }
    let document = r#"{"issuer":"SELF","jwks_uri":"file:///etc/passwd"}"#;
    let issuer = Issuer::start(vec![(200, document.into())]).await;
    let error = fetch(&KeySource::Issuer(issuer.at.clone()), Reach::Loopback).await.unwrap_err();
    assert!(matches!(error, FetchError::Uri(_)), "{error}");
}

/// Row J7: a source is asked because time has passed, and for no other reason: no more than once in 20 minutes while it answers,
/// than twice in a minute while it fails, whatever else changes beside it. (Proxies ask nobody: they name no unknown key to us.)
#[tokio::test(start_paused = true)]
async fn j7_a_source_is_asked_seldom_whatever_happens() {
    let source = KeySource::Uri("http://one".into());
    let (want, wanted) = watch::channel(Wanted::from([(source.clone(), wanted_by(&["a"]))]));
    let (found, mut events) = mpsc::channel(16);
    let fails = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let asked: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let (told, failing) = (asked.clone(), fails.clone());
    let fetch = move |source: KeySource, _turn: Turn| {
        if source.to_string() == "http://one" {
            told.lock().push(Instant::now());
        }
        let failed = failing.load(std::sync::atomic::Ordering::Relaxed);
        async move {
            match failed {
                true => Err(FetchError::Uri(source.to_string())),
                false => Ok(Bytes::from_static(JWKS.as_bytes())),
            }
        }
    };
    tokio::spawn(keep_by(wanted, found, fetch));
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    let pass = async |steps: u64| {
        asked.lock().clear();
        for step in 0..steps {
            tokio::time::sleep(Duration::from_secs(10)).await;
            // Another issuer comes and goes, another namespace wants it too, its rule has another timeout.
            let other = KeySource::Uri(format!("http://other/{}", step / 2));
            want.send_modify(|wanted| {
                wanted.retain(|known, _| *known == source);
                wanted.insert(other, wanted_by(&["b"]));
                let timeout = Duration::from_secs(1 + step % 5);
                let own = Want { timeout, ..wanted_by(&["a", if step % 3 == 0 { "b" } else { "c" }]) };
                wanted.insert(source.clone(), own);
            });
        }
        let times = asked.lock();
        times.windows(2).map(|pair| pair[1] - pair[0]).collect::<Vec<_>>()
    };
    let apart = pass(6 * 60 * 24).await;
    assert!((60..=81).contains(&apart.len()), "{}", apart.len());
    assert!(apart.iter().all(|apart| *apart >= REFRESH.mul_f64(0.9)), "{apart:?}");
    fails.store(true, std::sync::atomic::Ordering::Relaxed);
    let apart = pass(6 * 60).await;
    // 1 + 2 + 4 + 8 + 16 s, then every 30 s, each a tenth more or less.
    assert!((60..=140).contains(&apart.len()), "{}", apart.len());
    assert!(apart.iter().skip(5).all(|apart| *apart >= RETRY_MOST.mul_f64(0.9)), "{apart:?}");
}

/// The last good keys stay while their source fails, and each source is followed by itself.
#[tokio::test]
async fn a_source_that_fails_keeps_its_keys_and_holds_up_nobody() {
    let answers = vec![(500, String::new()), (200, JWKS.into())];
    let (failing, good) = (Issuer::start(vec![(500, String::new())]).await, Issuer::start(answers).await);
    let sources = [&failing, &good].map(|issuer| KeySource::Uri(issuer.at.clone()));
    let both = sources.clone().map(|source| (source, wanted_by(&["default"])));
    let (want, wanted) = watch::channel(Wanted::from(both));
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
    want.send_replace(Wanted::new());
    drop(want);
    tokio::time::timeout(Duration::from_secs(5), keeper)
        .await
        .expect("it ends when nobody wants anything")
        .unwrap();
}

#[tokio::test]
async fn nobody_there_is_another_thing_than_an_address_that_may_not_be_asked() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    drop(listener);
    let error = fetch(&KeySource::Uri(format!("http://{at}/keys")), Reach::Loopback).await.unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with(&format!("127.0.0.1 cannot be connected to ({at}: ")), "{text}");
}

/// A listener that takes connections and says nothing: the fetch ends when its rule says so.
#[tokio::test]
async fn a_fetch_takes_no_longer_than_it_may() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let source = KeySource::Uri(format!("http://{}/keys", listener.local_addr().unwrap()));
    let turn = turn(Duration::from_millis(20)).await;
    let error = fetch::keys(&source, Reach::Loopback, turn).await.unwrap_err();
    assert!(error.to_string().ends_with("no answer within 20ms"), "{error}");
}

/// Issuers of whom those named `good` answer at once and all others never.
struct Mesh {
    want: watch::Sender<Wanted>,
    events: mpsc::Receiver<Vec<Event>>,
    /// Each fetch: of whom, and how long it was to take at most.
    fetched: Arc<Mutex<Vec<(KeySource, Duration)>>>,
    begun: Instant,
}

impl Mesh {
    fn start(wanted: Wanted) -> Self {
        let (want, wanted) = watch::channel(wanted);
        let (found, events) = mpsc::channel(16);
        let fetched: Arc<Mutex<Vec<(KeySource, Duration)>>> = Arc::default();
        let told = fetched.clone();
        let fetch = move |source: KeySource, turn: Turn| {
            told.lock().push((source.clone(), turn.within));
            async move {
                if source.to_string().contains("good") {
                    return Ok(Bytes::from_static(JWKS.as_bytes()));
                }
                let Turn { within, slot } = turn;
                tokio::time::sleep(within).await;
                drop(slot);
                Err(FetchError::Late(source.to_string(), within))
            }
        };
        tokio::spawn(keep_by(wanted, found, fetch));
        Self { want, events, fetched, begun: Instant::now() }
    }

    /// How long it took until there were keys of a source.
    async fn until_good(&mut self, wanted: &KeySource) -> Duration {
        loop {
            for event in self.events.recv().await.unwrap() {
                let Event::Keys { source, keys } = event else { panic!("{event:?}") };
                if source == *wanted && keys.good.is_some() {
                    return self.begun.elapsed();
                }
            }
        }
    }

    /// Until then, with nobody in particular waited for.
    async fn pass(&mut self, time: Duration) {
        let all = async { while self.events.recv().await.is_some() {} };
        assert!(tokio::time::timeout(time, all).await.is_err());
    }
}

fn hanging(count: usize, namespace: &str) -> Wanted {
    let source = |n| KeySource::Uri(format!("http://0{namespace}/{n}"));
    (0..count).map(|n| (source(n), wanted_by(&[namespace]))).collect()
}

/// As many as hang, they hold up no other namespace, not even where they name its issuer too; and their own for no longer than
/// it takes to see that they are slow.
#[tokio::test(start_paused = true)]
async fn issuers_that_hang_hold_up_nobody() {
    let good = KeySource::Uri("http://good".into());
    for (namespaces, count, most) in [
        (&["bad"] as &[_], 128, Duration::from_secs(2)),
        (&["other"], MAX_OF_NAMESPACE, Duration::ZERO),
        (&["bad", "other"], MAX_OF_NAMESPACE, Duration::ZERO),
    ] {
        let mut wanted = hanging(count, "bad");
        wanted.insert(good.clone(), wanted_by(namespaces));
        let took = Mesh::start(wanted).until_good(&good).await;
        assert!(took <= most, "{namespaces:?}, {count}: {took:?}");
    }
    // One that comes when all the others are known to hang, and one that somebody else begins to want while it waits.
    let mut mesh = Mesh::start(hanging(MAX_OF_NAMESPACE, "bad"));
    mesh.pass(Duration::from_secs(5)).await;
    mesh.begun = Instant::now();
    mesh.want.send_modify(|wanted| drop(wanted.insert(good.clone(), wanted_by(&["bad"]))));
    assert_eq!(mesh.until_good(&good).await, Duration::ZERO);
    let slow = KeySource::Uri("http://zz".into());
    mesh.want.send_modify(|wanted| drop(wanted.insert(slow.clone(), wanted_by(&["bad"]))));
    mesh.pass(Duration::from_secs(1)).await;
    let tries = |mesh: &Mesh| mesh.fetched.lock().iter().filter(|(source, _)| *source == slow).count();
    assert_eq!(tries(&mesh), 1, "it waits for the slow ones of its namespace");
    mesh.want.send_modify(|wanted| drop(wanted.insert(slow.clone(), wanted_by(&["bad", "other"]))));
    mesh.pass(Duration::from_secs(1)).await;
    assert_eq!(tries(&mesh), 2);
}

/// The first look is no answer: proxies that wait for the first one would be told that there are no keys.
#[tokio::test(start_paused = true)]
async fn an_issuer_that_is_not_short_is_told_of_when_it_has_had_its_time() {
    let (_want, wanted) =
        watch::channel(Wanted::from([(KeySource::Uri("http://slow".into()), wanted_by(&["a"]))]));
    let (found, mut events) = mpsc::channel(16);
    let fetch = |source: KeySource, turn: Turn| async move {
        let takes = Duration::from_secs(1);
        tokio::time::sleep(takes.min(turn.within)).await;
        if turn.within < takes {
            return Err(FetchError::Late(source.to_string(), turn.within));
        }
        Ok(Bytes::from_static(JWKS.as_bytes()))
    };
    tokio::spawn(keep_by(wanted, found, fetch));
    let first = events.recv().await.unwrap();
    let [Event::Keys { keys, .. }] = &first[..] else { panic!("{first:?}") };
    assert_eq!(*keys, Keys { good: Some(JWKS.into()), ..Keys::default() });
}

/// What hangs is asked again ever less often, and each time for as long as its rule says, but for the first look.
#[tokio::test(start_paused = true)]
async fn who_hangs_is_left_alone_for_minutes() {
    let mut wanted = hanging(1, "bad");
    wanted.values_mut().for_each(|want| want.timeout = Duration::from_secs(7));
    let mut mesh = Mesh::start(wanted);
    mesh.pass(Duration::from_secs(3600)).await;
    let fetched: Vec<_> = mesh.fetched.lock().iter().map(|(_, within)| *within).collect();
    assert_eq!(fetched[..3], [SHORT, Duration::from_secs(7), Duration::from_secs(7)]);
    // 1 + 2 + ... + 64 s, then every 127 s.
    assert!((28..=45).contains(&fetched.len()), "{}", fetched.len());
}
