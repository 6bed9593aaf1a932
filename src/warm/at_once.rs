//! Several things side by side, and no more than so many.

use std::future::Future;
use std::panic::resume_unwind;

use tokio::task::JoinSet;

/// What `work` makes of each, in their order, with at most `jobs` under way. Whoever drops it ends
/// them.
pub(super) async fn at_once<T, R, W>(items: Vec<T>, jobs: usize, work: impl Fn(T) -> W) -> Vec<R>
where
    R: Send + 'static,
    W: Future<Output = R> + Send + 'static,
{
    let mut results: Vec<(usize, R)> = Vec::with_capacity(items.len());
    let (mut items, mut running) = (items.into_iter().enumerate(), JoinSet::new());
    loop {
        while running.len() < jobs.max(1)
            && let Some((nth, item)) = items.next()
        {
            let work = work(item);
            running.spawn(async move { (nth, work.await) });
        }
        match running.join_next().await {
            None => break,
            Some(Ok(result)) => results.push(result),
            // Nobody cancels one of them, so it has panicked.
            Some(Err(error)) => resume_unwind(error.into_panic()),
        }
    }
    results.sort_by_key(|(nth, _)| *nth);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn results_are_in_order_and_no_more_than_so_many_are_under_way() {
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let work = |nth: usize| {
            let (running, most) = (Arc::clone(&running), Arc::clone(&most));
            async move {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                for _ in 0..10 - nth {
                    tokio::task::yield_now().await;
                }
                running.fetch_sub(1, Ordering::SeqCst);
                nth
            }
        };
        assert_eq!(at_once((0..10).collect(), 3, work).await, (0..10).collect::<Vec<_>>());
        assert_eq!(most.load(Ordering::SeqCst), 3);
    }
}
