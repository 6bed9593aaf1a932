//! What is revoked, as it was in force last, on disk: a start joins the lists to it as a reload does
//! to what is in memory. Else a line that is wrong, or missing by mistake, would make somebody good
//! again with the next restart, whenever that comes.
//!
//! It lies in the cache directory and may be lost with it. Then the lists alone count.

use std::io::ErrorKind;
use std::path::PathBuf;

use crate::config::Config;
use crate::files;
use crate::licence::Revocations;

const CANNOT_BE_READ: &str =
    "what was revoked before this start cannot be read; the lists count as they are";

#[derive(Debug)]
pub(super) struct KeptRevocations {
    path: PathBuf,
    /// What the file says.
    text: String,
    /// The disk did not take what is in force.
    is_behind: bool,
}

impl KeptRevocations {
    pub(super) fn of(config: &Config) -> Self {
        Self { path: config.kept_revocations(), text: String::new(), is_behind: false }
    }

    /// What an earlier process has kept, or what of it can be read. A file that cannot be read as a
    /// whole is told and set aside, since it will be written anew.
    pub(super) fn read(&mut self) -> Revocations {
        let path = &self.path;
        if let Err(error) = files::check_place(path) {
            tracing::warn!(%error, path = %path.display(), "{CANNOT_BE_READ}");
            return Revocations::default();
        }
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

    /// Writes down what is in force. Where the disk does not take it, that is told once, and it
    /// [is behind](Self::is_behind).
    pub(super) fn keep(&mut self, revoked: &Revocations) {
        let (path, text) = (&self.path, revoked.to_lines());
        if text == self.text {
            self.is_behind = false;
            return;
        }
        let place = files::check_place(path);
        match place.and_then(|()| files::replace_private(path, text.as_bytes())) {
            Ok(()) => (self.text, self.is_behind) = (text, false),
            Err(error) if !self.is_behind => {
                self.is_behind = true;
                tracing::warn!(%error, path = %path.display(),
                    "what is revoked cannot be kept for the next start; this is tried again");
            }
            Err(_) => {}
        }
    }

    /// Whether what is in force is still to be written down.
    pub(super) fn is_behind(&self) -> bool {
        self.is_behind
    }
}
