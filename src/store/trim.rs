//! Keeping the tables small: what they say of content that is gone, what is too much of it, and
//! the space that is free within the file.
//!
//! Everything goes in steps, so that nobody who serves waits long for the tables.

use rusqlite::{OptionalExtension, params};

use super::database::{Database, Result, from_millis, to_millis};
use crate::clock::Timestamp;

/// Rows that are looked at in one step.
const STEP_ROWS: usize = 2000;

/// Pages that are given back in one step.
const STEP_PAGES: u32 = 1000;

/// A table whose rows go with age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AgeingTable {
    Members,
    Tags,
    Repositories,
}

impl AgeingTable {
    pub(super) const ALL: [Self; 3] = [Self::Members, Self::Tags, Self::Repositories];

    fn name(self) -> &'static str {
        match self {
            Self::Members => "members",
            Self::Tags => "tags",
            Self::Repositories => "repositories",
        }
    }

    /// The key, of two columns; the second may be empty.
    fn key(self) -> &'static str {
        match self {
            Self::Members => "name, digest",
            Self::Tags => "name, tag",
            Self::Repositories => "name, ''",
        }
    }

    /// When upstream last said so.
    fn age(self) -> &'static str {
        match self {
            Self::Members => "seen",
            Self::Tags => "checked",
            Self::Repositories => "confirmed",
        }
    }

    /// That a row is about nothing that is stored.
    fn is_idle(self) -> &'static str {
        match self {
            Self::Members | Self::Tags => {
                "NOT EXISTS (SELECT 1 FROM blobs WHERE blobs.digest = about.digest)"
            }
            Self::Repositories => {
                "NOT EXISTS (SELECT 1 FROM members WHERE members.name = about.name)"
            }
        }
    }
}

/// Which rows a sweep removes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Doomed {
    /// About nothing that is stored, and not that young: upstream is asked again.
    Idle,
    All,
}

/// How far a sweep has come: the key of the last row that it has looked at.
#[derive(Clone, Debug, Default)]
pub(super) struct SweepCursor(String, String);

/// Greater than every name.
const BEHIND_ALL: &str = "\u{7f}";

impl Database {
    /// Removes the doomed rows of the next [`STEP_ROWS`] that are as old as `before` or older;
    /// where to go on, or `None` at the end.
    pub(super) fn sweep(
        &self,
        table: AgeingTable,
        doomed: Doomed,
        before: Timestamp,
        from: &SweepCursor,
    ) -> Result<Option<SweepCursor>> {
        let (name, key, age) = (table.name(), table.key(), table.age());
        let doomed = match doomed {
            Doomed::Idle => table.is_idle(),
            Doomed::All => "1",
        };
        let SweepCursor(first, second) = from;
        let next = format!(
            "SELECT {key} FROM {name} WHERE ({key}) > (?1, ?2) ORDER BY {key}
             LIMIT 1 OFFSET {STEP_ROWS}"
        );
        let next = self
            .connection()
            .prepare_cached(&next)?
            .query_row([first, second], |row| Ok(SweepCursor(row.get(0)?, row.get(1)?)));
        let next = next.optional()?;
        let end = SweepCursor(BEHIND_ALL.to_owned(), String::new());
        let SweepCursor(until_first, until_second) = next.as_ref().unwrap_or(&end);
        let delete = format!(
            "DELETE FROM {name} AS about WHERE ({key}) > (?1, ?2) AND ({key}) <= (?3, ?4)
             AND {age} <= ?5 AND {doomed}"
        );
        let before = to_millis(before);
        let bounds = params![first, second, until_first, until_second, before];
        self.connection().prepare_cached(&delete)?.execute(bounds)?;
        Ok(next)
    }

    /// The age that one row of eight has reached.
    pub(super) fn oldest_eighth(&self, table: AgeingTable) -> Result<Option<Timestamp>> {
        let (name, age) = (table.name(), table.age());
        let select = format!(
            "SELECT {age} FROM {name} ORDER BY {age}
             LIMIT 1 OFFSET (SELECT count(*) / 8 FROM {name})"
        );
        let age = self.connection().prepare_cached(&select)?.query_row([], |row| row.get(0));
        Ok(age.optional()?.map(from_millis))
    }

    /// Bytes of the pages that hold something.
    pub(super) fn bytes_in_use(&self) -> Result<u64> {
        let figure = |name| -> Result<u64> {
            self.connection().pragma_query_value(None, name, |row| row.get(0))
        };
        let pages = figure("page_count")?.saturating_sub(figure("freelist_count")?);
        Ok(pages.saturating_mul(figure("page_size")?))
    }

    /// Gives some pages that hold nothing back to the disk; whether there are more.
    pub(super) fn shrink(&self) -> Result<bool> {
        let free = |database: &Self| -> Result<u64> {
            database.connection().pragma_query_value(None, "freelist_count", |row| row.get(0))
        };
        let before = free(self)?;
        if before == 0 {
            return Ok(false);
        }
        let vacuum = format!("PRAGMA incremental_vacuum({STEP_PAGES})");
        let mut vacuum = self.connection().prepare(&vacuum)?;
        // A row for each page.
        let mut pages = vacuum.query([])?;
        while pages.next()?.is_some() {}
        let left = free(self)?;
        if left == 0 {
            self.write_log_back()?;
        }
        Ok(left > 0 && left < before)
    }
}
