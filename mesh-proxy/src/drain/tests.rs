//! A drain ends when nothing lives, and not before; a connection's own signal ends only that one.

use std::time::Duration;

use super::{Drain, Drained};

#[tokio::test(start_paused = true)]
async fn waits_for_the_last_one() {
    let drain = Drain::new();
    let watch = drain.watch();
    let (first, second) = (watch.enter(), watch.enter());
    drain.begin();
    watch.draining().await;
    assert_eq!(drain.drained(Duration::from_secs(1)).await, Drained::TimedOut(2));
    drop(first);
    let waiting = tokio::spawn({
        let drain = drain.clone();
        async move { drain.drained(Duration::from_secs(3600)).await }
    });
    tokio::task::yield_now().await;
    drop(second);
    assert_eq!(waiting.await.unwrap(), Drained::Empty);
}

#[tokio::test]
async fn one_connection_ends_alone() {
    let drain = Drain::new();
    let watch = drain.watch();
    let (closer, mine) = watch.for_connection();
    let (_other_closer, other) = watch.for_connection();
    closer.close();
    mine.draining().await;
    assert!(mine.is_draining());
    assert!(!other.is_draining() && !drain.has_begun());
    drain.begin();
    other.draining().await;
}

#[tokio::test]
async fn a_signal_before_the_wait_is_seen() {
    let drain = Drain::new();
    drain.begin();
    drain.watch().draining().await;
    drain.watch().for_connection().1.draining().await;
}

#[tokio::test(start_paused = true)]
async fn an_announced_drain_goes_on_accepting() {
    let drain = Drain::new();
    let watch = drain.watch();
    let loops = watch.listen();
    let connection = watch.enter();
    drain.announce();
    watch.draining().await;
    let closing = tokio::time::timeout(Duration::from_secs(1), watch.closing()).await;
    assert!(closing.is_err(), "an accept loop goes on");
    assert_eq!((drain.live(), drain.connections()), (2, 1));
    assert_eq!(drain.idle(Duration::from_secs(1)).await, Drained::TimedOut(1));
    let waiting = tokio::spawn({
        let drain = drain.clone();
        async move { drain.idle(Duration::from_secs(3600)).await }
    });
    tokio::task::yield_now().await;
    drop(connection);
    assert_eq!(waiting.await.unwrap(), Drained::Empty);
    assert_eq!(drain.drained(Duration::from_secs(1)).await, Drained::TimedOut(1), "the loop still lives");
    drain.begin();
    watch.closing().await;
    drop(loops);
    assert_eq!(drain.drained(Duration::from_secs(1)).await, Drained::Empty);
}

#[tokio::test(start_paused = true)]
async fn an_announcement_can_be_taken_back_and_an_end_cannot() {
    let drain = Drain::new();
    drain.announce();
    drain.lift();
    assert!(!drain.has_begun());
    assert!(tokio::time::timeout(Duration::from_secs(1), drain.watch().draining()).await.is_err());
    drain.begin();
    drain.lift();
    assert!(drain.has_begun());
}
