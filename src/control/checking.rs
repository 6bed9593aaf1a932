//! `POST /v1/fsck`: everything that is cached is read and compared with what is recorded.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::lines::Lines;
use crate::store::{BlobStore, CheckEvent, CheckOptions, CheckTotals, Finding, Remedy};

/// Between two lines of progress.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

/// What is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FsckRequest {
    #[serde(default)]
    repair: bool,
}

pub(super) async fn fsck(
    store: BlobStore,
    request: FsckRequest,
    told: Lines,
) -> Result<Value, String> {
    if !store.is_loaded() {
        return Err("what is cached is still being looked at; try again in a moment".to_owned());
    }
    let mut checker = store.checker(CheckOptions { repair: request.repair, rate: None });
    let found = Mutex::new(Vec::new());
    let found = || found.lock().unwrap_or_else(PoisonError::into_inner);
    let mut last = Instant::now();
    let hear = |event: CheckEvent<'_>| match event {
        CheckEvent::Found(finding) => found().push(finding_as_json(finding)),
        CheckEvent::Progress(totals) if last.elapsed() >= PROGRESS_INTERVAL => {
            last = Instant::now();
            told.mention(&json!({ "progress": totals_as_json(totals) }));
        }
        CheckEvent::Progress(_) => {}
    };
    {
        let mut check = pin!(checker.check_all(hear));
        loop {
            // It goes on only once what it has found is told, however slowly that is read.
            let step = poll_fn(|context| match check.as_mut().poll(context) {
                Poll::Ready(ended) => Poll::Ready(Some(ended)),
                Poll::Pending if !found().is_empty() => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            });
            let ended = step.await;
            let lines = std::mem::take(&mut *found());
            for line in lines {
                told.tell(&line).await;
            }
            if let Some(ended) = ended {
                ended.map_err(|error| error.to_string())?;
                break;
            }
        }
    }
    Ok(totals_as_json(checker.totals()))
}

/// One thing that is not as it should be, as `fsck` tells it.
pub(crate) fn finding_as_json(finding: &Finding) -> Value {
    let (state, remedy) = match &finding.remedy {
        Remedy::None if finding.is_not_ours() => ("not_ours", None),
        Remedy::None => ("wrong", None),
        Remedy::Done(what) => ("repaired", Some(*what)),
        Remedy::Failed(why) => ("failed", Some(why.as_str())),
    };
    let mut fields = Map::new();
    let mut set = |key: &str, value: &str| fields.insert(key.to_owned(), value.into());
    set("finding", finding.defect.word());
    set("state", state);
    // Strangers name files as they like.
    set("path", &finding.path.to_string_lossy().escape_debug().to_string());
    finding.digest.as_ref().map(|digest| set("digest", digest.as_str()));
    set("message", &finding.defect.to_string());
    remedy.map(|remedy| set("remedy", remedy));
    Value::Object(fields)
}

/// What was looked at, as `fsck` tells it.
pub(crate) fn totals_as_json(totals: CheckTotals) -> Value {
    let CheckTotals { files, bytes, allocated, hashed, wrong, repaired, not_ours, taken } = totals;
    json!({
        "files": files, "bytes": bytes, "allocated_bytes": allocated, "hashed_bytes": hashed,
        "wrong": wrong, "repaired": repaired, "not_ours": not_ours, "seconds": taken.as_secs_f64(),
    })
}
