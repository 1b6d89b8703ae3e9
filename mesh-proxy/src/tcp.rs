//! Bytes, both ways: how connections that carry no requests (TCP ports, upgrades, CONNECT) are forwarded.
//!
//! In: two streams and bytes already read from the first. Out: [`Transferred`], whichever way it ended; what moved is told
//! while it runs.

pub mod copy;

use std::future::Future;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

pub use copy::{Copy, End, Transferred};

/// Envoy's `tcp_proxy.idle_timeout`.
pub const IDLE: Duration = Duration::from_secs(3600);
/// How often Istio counts the bytes of open connections.
pub const REPORT: Duration = Duration::from_secs(5);

/// Copies until both directions ended, one failed, nothing moved for `idle`, or `stop` resolves. `moved` is told what
/// moved since it was last told (up, down), at least once.
pub async fn forward<A, B>(
    copy: &mut Copy<A, B>,
    idle: Duration,
    stop: impl Future<Output = ()>,
    mut moved: impl FnMut(u64, u64),
) -> Transferred
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let mut stop = std::pin::pin!(stop);
    let mut told = (0, 0);
    let mut still = Duration::ZERO;
    loop {
        let end = tokio::select! {
            end = copy.run() => Some(end),
            () = &mut stop => Some(End::Stopped),
            () = tokio::time::sleep(REPORT.min(idle)) => None,
        };
        let (up, down) = copy.moved();
        still = if (up, down) == told { still + REPORT.min(idle) } else { Duration::ZERO };
        moved(up - told.0, down - told.1);
        told = (up, down);
        let end = end.or_else(|| (still >= idle).then_some(End::Idle));
        if let Some(end) = end {
            return Transferred { up, down, end };
        }
    }
}
