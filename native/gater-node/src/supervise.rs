//! Tasks that must not end silently.

use std::any::Any;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// The pause before a task that has panicked is restarted.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Runs the task that `begin` makes until it ends by itself or `stop` is cancelled. If the task
/// panics, the panic is logged under `name` and the task is restarted, however often this happens,
/// since its work would otherwise stop unnoticed.
pub fn supervise<F>(
    name: &'static str,
    stop: &CancellationToken,
    begin: impl Fn() -> F + Send + 'static,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let stop = stop.clone();
    tokio::spawn(async move {
        loop {
            let task = tokio::spawn(stop.clone().run_until_cancelled_owned(begin()));
            let Err(error) = task.await else { return };
            // The task was cancelled because the runtime ends.
            let Ok(panic) = error.try_into_panic() else { return };
            tracing::error!(task = name, panic = text(&*panic), "a task failed and begins again");
            tokio::select! {
                () = sleep(AGAIN_AFTER) => {}
                () = stop.cancelled() => return,
            }
        }
    });
}

/// Returns the message of a panic.
fn text(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        (None, None) => "it does not say why",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_begins_again_until_it_ends_by_itself() {
        let (begun, ended) = (Arc::new(AtomicU32::new(0)), Arc::new(Semaphore::new(0)));
        let (count, end) = (begun.clone(), ended.clone());
        supervise("test", &CancellationToken::new(), move || {
            let (begun, ended) = (count.clone(), end.clone());
            async move {
                assert!(begun.fetch_add(1, Ordering::Relaxed) == 2, "not yet");
                ended.add_permits(1);
            }
        });
        ended.acquire().await.unwrap().forget();
        // The task is not restarted.
        sleep(AGAIN_AFTER * 10).await;
        assert_eq!(begun.load(Ordering::Relaxed), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stopped_task_does_not_begin_again() {
        let (stop, begun) = (CancellationToken::new(), Arc::new(Semaphore::new(0)));
        let count = begun.clone();
        supervise("test", &stop, move || {
            count.add_permits(1);
            async { panic!("always") }
        });
        begun.acquire().await.unwrap().forget();
        stop.cancel();
        sleep(AGAIN_AFTER * 10).await;
        assert_eq!(begun.available_permits(), 0);
    }
}
