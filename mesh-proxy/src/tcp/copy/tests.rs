//! Half-close, counts, and who failed.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::{Copy, End};
use crate::tcp::{IDLE, forward};

#[tokio::test]
async fn each_direction_ends_for_itself() {
    let (mut client, near) = duplex(64);
    let (far, mut server) = duplex(64);
    let mut copy = Copy::new(near, far, Bytes::from_static(b"first "), Bytes::from_static(b"banner "));
    let talk = async {
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut asked = String::new();
        server.read_to_string(&mut asked).await.unwrap();
        assert_eq!(asked, "first question");
        // The client's end has passed through; the answer still comes back.
        server.write_all(b"a late answer").await.unwrap();
        server.shutdown().await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "banner a late answer");
    };
    let (moved, ()) = tokio::join!(forward(&mut copy, IDLE, std::future::pending(), |_, _| {}), talk);
    assert_eq!((moved.up, moved.down), (14, 20));
    assert!(matches!(moved.end, End::Complete));
}

#[tokio::test]
async fn more_than_a_block_with_a_slow_reader() {
    let (mut client, near) = duplex(100);
    let (far, mut server) = duplex(100);
    let mut copy = Copy::new(near, far, Bytes::new(), Bytes::new());
    let data: Vec<u8> = (0..100_000u32).map(|i| i as u8).collect();
    let send = async {
        client.write_all(&data).await.unwrap();
        client.shutdown().await.unwrap();
    };
    let receive = async {
        let mut got = Vec::new();
        server.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, data);
        drop(server);
    };
    let (end, (), ()) = tokio::join!(copy.run(), send, receive);
    assert!(matches!(end, End::Complete));
    assert_eq!(copy.moved(), (100_000, 0));
}

#[tokio::test(start_paused = true)]
async fn idleness_and_a_stop_end_it() {
    let (_client, near) = duplex(64);
    let (far, _server) = duplex(64);
    let mut copy = Copy::new(near, far, Bytes::new(), Bytes::new());
    let moved = forward(&mut copy, Duration::from_secs(60), std::future::pending(), |_, _| {}).await;
    assert!(matches!(moved.end, End::Idle));
    let moved = forward(&mut copy, Duration::from_secs(60), std::future::ready(()), |_, _| {}).await;
    assert!(matches!(moved.end, End::Stopped));
}

#[tokio::test]
async fn a_vanished_server_is_the_servers_fault() {
    let (mut client, near) = duplex(64);
    let (far, server) = duplex(64);
    drop(server);
    let mut copy = Copy::new(near, far, Bytes::new(), Bytes::new());
    client.write_all(b"x").await.unwrap();
    assert!(matches!(copy.run().await, End::Server(_)));
}
