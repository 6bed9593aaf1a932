//! The journal on disk: a line of JSON for each change, the last of a row counts.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::miss::{MissKey, MissRecord, MissedThing};
use super::table::{MissChanges, MissTable};
use crate::clock::Timestamp;
use crate::oci::{CanonicalName, Digest, Tag};

/// One line: a row, a row that is gone, or how many were lost.
#[derive(Debug, Default, Deserialize, Serialize)]
struct MissLine {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tag: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    manifest: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    blob: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    record: Option<RecordLine>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lost: Option<u64>,
}

/// Times are milliseconds since 1970.
#[derive(Debug, Deserialize, Serialize)]
struct RecordLine {
    first: u64,
    last: u64,
    count: u64,
    kinds: BTreeSet<String>,
    owner: u64,
}

/// Enters what was written down. A line that is no line of ours is passed over: the last one may be
/// half written.
pub(super) fn read(text: &str, table: &mut MissTable) {
    for line in text.lines().filter_map(|line| serde_json::from_str::<MissLine>(line).ok()) {
        if let Some(lost) = line.lost {
            table.set_lost(lost);
        } else if let Some(key) = line.key() {
            table.enter(key, line.record.map(MissRecord::from));
        }
    }
}

pub(super) fn write(changes: &MissChanges) -> String {
    let rows = changes.rows.iter().map(|(key, record)| MissLine::of(key, record.as_ref()));
    let lost = changes.lost.map(|lost| MissLine { lost: Some(lost), ..MissLine::default() });
    rows.chain(lost).filter_map(|line| Some(serde_json::to_string(&line).ok()? + "\n")).collect()
}

impl MissLine {
    fn of(key: &MissKey, record: Option<&MissRecord>) -> Self {
        let (name, record) = (Some(key.name.to_string()), record.map(RecordLine::of));
        let line = Self { name, record, ..Self::default() };
        match &key.thing {
            MissedThing::Tag(tag) => Self { tag: Some(tag.to_string()), ..line },
            MissedThing::Manifest(digest) => Self { manifest: Some(digest.to_string()), ..line },
            MissedThing::Blob(digest) => Self { blob: Some(digest.to_string()), ..line },
        }
    }

    fn key(&self) -> Option<MissKey> {
        let name = CanonicalName::parse(self.name.as_deref()?).ok()?;
        let thing = match (&self.tag, &self.manifest, &self.blob) {
            (Some(tag), None, None) => MissedThing::Tag(Tag::parse(tag).ok()?),
            (None, Some(digest), None) => MissedThing::Manifest(Digest::parse(digest).ok()?),
            (None, None, Some(digest)) => MissedThing::Blob(Digest::parse(digest).ok()?),
            _ => return None,
        };
        Some(MissKey { name, thing })
    }
}

impl RecordLine {
    fn of(record: &MissRecord) -> Self {
        let MissRecord { first, last, count, kinds, owner } = record.clone();
        Self { first: to_millis(first), last: to_millis(last), count, kinds, owner }
    }
}

impl From<RecordLine> for MissRecord {
    fn from(line: RecordLine) -> Self {
        let RecordLine { first, last, count, kinds, owner } = line;
        let time = |millis| Timestamp::from_unix(Duration::from_millis(millis));
        Self { first: time(first), last: time(last), count, kinds, owner }
    }
}

fn to_millis(at: Timestamp) -> u64 {
    u64::try_from(at.unix().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::misses::MissedBy;
    use crate::oci::Algorithm;

    #[test]
    fn what_is_written_is_read_again_and_the_rest_passed_over() {
        let name = CanonicalName::parse("docker.io/a/b").expect("a name");
        let digest = Digest::of(Algorithm::Sha256, b"something");
        let things = [
            MissedThing::Tag(Tag::parse("v1").expect("a tag")),
            MissedThing::Manifest(digest.clone()),
            MissedThing::Blob(digest),
        ];
        let (mut table, mut text) = (MissTable::new(2), String::new());
        for (n, thing) in (0..).zip(things) {
            let key = MissKey { name: name.clone(), thing };
            let now = Timestamp::from_unix(Duration::from_millis(n));
            table.note(key, MissedBy::new("user", &1), now);
            text += &write(&table.take_changes());
        }
        for cut in ["", "{\"name\":\"docker.io/a/b\",\"tag\":\"v2\",\"rec", "\n[]\n{\"name\":1}\n"]
        {
            let mut again = MissTable::new(2);
            read(&format!("{text}{cut}"), &mut again);
            assert_eq!(again.list(), table.list(), "{cut}");
            assert_eq!(write(&again.take_changes()), "", "nothing of it is new");
        }
    }
}
