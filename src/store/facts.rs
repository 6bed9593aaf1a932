//! What the records hold: small facts that can be asked of an upstream again.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;

use rustix::fs::{AtFlags, StatxFlags, statx};
use rustix::io::Errno;

use crate::clock::Timestamp;
use crate::oci::{Digest, MediaType, UpstreamName};

/// The digest that a tag was last known to have, and when upstream last said so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagRecord {
    pub digest: Digest,
    pub checked: Timestamp,
}

/// A digest that an upstream has proven to be in a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The type it was served with, if it was proven as a manifest (MAN-4).
    pub media_type: Option<MediaType>,
    /// Set once the upstream has refused something else of the repository: when the repository had
    /// last been confirmed until then. Only the upstream's word on this very digest clears it.
    pub doubted: Option<Timestamp>,
    /// When the upstream last said so of this very digest, give or take a moment.
    pub seen: Timestamp,
}

/// Who has sent us the bytes of a digest. Whoever has sent them has them; that others say so too
/// proves nothing about bytes that a credential was needed for (DESIGN §14.1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Senders {
    /// Somebody has sent them without a credential, so they are no secret.
    pub is_public: bool,
    pub upstreams: Vec<UpstreamName>,
}

/// Who sends bytes that are published now.
#[derive(Clone, Debug)]
pub struct ContentSender {
    pub upstream: UpstreamName,
    /// No credential was needed.
    pub is_public: bool,
}

/// Stands for everybody where the names of upstreams are written down.
const EVERYBODY: &str = "*";

impl Senders {
    pub(super) fn add(&mut self, sender: &ContentSender) {
        self.is_public |= sender.is_public;
        if !self.upstreams.contains(&sender.upstream) {
            self.upstreams.push(sender.upstream.clone());
        }
    }

    pub(super) fn parse(text: &str) -> Self {
        let names = text.split_whitespace().filter(|name| *name != EVERYBODY);
        Self {
            is_public: text.split_whitespace().any(|name| name == EVERYBODY),
            upstreams: names.filter_map(|name| UpstreamName::parse(name).ok()).collect(),
        }
    }

    pub(super) fn to_text(&self) -> String {
        let names = self.upstreams.iter().map(UpstreamName::as_str);
        self.is_public.then_some(EVERYBODY).into_iter().chain(names).collect::<Vec<_>>().join(" ")
    }
}

/// What a published file looked like; another size or time means that somebody else wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Bytes.
    pub(super) size: u64,
    /// When it was last written, in nanoseconds since the epoch.
    pub(super) mtime: i64,
}

impl Stamp {
    /// What no file looks like: it is to be hashed.
    pub(super) const OF_NO_FILE: Self = Self { size: 0, mtime: i64::MIN };

    pub(super) fn of(file: &File) -> io::Result<Self> {
        Ok(Self::from(&file.metadata()?))
    }

    /// As the system knows it, without asking anybody else: a file server that is gone is waited for
    /// without end.
    pub(super) fn known_of(file: &File) -> io::Result<Self> {
        let how = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        match statx(file, c"", how, StatxFlags::SIZE | StatxFlags::MTIME) {
            Ok(found) => {
                let mtime = found.stx_mtime;
                Ok(Self::new(found.stx_size, mtime.tv_sec, mtime.tv_nsec.into()))
            }
            // Kernels before 4.11.
            Err(Errno::NOSYS) => Self::of(file),
            Err(error) => Err(error.into()),
        }
    }

    fn new(size: u64, seconds: i64, nanos: i64) -> Self {
        Self { size, mtime: seconds.saturating_mul(1_000_000_000).saturating_add(nanos) }
    }
}

impl From<&Metadata> for Stamp {
    fn from(metadata: &Metadata) -> Self {
        Self::new(metadata.len(), metadata.mtime(), metadata.mtime_nsec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_to_look_at_a_file_see_the_same() {
        let file = tempfile::tempfile().expect("a temporary file");
        let early = std::time::UNIX_EPOCH - std::time::Duration::new(1, 500);
        for (size, mtime) in [(0, None), (5000, None), (1 << 33, Some(early))] {
            file.set_len(size).expect("a sparse file");
            mtime.map_or(Ok(()), |mtime| file.set_modified(mtime)).expect("ours");
            let stamp = Stamp::of(&file).expect("a stamp");
            assert_eq!((stamp.size, Stamp::known_of(&file).ok()), (size, Some(stamp)));
        }
    }

    #[test]
    fn senders_are_written_down_as_words() {
        let mut senders = Senders::default();
        for (name, is_public, text) in [
            ("a.test", false, "a.test"),
            ("b.test:5000", false, "a.test b.test:5000"),
            ("a.test", true, "* a.test b.test:5000"),
            ("a.test", false, "* a.test b.test:5000"),
        ] {
            assert_eq!(Senders::parse(&senders.to_text()), senders);
            let upstream = UpstreamName::parse(name).expect("a name");
            senders.add(&ContentSender { upstream, is_public });
            assert_eq!(senders.to_text(), text);
        }
    }
}
