//! What a test changed for everybody is put back, whatever came of the test.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::task::Poll;

/// Does `work`, then `after`; a panic of the work goes on when `after` is done.
///
/// # Errors
/// The work's, and what could not be put back.
pub async fn finally<T>(
    work: impl Future<Output = anyhow::Result<T>>,
    after: impl AsyncFnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<T> {
    let mut work = pin!(work);
    let outcome = poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(outcome)) => Poll::Ready(Ok(outcome)),
        Err(panic) => Poll::Ready(Err(panic)),
    })
    .await;
    let restored = after().await.map_err(|error| error.context("this was not put back"));
    match outcome {
        Err(panic) => resume_unwind(panic),
        Ok(Ok(value)) => restored.map(|()| value),
        Ok(Err(error)) => Err(match restored {
            Ok(()) => error,
            Err(also) => error.context(format!("{also:#}")),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn it_is_put_back_whatever_came_of_the_work() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let restored = Cell::new(0);
        let restore = async || {
            restored.set(restored.get() + 1);
            Ok(())
        };
        assert_eq!(runtime.block_on(finally(async { Ok(7) }, restore)).unwrap(), 7);
        let failed: anyhow::Result<()> = runtime.block_on(finally(async { anyhow::bail!("no") }, restore));
        assert_eq!(format!("{:#}", failed.unwrap_err()), "no");
        let panics = async {
            tokio::task::yield_now().await;
            panic!("odd")
        };
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _: anyhow::Result<()> = runtime.block_on(finally(panics, restore));
        }));
        assert!(panicked.is_err());
        assert_eq!(restored.get(), 3);
        let broken = async || anyhow::bail!("stuck");
        let both: anyhow::Result<()> = runtime.block_on(finally(async { anyhow::bail!("no") }, broken));
        assert_eq!(format!("{:#}", both.unwrap_err()), "this was not put back: stuck: no");
    }
}
