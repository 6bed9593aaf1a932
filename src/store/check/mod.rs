//! Whether everything that is kept is what it should be: every blob hashes to its name, every record
//! has its file, every file its record and the size that it counts with.
//!
//! Everything is read, so that what has rotted without a change of size or time is found. That goes
//! on beside requests: a piece at a time on the I/O pool, as slowly as is asked for, and what was
//! not in memory before is not kept there. What changes or goes meanwhile is no finding. Each step
//! leaves the store whole, so a check that is dropped has ended.

mod finding;
mod reading;
mod shelves;
mod verdict;

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::layout::ALGORITHMS;
use super::{BlobStore, Error, StoreInner};
use crate::oci::Digest;

pub use finding::{CheckTotals, Defect, Finding, Remedy};

use verdict::{Looked, Progress};

/// Bytes that are read and hashed before the I/O pool is given to others.
const PIECE: usize = 1 << 20;

/// How a check goes about it.
#[derive(Clone, Copy, Debug, Default)]
pub struct CheckOptions {
    /// What is wrong is removed, and what is right recorded.
    pub repair: bool,
    /// Bytes that are read in a second at most.
    pub rate: Option<NonZeroU64>,
}

/// What a check tells while it goes on.
#[derive(Clone, Copy, Debug)]
pub enum CheckEvent<'a> {
    Found(&'a Finding),
    /// After each piece.
    Progress(CheckTotals),
}

/// A check that goes on. In a server it begins once the index is loaded: what is still being
/// entered would seem not to count.
#[derive(Debug)]
pub struct Checker {
    shared: Arc<StoreInner>,
    options: CheckOptions,
    totals: CheckTotals,
    began: Instant,
    /// Not before this is more read.
    rested: Instant,
    /// Missing while a job reads into it.
    buffer: Option<Vec<u8>>,
}

impl BlobStore {
    pub fn checker(&self, options: CheckOptions) -> Checker {
        let now = Instant::now();
        Checker {
            shared: Arc::clone(&self.0),
            options,
            totals: CheckTotals::default(),
            began: now,
            rested: now,
            buffer: None,
        }
    }
}

impl Checker {
    pub fn totals(&self) -> CheckTotals {
        CheckTotals { taken: self.began.elapsed(), ..self.totals }
    }

    /// Checks everything. To end it, drop the future: what was found until then was told.
    ///
    /// # Errors
    /// If the store is closed meanwhile.
    pub async fn check_all(&mut self, mut tell: impl FnMut(CheckEvent<'_>)) -> Result<(), Error> {
        for finding in self.run(StoreInner::look_around).await? {
            self.note(Some(finding), &mut tell);
        }
        for algorithm in ALGORITHMS {
            for shelf in 0..=u8::MAX {
                let found = self.run(move |shared| shared.look_at_shelf(algorithm, shelf)).await?;
                for finding in found.findings {
                    self.note(Some(finding), &mut tell);
                }
                for digest in found.filled.into_iter().chain(found.empty) {
                    self.look_at(digest, &mut tell).await?;
                }
            }
        }
        Ok(())
    }

    /// Checks what lies in the place of one blob.
    ///
    /// # Errors
    /// If the store is closed meanwhile.
    pub async fn check_blob(&mut self, digest: &Digest) -> Result<Option<Finding>, Error> {
        let mut found = None;
        let tell = |event: CheckEvent<'_>| {
            if let CheckEvent::Found(finding) = event {
                found = Some(finding.clone());
            }
        };
        self.look_at(digest.clone(), tell).await?;
        Ok(found)
    }

    async fn look_at(
        &mut self,
        digest: Digest,
        mut tell: impl FnMut(CheckEvent<'_>),
    ) -> Result<(), Error> {
        let mut progress = Progress::Place(digest);
        let Looked { finding, file } = loop {
            if let Progress::Done(looked) = progress {
                break looked;
            }
            progress = self.go_on(progress).await?;
            tell(CheckEvent::Progress(self.totals()));
        };
        if let Some((bytes, allocated)) = file {
            self.totals.files += 1;
            self.totals.bytes += bytes;
            self.totals.allocated += allocated;
        }
        self.note(finding, &mut tell);
        Ok(())
    }

    /// One piece more, not sooner than the rate allows.
    async fn go_on(&mut self, progress: Progress) -> Result<Progress, Error> {
        sleep_until(self.rested).await;
        let mut buffer = self.buffer.take().unwrap_or_else(|| vec![0; PIECE]);
        let repair = self.options.repair;
        let (progress, read, buffer) = self
            .run(move |shared| {
                let (progress, read) = progress.go_on(shared, &mut buffer, repair);
                (progress, read, buffer)
            })
            .await?;
        self.buffer = Some(buffer);
        self.totals.hashed += read;
        if let Some(rate) = self.options.rate {
            let nanos = u128::from(read) * 1_000_000_000 / u128::from(rate.get());
            let pause = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
            self.rested = self.rested.max(Instant::now()) + pause;
        }
        Ok(progress)
    }

    fn note(&mut self, finding: Option<Finding>, tell: &mut impl FnMut(CheckEvent<'_>)) {
        if let Some(finding) = finding {
            self.totals.count(&finding);
            tell(CheckEvent::Found(&finding));
        }
    }

    async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&StoreInner) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let shared = Arc::clone(&self.shared);
        self.shared.pool.run(move || Ok(job(&shared))).await
    }
}

#[cfg(test)]
mod tests;
