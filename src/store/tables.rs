//! The tables on a disk that may fail: what stands in for them, what is set aside, and what is not
//! believed because it could not be taken back.
//!
//! Only content that is no database is set aside. A disk that is full, read-only or failing says
//! nothing about the records: what can be read of them is, and the rest is tried again.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::ErrorCode;

use super::database::Database;
use super::trim::{AgeingTable, Doomed, SweepCursor};
use super::{Error, lock};
use crate::clock::Timestamp;
use crate::oci::CanonicalName;

/// Damaged databases that are kept to be looked at. Those that come later are removed: an earlier
/// one tells how it began.
const EVIDENCE_MAX: usize = 10;

/// Rounds after which next to nothing is left of what ages.
const ROUNDS_MAX: usize = 32;

/// Names whose rows are not believed, one by one; with more of them nobody's rows are.
const DISBELIEVED_MAX: usize = 10_000;

#[derive(Debug)]
pub(super) struct Tables {
    path: PathBuf,
    /// The file and its log.
    files: [PathBuf; 2],
    /// Bytes that the tables may take.
    share: AtomicU64,
    open: Mutex<OpenTables>,
}

#[derive(Debug)]
struct OpenTables {
    database: Database,
    /// Not as they were meant to be opened: they are tried again from time to time.
    makeshift: bool,
    disbelieved: Disbelieved,
}

/// Repositories about which something could not be taken back, because the disk does not take it.
/// What the tables say of them may be the very thing that upstream has denied.
#[derive(Debug, Default)]
struct Disbelieved {
    names: HashSet<CanonicalName>,
    everybody: bool,
}

impl Tables {
    /// Opens the tables as well as the disk allows, and tells what kept them from being opened
    /// whole. Never fails: without records upstream is asked.
    pub(super) fn open(path: &Path, share: u64) -> (Self, Option<Error>) {
        let (database, trouble) = open_or_stand_in(path);
        let open = OpenTables {
            database,
            makeshift: trouble.is_some(),
            disbelieved: Disbelieved::default(),
        };
        let files = [path.to_path_buf(), with(path, &["-wal"])];
        let share = AtomicU64::new(share);
        (Self { path: path.to_path_buf(), files, share, open: Mutex::new(open) }, trouble)
    }

    pub(super) fn set_share(&self, bytes: u64) {
        self.share.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn bytes_on_disk(&self) -> u64 {
        let len = |file: &PathBuf| file.metadata().map_or(0, |metadata| metadata.len());
        self.files.iter().map(len).sum()
    }

    /// Removes the doomed rows as old as `before`, a step at a time.
    pub(super) fn sweep(&self, doomed: Doomed, before: Timestamp) -> Result<(), Error> {
        for table in AgeingTable::ALL {
            self.sweep_table(table, doomed, before)?;
        }
        Ok(())
    }

    fn sweep_table(
        &self,
        table: AgeingTable,
        doomed: Doomed,
        before: Timestamp,
    ) -> Result<(), Error> {
        let mut next = Some(SweepCursor::default());
        while let Some(from) = next {
            next = self.run("write", |database| database.sweep(table, doomed, before, &from))?;
        }
        Ok(())
    }

    /// Removes the oldest rows until the tables take no more than their share, and gives back the
    /// space.
    pub(super) fn meet_share(&self) -> Result<(), Error> {
        // Each round removes an eighth of what is left. What then is too much are the stamps of
        // files, which go with them.
        for _ in 0..ROUNDS_MAX {
            let share = self.share.load(Ordering::Relaxed);
            if self.run("read", |database| database.bytes_in_use())? <= share {
                break;
            }
            for table in AgeingTable::ALL {
                if let Some(age) = self.run("read", |database| database.oldest_eighth(table))? {
                    self.sweep_table(table, Doomed::All, age)?;
                }
            }
        }
        while self.run("write", |database| database.shrink())? {}
        Ok(())
    }

    pub(super) fn run<T>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&mut Database) -> rusqlite::Result<T>,
    ) -> Result<T, Error> {
        self.run_open(&mut lock(&self.open), operation, work)
    }

    /// What the tables say about `name`, unless that is not to be believed.
    pub(super) fn ask<T>(
        &self,
        name: &CanonicalName,
        query: impl FnOnce(&mut Database) -> rusqlite::Result<Option<T>>,
    ) -> Result<Option<T>, Error> {
        let mut open = lock(&self.open);
        if open.disbelieved.holds(name) {
            return Ok(None);
        }
        self.run_open(&mut open, "read", query)
    }

    /// Takes back something about `name`. If the disk does not take that, nothing that it says of
    /// `name` is believed until it does.
    pub(super) fn withdraw(
        &self,
        name: &CanonicalName,
        change: impl FnOnce(&mut Database) -> rusqlite::Result<()>,
    ) -> Result<(), Error> {
        let mut open = lock(&self.open);
        let withdrawn = self.run_open(&mut open, "write", change);
        if withdrawn.is_err() {
            open.disbelieved.add(name);
        }
        withdrawn
    }

    /// Whether they are not as they were meant to be opened.
    pub(super) fn is_makeshift(&self) -> bool {
        lock(&self.open).makeshift
    }

    /// Tries again what the disk has not allowed.
    pub(super) fn heal(&self) -> Result<(), Error> {
        let mut open = lock(&self.open);
        if open.makeshift && may_be_written(&self.path) {
            // Closed first: two connections that lock the file in different ways would spoil it.
            open.database = stand_in();
            let (database, trouble) = open_or_stand_in(&self.path);
            (open.database, open.makeshift) = (database, trouble.is_some());
            if let Some(error) = trouble {
                return Err(error);
            }
            tracing::warn!(path = %self.path.display(), "the records are in use again");
        }
        if open.disbelieved.is_empty() || open.makeshift {
            return Ok(());
        }
        let disbelieved = std::mem::take(&mut open.disbelieved);
        let forgotten = self.run_open(&mut open, "write", |database| match disbelieved {
            Disbelieved { everybody: true, .. } => database.forget_everybody(),
            Disbelieved { ref names, .. } => database.forget(names),
        });
        if forgotten.is_err() {
            open.disbelieved = disbelieved;
        }
        forgotten
    }

    fn run_open<T>(
        &self,
        open: &mut OpenTables,
        operation: &'static str,
        work: impl FnOnce(&mut Database) -> rusqlite::Result<T>,
    ) -> Result<T, Error> {
        let source = match work(&mut open.database) {
            Ok(done) => return Ok(done),
            Err(source) => source,
        };
        if is_damage(&source) {
            warn_of_damage(&self.path, &source);
            open.database = stand_in();
            let (database, trouble) = match set_aside(&self.path) {
                Ok(()) => open_or_stand_in(&self.path),
                Err(error) => (stand_in(), Some(error)),
            };
            (open.database, open.makeshift) = (database, trouble.is_some());
        }
        Err(Error::Database { operation, source })
    }
}

