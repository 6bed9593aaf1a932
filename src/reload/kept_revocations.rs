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

#[derive(Debug)]
pub(super) struct KeptRevocations {
    /// None: no licence is accepted.
    path: Option<PathBuf>,
    /// What the file says.
    text: String,
}

impl KeptRevocations {
    pub(super) fn of(config: &Config) -> Self {
        let path = config.licences.is_some().then(|| config.kept_revocations());
        Self { path, text: String::new() }
    }

    /// What an earlier process has kept; nothing, told in the log, if that cannot be read.
    pub(super) fn read(&mut self) -> Revocations {
        let Some(path) = &self.path else { return Revocations::default() };
        match files::check_place(path).and_then(|()| files::read_utf8(path)) {
            Ok(text) => {
                let (revoked, _no_lines_of_ours) = Revocations::parse_lines(&text);
                self.text = text;
                revoked
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Revocations::default(),
            Err(error) => {
                tracing::warn!(%error, path = %path.display(),
                    "what was revoked before this start cannot be read; the lists count as they are");
                Revocations::default()
            }
        }
    }

    /// Writes down what is in force. Where the disk does not take it, that is told, and tried again
    /// with the next change.
    pub(super) fn keep(&mut self, revoked: &Revocations) {
        let (Some(path), text) = (&self.path, revoked.to_lines()) else { return };
        if text == self.text {
            return;
        }
        let place = files::check_place(path);
        match place.and_then(|()| files::replace_private(path, text.as_bytes())) {
            Ok(()) => self.text = text,
            Err(error) => tracing::warn!(%error, path = %path.display(),
                "what is revoked cannot be kept for the next start"),
        }
    }
}
