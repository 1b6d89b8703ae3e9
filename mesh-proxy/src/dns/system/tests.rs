//! Name servers that answer what no name server should, over real sockets.

use std::time::Duration;

use tokio::net::UdpSocket;

use super::*;

/// What comes back for one question, whose bytes these are; nothing: no answer.
type Answer = fn(&[u8]) -> Vec<u8>;

/// Where the first question ends: header, name, type and class.
fn end(question: &[u8]) -> usize {
    let mut at = 12;
    while question[at] != 0 {
        at += usize::from(question[at]) + 1;
    }
    at + 5
}

/// The question's head with so many answers behind it.
fn headed(question: &[u8], answers: u16) -> Vec<u8> {
    let mut out = question[..2].to_vec();
    out.extend([0x81, 0x80, 0, 1]);
    out.extend(answers.to_be_bytes());
    out.extend([0; 4]);
    out.extend(&question[12..end(question)]);
    out
}

/// One address of the name that begins at `name` of the message.
fn address(name: [u8; 2], ttl: u32) -> Vec<u8> {
    [&name[..], &[0, 1, 0, 1], &ttl.to_be_bytes(), &[0, 4, 192, 0, 2, 1]].concat()
}

const ITSELF: [u8; 2] = [0xc0, 12];

async fn asked(answer: Answer) -> Result<Found, String> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = socket.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let mut question = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut question).await {
            let _ = socket.send_to(&answer(&question[..length]), from).await;
        }
    });
    let asked = System { timeout: Duration::from_millis(300), ..System::new(vec![at]) }.ask("a.example");
    // Far longer than its own limits.
    let found = tokio::time::timeout(Duration::from_secs(60), asked).await.expect("an end");
    serving.abort();
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_answer_is_one() {
    let found = asked(|question| [headed(question, 1), address(ITSELF, 30)].concat()).await.unwrap();
    assert_eq!(found.addresses, [std::net::IpAddr::from([192, 0, 2, 1])]);
    assert!(found.ttl <= Duration::from_secs(30), "{found:?}");
}

/// C12: none of these is an address, and each has an end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c12_hostile_answers_are_none() {
    let answers: [(&str, Answer); 9] = [
        ("another number", |question| {
            let mut out = [headed(question, 1), address(ITSELF, 30)].concat();
            out[0] ^= 0x55;
            out
        }),
        ("another question", |question| {
            let mut out = [headed(question, 1), address(ITSELF, 30)].concat();
            out[13] = b'b';
            out
        }),
        ("another name's address", |question| {
            let name = b"\x01b\x07example\0";
            let more = [&name[..], &address(ITSELF, 30)[2..]].concat();
            [headed(question, 1), more].concat()
        }),
        ("a name that is its own end", |question| {
            let here = u16::try_from(end(question)).unwrap() | 0xc000;
            [headed(question, 1), address(here.to_be_bytes(), 30)].concat()
        }),
        ("an alias of itself", |question| {
            let alias = [&ITSELF[..], &[0, 5, 0, 1, 0, 0, 0, 30, 0, 2], &ITSELF].concat();
            [headed(question, 1), alias].concat()
        }),
        ("more than there is", |question| [headed(question, 0xffff), address(ITSELF, 30)].concat()),
        ("half of an address", |question| {
            let half = address(ITSELF, 30);
            [&headed(question, 1)[..], &half[..half.len() - 2]].concat()
        }),
        ("a head alone", |question| question[..12].to_vec()),
        ("as much as a datagram holds", |_| vec![0xc0; 60_000]),
    ];
    let asked = answers.map(|(what, answer)| async move { (what, asked(answer).await) });
    for (what, found) in futures_util::future::join_all(asked).await {
        assert!(found.as_ref().map_or(true, |found| found.addresses.is_empty()), "{what}: {found:?}");
    }
}
