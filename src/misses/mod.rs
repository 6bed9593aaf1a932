//! What clients wanted of sealed upstreams and did not get, for the next bundle (SEAL-7).
//!
//! `table` is the journal in memory and its bound, `lines` what is written of it to the cache
//! directory, `wanted` which lines of a list would bring what was missed.

mod lines;
mod miss;
mod table;
mod wanted;

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use crate::clock::{Clock, Timestamp};
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::store::{BlobStore, JournalFile};

pub(crate) use miss::{MissKey, MissRecord, MissedBy, MissedThing};
pub(crate) use wanted::{ListedMiss, list};

use table::MissTable;

/// Between two writes: many that come together are written together.
const WRITE_PAUSE: Duration = Duration::from_millis(10);
/// After a write that the disk did not take.
const FAILED_PAUSE: Duration = Duration::from_secs(10);
/// How long a client's answer waits until a new row is written, which takes far less; a kill right
/// after the answer does not lose it.
const WRITTEN_WAIT: Duration = Duration::from_millis(20);
/// Bytes of lines that are appended before what they come to is written anew.
const APPENDED_MAX: usize = 8 << 20;

/// Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct MissJournal(Arc<JournalInner>);

#[derive(Debug)]
struct JournalInner {
    table: Mutex<MissTable>,
    file: JournalFile,
    /// Held while it is written.
    writing: tokio::sync::Mutex<WritingState>,
    changed: Notify,
    /// How much of what was noted was written, or could not be.
    written: watch::Sender<u64>,
    clock: Clock,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct WritingState {
    /// Bytes of lines since it was written anew.
    appended: usize,
    /// Its last line may be half of one, so that nothing can be appended.
    is_broken: bool,
}

impl MissJournal {
    /// Reads what an earlier process has written; blocks. What cannot be read is told, and begun
    /// anew.
    pub(crate) fn new(
        store: &BlobStore,
        limits: &Limits,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (mut table, file) = (MissTable::new(limits.misses), store.miss_journal());
        let text = file.read().unwrap_or_else(|error| {
            tracing::warn!(%error, "what was missed before cannot be read");
            String::new()
        });
        lines::read(&text, &mut table);
        let ends_well = text.is_empty() || text.ends_with('\n');
        Self(Arc::new(JournalInner {
            table: Mutex::new(table),
            file,
            // How much there is of it from before does not matter: it is half of what may be.
            writing: WritingState { appended: APPENDED_MAX / 2, is_broken: !ends_well }.into(),
            changed: Notify::new(),
            written: watch::Sender::new(0),
            clock,
            metrics,
        }))
    }

    /// Notes a miss. What nobody had missed before is mostly written down when this returns.
    pub(crate) async fn note(&self, key: MissKey, by: MissedBy) {
        let mut written = self.0.written.subscribe();
        let now = self.0.clock.now();
        let (is_new, noted) = {
            let mut table = self.table();
            (table.note(key, by, now), table.noted())
        };
        self.0.changed.notify_one();
        if is_new {
            // Late or not: the answer goes out.
            let is_written = written.wait_for(|written| *written >= noted);
            drop(timeout(WRITTEN_WAIT, is_written).await);
        }
    }

    /// Writes down what is noted; never returns.
    pub(crate) async fn maintain(&self) {
        loop {
            self.0.changed.notified().await;
            let pause = if self.flush().await { WRITE_PAUSE } else { FAILED_PAUSE };
            tokio::time::sleep(pause).await;
        }
    }

    /// Writes down what has changed; whether the disk took it.
    pub(crate) async fn flush(&self) -> bool {
        let mut state = self.0.writing.lock().await;
        let (changes, noted) = {
            let mut table = self.table();
            (table.take_changes(), table.noted())
        };
        let text = lines::write(&changes);
        state.appended += text.len();
        let file = &self.0.file;
        let taken = if state.is_broken || state.appended > APPENDED_MAX {
            state.appended = 0;
            file.replace(self.everything()).await
        } else if text.is_empty() {
            Ok(())
        } else {
            file.append(text).await
        };
        if let Err(error) = &taken {
            if !state.is_broken {
                tracing::warn!(%error, "what is missed cannot be written down; it is tried again");
            }
            self.table().put_back(changes);
            self.0.changed.notify_one();
        }
        state.is_broken = taken.is_err();
        self.show();
        self.0.written.send_replace(noted);
        taken.is_ok()
    }

    fn show(&self) {
        let (rows, lost) = self.table().counts();
        self.0.metrics.misses.set(i64::try_from(rows).unwrap_or(i64::MAX));
        self.0.metrics.misses_lost.set(i64::try_from(lost).unwrap_or(i64::MAX));
    }

    /// All of it as it is, as lines.
    fn everything(&self) -> String {
        let (rows, lost) = self.table().list();
        let rows = rows.into_iter().map(|(key, record)| (key, Some(record))).collect();
        lines::write(&table::MissChanges { rows, lost: Some(lost) })
    }

    /// Every miss, and how many more there were.
    pub(crate) fn rows(&self) -> (Vec<(MissKey, MissRecord)>, u64) {
        self.table().list()
    }

    /// Forgets what was not missed after `time`.
    pub(crate) async fn clear(&self, time: Timestamp) {
        self.table().clear(time);
        self.flush().await;
    }

    fn table(&self) -> MutexGuard<'_, MissTable> {
        self.0.table.lock().expect("nothing panics while it holds the journal")
    }
}
