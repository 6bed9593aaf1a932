//! The scrub: every stored file is read again once in a while, so that what rots without a change of
//! size or time is found before it is served.
//!
//! It reads as slowly as is configured, manifests and what is much in use before the rest, and keeps
//! nothing in memory that was not there. What is damaged is removed, and told with the images that
//! it belongs to; the next client that asks for it gets it from upstream. What is pinned is fetched
//! at once, and tried again until it is here (PIN-4).

use std::collections::HashSet;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::clock::{Clock, Timestamp};
use crate::config;
use crate::images::{self, Pins};
use crate::metrics::Metrics;
use crate::oci::{CanonicalName, Digest, Reference};
use crate::pull::{self, PullThrough, Want};
use crate::store::{BlobStore, CheckOptions, Checker, Defect, DueFile, Error};

/// Files, and bytes, after which it is noted what was read. As much is read twice after a crash.
const NOTED_FILES: usize = 64;
const NOTED_BYTES: u64 = 64 << 20;

/// What is pinned and could not be fetched; what is beyond is fetched by whoever asks for it.
const MISSING_MAX: usize = 10_000;

/// What a scrub works on.
#[derive(Debug)]
pub(crate) struct Scrub {
    pub(crate) store: BlobStore,
    pub(crate) pins: Pins,
    pub(crate) pull: PullThrough,
    pub(crate) clock: Clock,
    /// Between two looks at what is due.
    pub(crate) look: Duration,
    pub(crate) metrics: Arc<Metrics>,
}

impl Scrub {
    /// Reads what is due, again and again; never returns.
    pub(crate) async fn run(self, mut caches: watch::Receiver<config::Cache>) {
        let mut missing = HashSet::new();
        loop {
            let (period, rate) = {
                let cache = caches.borrow_and_update();
                (cache.scrub, cache.scrub_rate)
            };
            let round = async {
                self.fetch(&mut missing).await;
                if !period.is_zero()
                    && let Err(error) = self.read_due(period, rate, &mut missing).await
                {
                    tracing::warn!(%error, "the scrub pauses");
                }
                sleep(self.look).await;
            };
            tokio::select! {
                () = round => {}
                // Begun anew, as it is configured now.
                Ok(()) = caches.changed() => {}
            }
        }
    }

    /// Reads everything that is due.
    async fn read_due(
        &self,
        period: Duration,
        rate: NonZeroU64,
        missing: &mut HashSet<DueFile>,
    ) -> Result<(), Error> {
        loop {
            let before = self.clock.now().unix().saturating_sub(period);
            let due = self.store.due_files(Timestamp::from_unix(before)).await?;
            if due.is_empty() {
                return Ok(());
            }
            let options = CheckOptions { repair: true, rate: Some(rate) };
            let mut checker = self.store.checker(options);
            let mut due = due.as_slice();
            while !due.is_empty() {
                let damaged;
                (due, damaged) = self.read_some(&mut checker, due).await?;
                if !damaged.is_empty() {
                    self.tell(&damaged).await;
                    missing.extend(damaged);
                    self.fetch(missing).await;
                }
            }
        }
    }

    /// Reads the next few; those that are left, and those that were damaged.
    async fn read_some<'a>(
        &self,
        checker: &mut Checker,
        due: &'a [DueFile],
    ) -> Result<(&'a [DueFile], Vec<DueFile>), Error> {
        let (began, mut damaged, mut read) = (checker.totals().hashed, Vec::new(), Vec::new());
        // Manifests by themselves: those that are pinned are here again when it is to be told which
        // images need the rest.
        let is_manifest = due.first().is_some_and(|file| file.is_manifest);
        let alike = due.iter().take_while(|file| file.is_manifest == is_manifest);
        for file in alike.take(NOTED_FILES) {
            let found = checker.check_blob(&file.digest).await?;
            read.push(file.digest.clone());
            if found.is_some_and(|finding| is_damage(&finding.defect)) {
                damaged.push(file.clone());
            }
            if checker.totals().hashed - began > NOTED_BYTES {
                break;
            }
        }
        let metrics = &self.metrics.store;
        metrics.scrubbed.inc_by(checker.totals().hashed - began);
        metrics.scrub_damaged.inc_by(damaged.len() as u64);
        let left = &due[read.len()..];
        self.store.note_read(read, self.clock.now()).await?;
        Ok((left, damaged))
    }

    /// Says which images need what was damaged.
    async fn tell(&self, damaged: &[DueFile]) {
        let digests: HashSet<Digest> = damaged.iter().map(|file| file.digest.clone()).collect();
        let survey = self.store.survey();
        let users = spawn_blocking(move || images::users(&survey, &digests)).await;
        match users {
            Ok(Ok(users)) => {
                for file in damaged {
                    let images = users.get(&file.digest).map(|images| images.join(", "));
                    tracing::error!(digest = %file.digest, images = images.unwrap_or_default(),
                        "a damaged file was removed; these images need it");
                }
            }
            Ok(Err(error)) => tracing::warn!(%error, "nobody knows which images need it"),
            Err(error) => tracing::warn!(%error, "nobody knows which images need it"),
        }
    }

    /// Fetches what is pinned; what nobody has pinned is left to whoever asks for it.
    async fn fetch(&self, missing: &mut HashSet<DueFile>) {
        for file in std::mem::take(missing) {
            if self.store.holds(&file.digest) {
                continue;
            }
            let (pins, digest) = (self.pins.clone(), file.digest.clone());
            let names = spawn_blocking(move || pins.repositories_of(&digest)).await;
            for name in names.unwrap_or_default() {
                match self.fetch_from(&name, &file).await {
                    Ok(()) => {
                        tracing::info!(image = %name, digest = %file.digest,
                            "what is pinned and was damaged is here again");
                        break;
                    }
                    Err(error) => {
                        tracing::warn!(%error, image = %name, digest = %file.digest,
                            "what is pinned and was damaged cannot be fetched; it is tried again");
                        if missing.len() < MISSING_MAX {
                            missing.insert(file.clone());
                        }
                    }
                }
            }
        }
    }

    async fn fetch_from(&self, name: &CanonicalName, file: &DueFile) -> Result<(), pull::Error> {
        if !file.is_manifest {
            return self.pull.keep_blob(name, &file.digest, &|_| {}).await;
        }
        let reference = Reference::Digest(file.digest.clone());
        self.pull.manifest(name, &reference, Want::Body).await.map(drop)
    }
}

/// Whether content was lost.
fn is_damage(defect: &Defect) -> bool {
    match defect {
        Defect::WrongContent { .. }
        | Defect::Unreadable(_)
        | Defect::InTheWay(_)
        | Defect::NoFile => true,
        Defect::ForeignOwner(_) | Defect::NoRecord | Defect::OtherRecord | Defect::NotOurs(_) => {
            false
        }
    }
}
