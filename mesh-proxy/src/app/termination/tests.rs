//! The order of the steps, on paused time.

use std::time::Duration;

use super::*;

const S: Duration = Duration::from_secs(1);

fn settings() -> config::Termination {
    config::Termination {
        minimum: 5 * S,
        drain: 20 * S,
        shutdown: 5 * S,
        lift_after: Some(45 * S),
        with_application: false,
    }
}

/// Seconds that `f` takes.
async fn seconds<T>(f: impl Future<Output = T>) -> (u64, T) {
    let start = Instant::now();
    let value = f.await;
    (start.elapsed().as_secs(), value)
}

#[tokio::test(start_paused = true)]
async fn a_hook_is_answered_when_withdrawal_has_had_its_time_and_nothing_is_in_flight() {
    let (termination, inbound) = (Termination::new(settings()), Drain::new());
    let _listener = inbound.watch().listen();
    assert_eq!(seconds(termination.drain(&inbound)).await, (5, Drained::Empty));
    // Another container's hook, later: the time has passed already.
    assert_eq!(seconds(termination.drain(&inbound)).await, (0, Drained::Empty));
    assert!(inbound.has_begun());
    let accepting = tokio::time::timeout(S, inbound.watch().closing()).await;
    assert!(accepting.is_err(), "still accepts");
}

#[tokio::test(start_paused = true)]
async fn a_request_in_flight_holds_the_answer_up_to_the_limit() {
    let (termination, inbound) = (Termination::new(settings()), Drain::new());
    let request = inbound.watch().enter();
    let ends = tokio::spawn(async move {
        tokio::time::sleep(12 * S).await;
        drop(request);
    });
    assert_eq!(seconds(termination.drain(&inbound)).await, (12, Drained::Empty));
    ends.await.unwrap();
    let (termination, inbound) = (Termination::new(settings()), Drain::new());
    let _stream = inbound.watch().enter();
    assert_eq!(seconds(termination.drain(&inbound)).await, (20, Drained::TimedOut(1)));
}

#[tokio::test(start_paused = true)]
async fn a_drain_without_an_end_is_lifted() {
    let (termination, inbound) = (Termination::new(settings()), Drain::new());
    termination.drain(&inbound).await;
    termination.lift_later(&inbound);
    tokio::time::sleep(39 * S).await;
    assert!(inbound.has_begun());
    tokio::time::sleep(2 * S).await;
    assert!(!inbound.has_begun());
    // The next one is a whole one again.
    assert_eq!(seconds(termination.drain(&inbound)).await, (5, Drained::Empty));
}

#[tokio::test(start_paused = true)]
async fn an_end_keeps_the_drain() {
    let (termination, inbound, outbound) = (Termination::new(settings()), Drain::new(), Drain::new());
    termination.drain(&inbound).await;
    termination.lift_later(&inbound);
    let told = termination.before_the_end(NodeKind::Sidecar, &inbound, &outbound);
    assert_eq!(seconds(told).await.0, 0, "a native sidecar is told after the application's end");
    tokio::time::sleep(100 * S).await;
    assert!(inbound.has_begun());
}

#[tokio::test(start_paused = true)]
async fn a_gateway_drains_by_itself_and_a_classic_sidecar_waits_for_the_application() {
    let (inbound, outbound) = (Drain::new(), Drain::new());
    let gateway = Termination::new(settings());
    assert_eq!(seconds(gateway.before_the_end(NodeKind::Router, &inbound, &outbound)).await.0, 5);
    let classic = config::Termination { with_application: true, shutdown: 10 * S, ..settings() };
    let classic = Termination::new(classic);
    let inbound = Drain::new();
    let call = outbound.watch().enter();
    let ends = tokio::spawn(async move {
        tokio::time::sleep(12 * S).await;
        drop(call);
    });
    // 5 s of drain, then the application's own way out until it is idle.
    let told = seconds(classic.before_the_end(NodeKind::Sidecar, &inbound, &outbound)).await;
    assert_eq!(told.0, 12);
    assert!(!outbound.has_begun());
    ends.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_local_mesh_is_told_when_it_is_drained() {
    let termination = Termination::new(config::Termination::default());
    let (inbound, outbound) = (Drain::new(), Drain::new());
    let _stream = inbound.watch().enter();
    assert_eq!(seconds(termination.before_the_end(NodeKind::Router, &inbound, &outbound)).await.0, 0);
}
