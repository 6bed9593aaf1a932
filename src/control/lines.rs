//! An answer that goes on while the work does: one JSON object a line, and as the last one
//! `{"done": …}` or `{"error": "a sentence"}` (docs/control.md).
//!
//! The work is a task that ends with the answer: whoever hangs up cancels it.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval_at};
use tokio_util::task::AbortOnDropHandle;

/// Lines that wait for a client; what could be left out is, beyond.
const LINES_AHEAD: usize = 64;

/// How often a line comes at least: an empty object where there is nothing to say.
pub(super) const ALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// The media type of such an answer.
pub(super) const LINES_TYPE: &str = "application/x-ndjson";

/// Where work tells how it goes on; clones speak of the same.
#[derive(Clone, Debug)]
pub(crate) struct Lines(mpsc::Sender<Bytes>);

/// The body of such an answer.
#[derive(Debug)]
pub(super) struct LinesBody {
    lines: mpsc::Receiver<Bytes>,
    _work: AbortOnDropHandle<()>,
}

impl Lines {
    /// A line that must not be missed; waits until the client has taken enough of those before it.
    pub(crate) async fn tell(&self, line: &Value) {
        // Whoever has hung up is told nothing; the work ends as well.
        drop(self.0.send(text(line)).await);
    }

    /// A line that may be left out, because a later one says more.
    pub(crate) fn mention(&self, line: &Value) {
        if self.0.capacity() > LINES_AHEAD / 2 {
            drop(self.0.try_send(text(line)));
        }
    }
}

impl LinesBody {
    /// Begins the work; `keep` is given back when it has ended.
    pub(super) fn of<W>(work: impl FnOnce(Lines) -> W, keep: impl Send + 'static) -> Self
    where
        W: Future<Output = Result<Value, String>> + Send + 'static,
    {
        let (send, lines) = mpsc::channel(LINES_AHEAD);
        let told = Lines(send);
        let work = work(told.clone());
        let work = tokio::spawn(async move {
            let ended = alive(&told, work).await;
            let last = match ended {
                Ok(result) => json!({ "done": result }),
                Err(error) => json!({ "error": error }),
            };
            told.tell(&last).await;
            drop(keep);
        });
        Self { lines, _work: AbortOnDropHandle::new(work) }
    }
}

fn text(line: &Value) -> Bytes {
    format!("{line}\n").into()
}

/// Does the work, with a sign of life beside it.
async fn alive<T>(told: &Lines, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    let mut ticks = interval_at(Instant::now() + ALIVE_INTERVAL, ALIVE_INTERVAL);
    loop {
        tokio::select! {
            biased;
            ended = &mut work => return ended,
            _ = ticks.tick() => told.mention(&json!({})),
        }
    }
}

impl Body for LinesBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.lines.poll_recv(context).map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::Arc;

    use http_body_util::BodyExt;

    use super::*;

    async fn next(body: &mut LinesBody) -> Option<Bytes> {
        let Ok(frame) = body.frame().await?;
        frame.into_data().ok()
    }

    async fn all(mut body: LinesBody) -> Vec<Value> {
        let mut lines = Vec::new();
        while let Some(line) = next(&mut body).await {
            assert!(line.ends_with(b"\n"));
            lines.push(serde_json::from_slice(&line).expect("an object"));
        }
        lines
    }

    #[tokio::test]
    async fn the_last_line_says_how_it_ended() {
        let good = |told: Lines| async move {
            told.tell(&json!({ "step": 1 })).await;
            Ok(json!({ "steps": 1 }))
        };
        let lines = all(LinesBody::of(good, ())).await;
        assert_eq!(lines, [json!({ "step": 1 }), json!({ "done": { "steps": 1 } })]);
        let bad = |_| async { Err("it is broken".to_owned()) };
        assert_eq!(all(LinesBody::of(bad, ())).await, [json!({ "error": "it is broken" })]);
        let panics = |_| async { panic!("on purpose") };
        assert_eq!(all(LinesBody::of(panics, ())).await, [] as [Value; 0], "neither: a failure");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_has_nothing_to_say_shows_that_it_lives() {
        let mut body = LinesBody::of(|_| pending(), ());
        for _ in 0..3 {
            assert_eq!(next(&mut body).await.as_deref(), Some(&b"{}\n"[..]));
        }
    }

    #[tokio::test]
    async fn what_may_be_left_out_is_for_whoever_does_not_read_and_the_rest_waits() {
        let (said, mut heard) = mpsc::unbounded_channel();
        let talkative = |told: Lines| async move {
            for nth in 0..LINES_AHEAD * 4 {
                told.mention(&json!({ "progress": nth }));
            }
            for nth in 0..LINES_AHEAD * 2 {
                told.tell(&json!({ "result": nth })).await;
                said.send(nth).expect("the test listens");
            }
            Ok(json!(null))
        };
        let body = LinesBody::of(talkative, ());
        while heard.len() < LINES_AHEAD / 2 {
            tokio::task::yield_now().await;
        }
        let lines = all(body).await;
        let count = |key: &str| lines.iter().filter(|line| line.get(key).is_some()).count();
        assert_eq!((count("progress"), count("result")), (LINES_AHEAD / 2, LINES_AHEAD * 2));
        assert!(heard.recv().await.is_some());
    }

    #[tokio::test]
    async fn whoever_hangs_up_cancels_the_work() {
        let running = Arc::new(());
        let kept = Arc::clone(&running);
        let body = LinesBody::of(|_| pending(), kept);
        assert_eq!(Arc::strong_count(&running), 2);
        drop(body);
        while Arc::strong_count(&running) > 1 {
            tokio::task::yield_now().await;
        }
    }
}