impl Disbelieved {
    fn holds(&self, name: &CanonicalName) -> bool {
        self.everybody || self.names.contains(name)
    }

    fn is_empty(&self) -> bool {
        !self.everybody && self.names.is_empty()
    }

    fn add(&mut self, name: &CanonicalName) {
        if self.names.len() < DISBELIEVED_MAX {
            self.names.insert(name.clone());
        } else {
            self.everybody = true;
        }
    }
}

/// Whether the content of the file is what is wrong, and not the disk below it.
fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

/// The tables, else what can be had of them, with what was in the way.
fn open_or_stand_in(path: &Path) -> (Database, Option<Error>) {
    let failed = match Database::open(path) {
        Ok(database) => return (database, None),
        Err(source) => source,
    };
    let trouble = if is_damage(&failed) {
        warn_of_damage(path, &failed);
        let anew = set_aside(path).and_then(|()| Database::open(path).map_err(cannot_open));
        match anew {
            Ok(database) => return (database, None),
            Err(error) => error,
        }
    } else {
        cannot_open(failed)
    };
    match Database::open_makeshift(path) {
        Ok(database) => (database, Some(trouble)),
        Err(_) => (stand_in(), Some(trouble)),
    }
}

fn cannot_open(source: rusqlite::Error) -> Error {
    Error::Database { operation: "open", source }
}

/// Tables that hold nothing: whatever they are asked is asked upstream.
fn stand_in() -> Database {
    Database::in_memory().expect("an empty database in memory needs nothing but memory")
}

/// Whether opening it for writing can succeed, as far as rights and the file system say.
fn may_be_written(path: &Path) -> bool {
    let writable = |path: &Path| rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok();
    path.parent().is_some_and(writable) && (!path.exists() || writable(path))
}

fn warn_of_damage(path: &Path, damage: &rusqlite::Error) {
    tracing::warn!(
        error = %damage,
        path = %path.display(),
        "the records are unreadable; starting with new ones"
    );
}

/// Renames the database out of the way, and its log with it, to a name that nothing has.
fn set_aside(path: &Path) -> Result<(), Error> {
    let free = (0..EVIDENCE_MAX).map(evidence).find(|mark| {
        SUFFIXES.iter().all(|suffix| with(path, &[mark, suffix]).symlink_metadata().is_err())
    });
    for suffix in SUFFIXES {
        let from = with(path, &[suffix]);
        let moved = match &free {
            Some(mark) => std::fs::rename(&from, with(path, &[mark, suffix])),
            None => std::fs::remove_file(&from),
        };
        match moved {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::file("set aside", &from)(error)),
        }
    }
    Ok(())
}

