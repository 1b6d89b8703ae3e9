//! Bytes, both ways: how connections that carry no requests (TCP ports, upgrades, CONNECT) are forwarded.
//!
//! In: two streams and bytes already read from the first. Out: [`Transferred`], whichever way it ended.

pub mod copy;

use std::future::Future;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

pub use copy::{Copy, End, Transferred};

/// Envoy's `tcp_proxy.idle_timeout`.
pub const IDLE: Duration = Duration::from_secs(3600);

/// Copies until both directions ended, one failed, nothing moved for `idle`, or `stop` resolves.
pub async fn forward<A, B>(
    copy: &mut Copy<A, B>,
    idle: Duration,
    stop: impl Future<Output = ()>,
) -> Transferred
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let mut stop = std::pin::pin!(stop);
    loop {
        let before = copy.moved();
        let end = tokio::select! {
            end = copy.run() => end,
            () = &mut stop => End::Stopped,
            () = tokio::time::sleep(idle) => {
                if copy.moved() != before {
                    continue;
                }
                End::Idle
            }
        };
        let (up, down) = copy.moved();
        return Transferred { up, down, end };
    }
}
