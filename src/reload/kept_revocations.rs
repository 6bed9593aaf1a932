//! What is revoked, as it was in force last, on disk: a start joins the lists to it as a reload does
//! to what is in memory. Else a line that is wrong, or missing by mistake, would make somebody good
//! again with the next restart, whenever that comes.
//!
//! It lies in the cache directory and may be lost with it. Then the lists alone count.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use crate::config::Config;
use crate::files;
use crate::licence::Revocations;

const CANNOT_BE_READ: &str =
    "what was revoked before this start cannot be read; the lists count as they are";

/// How long a reload waits for the disk, which may be a file server that does not answer.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct KeptRevocations {
    path: PathBuf,
    /// What the file says.
    text: String,
    /// The disk has not taken what is in force.
    is_behind: bool,
    /// What the disk has not answered for.
    under_way: Option<PendingWrite>,
}

/// A thread that writes this.
#[derive(Debug)]
struct PendingWrite {
    text: String,
    outcome: Receiver<io::Result<()>>,
}

impl KeptRevocations {
    pub(super) fn of(config: &Config) -> Self {
        let (path, text) = (config.kept_revocations(), String::new());
        Self { path, text, is_behind: false, under_way: None }
    }

    /// What an earlier process has kept, or what of it can be read. A file that cannot be read as a
    /// whole is told and set aside, since it will be written anew.
    pub(super) fn read(&mut self) -> Revocations {
        let path = &self.path;
        if let Err(error) = files::check_place(path) {
            tracing::warn!(%error, path = %path.display(), "{CANNOT_BE_READ}");
            return Revocations::default();
        }
        files::remove_half_written(path);
        match files::read_large_utf8(path) {
            Ok(text) => {
                let (revoked, damaged_lines) = Revocations::parse_lines(&text);
                if damaged_lines.is_empty() {
                    self.text = text;
                } else {
                    let damaged_lines = damaged_lines.len();
                    tracing::warn!(damaged_lines, path = %path.display(),
                        "not all of what was revoked before this start can be read");
                    self.set_aside();
                }
                revoked
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Revocations::default(),
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "{CANNOT_BE_READ}");
                self.set_aside();
                Revocations::default()
            }
        }
    }

    fn set_aside(&self) {
        match files::set_aside(&self.path) {
            Ok(aside) => tracing::warn!(path = %aside.display(), "it was set aside"),
            Err(error) => tracing::warn!(%error, "it cannot be set aside"),
        }
    }

    /// Writes down what is in force. Where the disk does not take it, or not soon, that is told
    /// once, and it [is behind](Self::is_behind).
    pub(super) fn keep(&mut self, revoked: &Revocations) {
        let text = revoked.to_lines();
        if self.under_way.is_none() && text == self.text {
            self.is_behind = false;
            return;
        }
        match self.write(&text) {
            Ok(()) => self.is_behind = self.text != text,
            Err(error) if !self.is_behind => {
                self.is_behind = true;
                tracing::warn!(%error, path = %self.path.display(),
                    "what is revoked cannot be kept for the next start; this is tried again");
            }
            Err(_) => {}
        }
    }

    /// Ends what is under way, or begins with this.
    fn write(&mut self, text: &str) -> io::Result<()> {
        let (writing, patience) = match self.under_way.take() {
            Some(writing) => (writing, Duration::ZERO),
            None => (PendingWrite::begin(&self.path, text)?, PATIENCE),
        };
        match writing.outcome.recv_timeout(patience) {
            Ok(outcome) => outcome.map(|()| self.text = writing.text),
            Err(RecvTimeoutError::Timeout) => {
                self.under_way = Some(writing);
                Err(ErrorKind::TimedOut.into())
            }
            Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("writing it panicked")),
        }
    }

    /// Whether what is in force is still to be written down.
    pub(super) fn is_behind(&self) -> bool {
        self.is_behind
    }
}

impl PendingWrite {
    fn begin(path: &Path, text: &str) -> io::Result<Self> {
        let (send, outcome) = mpsc::channel();
        let (path, text) = (path.to_path_buf(), text.to_owned());
        let bytes = text.clone();
        thread::Builder::new().name("revocations".to_owned()).spawn(move || {
            let written = files::check_place(&path)
                .and_then(|()| files::replace_private(&path, bytes.as_bytes()));
            // Nobody listens when the process ends.
            drop(send.send(written));
        })?;
        Ok(Self { text, outcome })
    }
}