/// A database is up to three files. The log goes first: without its database it is nothing, but a
/// new database must not find it.
const SUFFIXES: [&str; 3] = ["-wal", "-shm", ""];

fn evidence(earlier: usize) -> String {
    if earlier == 0 { ".damaged".to_owned() } else { format!(".damaged-{earlier}") }
}

fn with(path: &Path, more: &[&str]) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    for part in more {
        name.push(part);
    }
    name.into()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::oci::{Algorithm, Digest, Repository, Tag, UpstreamName};
    use crate::store::facts::{Member, Stamp, TagRecord};
    use crate::store::order::EvictionClass;

    #[test]
    fn damage_that_shows_while_running_costs_the_records_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("records.sqlite");
        let digest = |n: u32| Digest::of(Algorithm::Sha256, &n.to_le_bytes());
        let stamp = Stamp { size: 1, mtime: 2 };
        let (tables, trouble) = Tables::open(&path, 1 << 20);
        assert!(trouble.is_none(), "new tables");
        for n in 0..1000 {
            tables
                .run("write", |database| {
                    database.put_stamp(&digest(n), stamp, EvictionClass::Blob, 3)
                })
                .expect("written");
        }
        drop(tables);
        let mut content = std::fs::read(&path).expect("the tables");
        content[8192..].fill(0xff);
        std::fs::write(&path, content).expect("damaged");
        let (tables, _first_page_is_whole) = Tables::open(&path, 1 << 20);
        let damaged =
            (0..1000).any(|n| tables.run("read", |database| database.stamp(&digest(n))).is_err());
        assert!(damaged, "the damage is met");
        for n in 0..1000 {
            assert!(tables.run("read", |database| database.stamp(&digest(n))).is_ok(), "row {n}");
        }
        tables
            .run("write", |database| database.put_stamp(&digest(1), stamp, EvictionClass::Blob, 3))
            .expect("written again");
        assert!(folder.path().join("records.sqlite.damaged").exists());
    }

    fn written(path: &Path, name: &CanonicalName, digest: &Digest) -> Tables {
        let (tables, trouble) = Tables::open(path, 1 << 20);
        assert!(trouble.is_none(), "{trouble:?}");
        let member = Member { media_type: None, doubted: None, seen: now() };
        tables.run("write", |database| database.put_member(name, digest, &member)).expect("kept");
        tables
    }

    #[test]
    fn what_is_too_much_goes_with_age_and_gives_its_space_back() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("records.sqlite");
        let share = 512 << 10;
        let (tables, _) = Tables::open(&path, share);
        let digest = |n: u64| Digest::of(Algorithm::Sha256, &n.to_le_bytes());
        let at = |n: u64| Timestamp::from_unix(Duration::from_secs(1000 + n));
        let name = a_name();
        let member = |n| Member { media_type: None, doubted: None, seen: at(n) };
        let fill = |database: &mut Database| {
            database.connection().execute_batch("BEGIN")?;
            for n in 0..10_000 {
                database.put_member(&name, &digest(n), &member(n))?;
                let tag = Tag::parse(&format!("v{n}")).expect("a tag");
                database.put_tag(&name, &tag, &TagRecord { digest: digest(n), checked: at(n) })?;
            }
            let stamp = Stamp { size: 1, mtime: 2 };
            database.put_stamp(&digest(3), stamp, EvictionClass::Blob, 1)?;
            database.connection().execute_batch("COMMIT")
        };
        tables.run("write", fill).expect("written");
        assert!(tables.bytes_on_disk() > 5 * share);
        tables.sweep(Doomed::Idle, at(99)).expect("swept");
        let known = |n| tables.ask(&name, |database| database.member(&name, &digest(n)));
        let known = |n| known(n).expect("it can be asked").is_some();
        assert_eq!([known(3), known(99), known(100)], [true, false, true], "3 is stored");
        tables.meet_share().expect("trimmed");
        assert!(tables.bytes_on_disk() <= share + (4 << 10), "{}", tables.bytes_on_disk());
        assert_eq!([known(3), known(5000), known(9999)], [false, false, true]);
        tables.meet_share().expect("nothing to do");
        assert!(known(9999), "what is small enough stays");
    }

    #[test]
    fn tables_of_a_version_that_could_not_shrink_learn_it() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("records.sqlite");
        let before = rusqlite::Connection::open(&path).expect("a new file");
        before.execute_batch("CREATE TABLE large (x); PRAGMA user_version = 4").expect("made");
        before.execute("INSERT INTO large VALUES (zeroblob(4000000))", []).expect("filled");
        before.execute_batch("DROP TABLE large").expect("emptied");
        drop(before);
        let (tables, trouble) = Tables::open(&path, 1 << 20);
        assert!(trouble.is_none(), "{trouble:?}");
        tables.meet_share().expect("trimmed");
        assert!(tables.bytes_on_disk() < 1 << 20, "{}", tables.bytes_on_disk());
    }

    fn now() -> Timestamp {
        Timestamp::from_unix(Duration::from_secs(1000))
    }

    fn a_name() -> CanonicalName {
        CanonicalName {
            upstream: UpstreamName::parse("docker.io").expect("a name"),
            repository: Repository::parse("a/b").expect("a name"),
        }
    }

    #[test]
    fn what_could_not_be_taken_back_is_not_believed() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("records.sqlite");
        let (name, digest) = (a_name(), Digest::of(Algorithm::Sha256, b"gone"));
        let tables = written(&path, &name, &digest);
        let member = || tables.ask(&name, |database| database.member(&name, &digest));
        assert!(matches!(member(), Ok(Some(_))));
        // Another holds the lock, so that nothing can be written.
        let other = rusqlite::Connection::open(&path).expect("tables");
        other.execute_batch("BEGIN IMMEDIATE").expect("locked");
        let withdrawn = tables.withdraw(&name, |database| database.drop_member(&name, &digest));
        withdrawn.expect_err("it is locked");
        assert!(matches!(member(), Ok(None)), "although the row is there");
        tables.heal().expect_err("still locked");
        assert!(matches!(member(), Ok(None)));
        other.execute_batch("ROLLBACK").expect("free");
        tables.heal().expect("written");
        assert!(matches!(member(), Ok(None)), "gone");
        drop(tables);
        let (tables, _) = Tables::open(&path, 1 << 20);
        let found = tables.ask(&name, |database| database.member(&name, &digest));
        assert!(matches!(found, Ok(None)), "after a start too");
    }

    #[test]
    fn earlier_evidence_is_never_overwritten() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("records.sqlite");
        for damage in 0..EVIDENCE_MAX + 3 {
            std::fs::write(&path, format!("damage {damage}").repeat(1000)).expect("ours");
            let (_, trouble) = Tables::open(&path, 1 << 20);
            assert!(trouble.is_none(), "{trouble:?}");
        }
        for damage in 0..EVIDENCE_MAX {
            let kept = std::fs::read_to_string(with(&path, &[&evidence(damage)])).expect("kept");
            assert!(kept.starts_with(&format!("damage {damage}d")), "{damage}");
        }
        assert!(!with(&path, &[&evidence(EVIDENCE_MAX)]).exists(), "not without end");
    }

    #[test]
    fn what_is_no_file_of_ours_is_left_alone_and_stood_in_for() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("records.sqlite");
        let (name, digest) = (a_name(), Digest::of(Algorithm::Sha256, b"known"));
        let elsewhere = folder.path().join("elsewhere");
        std::fs::write(&elsewhere, b"another's").expect("ours");
        for link in [true, false] {
            if link {
                std::os::unix::fs::symlink(&elsewhere, &path).expect("ours");
            } else {
                std::fs::create_dir(&path).expect("ours");
            }
            let (tables, trouble) = Tables::open(&path, 1 << 20);
            assert!(trouble.is_some());
            let member = Member { media_type: None, doubted: None, seen: now() };
            let put = tables.run("write", |database| database.put_member(&name, &digest, &member));
            put.expect("in memory");
            tables.heal().expect_err("it is there still");
            assert_eq!(std::fs::read(&elsewhere).expect("there"), b"another's");
            std::fs::rename(&path, folder.path().join("moved")).expect("ours");
            tables.heal().expect("new tables");
            let kept = tables.ask(&name, |database| database.member(&name, &digest));
            assert!(matches!(kept, Ok(None)), "what was in memory is asked again");
            drop(tables);
            for suffix in SUFFIXES {
                drop(std::fs::remove_file(with(&path, &[suffix])));
            }
            drop(std::fs::remove_file(folder.path().join("moved")));
        }
    }

    #[test]
    fn records_are_for_their_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("records.sqlite");
        for loose in [false, true] {
            if loose {
                let rights = std::fs::Permissions::from_mode(0o644);
                std::fs::set_permissions(&path, rights).expect("ours");
            }
            let tables = written(&path, &a_name(), &Digest::of(Algorithm::Sha256, b"private"));
            for suffix in SUFFIXES {
                let metadata = with(&path, &[suffix]).metadata().expect("in use");
                assert_eq!(metadata.permissions().mode() & 0o777, 0o600, "{suffix}");
            }
            drop(tables);
        }
    }
}
