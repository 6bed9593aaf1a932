//! `/v1/misses`: what clients missed at sealed upstreams.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::documents::Unanswered;
use crate::clock::Timestamp;
use crate::licence::calendar;
use crate::misses::{self, ListedMiss, MissJournal, MissedThing};
use crate::store::BlobStore;

/// What a command sends.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClearOrder {
    /// Nanoseconds since 1970: what was not missed later is forgotten.
    clear_until: u64,
}

pub(super) async fn listed(journal: &MissJournal, store: &BlobStore) -> Result<Value, Unanswered> {
    let (rows, lost) = journal.rows();
    let until = rows.iter().map(|(_, record)| record.last).max();
    let survey = store.survey();
    let listed = tokio::task::spawn_blocking(move || misses::list(&survey, rows)).await;
    let listed = listed.map_err(|error| Unanswered::failed(&error))?;
    let listed = listed.map_err(|error| Unanswered::failed(&error))?;
    Ok(json!({
        "misses": listed.misses.iter().map(miss).collect::<Vec<_>>(),
        "list": listed.lines,
        "lost": lost,
        "until": until.map_or(0, to_nanos),
    }))
}

pub(super) async fn clear(journal: &MissJournal, order: &ClearOrder) -> Value {
    journal.clear(Timestamp::from_unix(Duration::from_nanos(order.clear_until))).await;
    json!({ "left": journal.rows().0.len() })
}

fn miss(miss: &ListedMiss) -> Value {
    let ListedMiss { key, record, image, is_here } = miss;
    let (kind, tag, digest) = match &key.thing {
        MissedThing::Tag(tag) => ("tag", Some(tag.as_str()), None),
        MissedThing::Manifest(digest) => ("manifest", None, Some(digest.as_str())),
        MissedThing::Blob(digest) => ("blob", None, Some(digest.as_str())),
    };
    json!({
        "name": key.name.to_string(),
        "kind": kind,
        "tag": tag,
        "digest": digest,
        "image": image.as_ref().map(|part| part.image.as_str()),
        "platform": image.as_ref().and_then(|part| part.platform.as_deref()),
        "here": is_here,
        "first": calendar::format(record.first),
        "last": calendar::format(record.last),
        "count": record.count,
        "asked_by": record.kinds,
    })
}

fn to_nanos(at: Timestamp) -> u64 {
    u64::try_from(at.unix().as_nanos()).unwrap_or(u64::MAX)
}
