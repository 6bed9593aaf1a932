//! kill -9 at any moment of a pull and of a start, with room for everything and with too little of
//! it: the next start is quick and clean, and no wrong byte is ever served.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::Instant;

use crate::campaigns::{how_often, seed};
use crate::support::crash::{
    Budget, Hit, LANES, SeenBlobs, Usual, every_blob_is_whole, files, in_lanes, kill_during,
    kill_start, prefix, restart,
};
use crate::support::http_client::pull;
use crate::support::image::{Image, Random};
use crate::support::memory_registry::MemoryRegistry;
use crate::support::process::{PATIENCE, poll};
use crate::support::proxy::{Proxy, Settings};

/// How often it is killed, if `KILLS` does not say; a fifth of them during pushes.
const KILLS: u64 = 25;
const IN_ONE_CACHE: u64 = 20;
const SIZES: &[usize] = &[100_000, 300_000, 900_000];
/// A pull of one of the images takes about 150 ms at this rate.
const RATE: u32 = 8 << 20;
/// Room for two of the images.
const MAX_SIZE: u64 = 3 << 20;

#[test]
fn killed_during_pulls_and_starts_it_starts_clean_and_pulls_again() {
    let scratch = TempDir::new().expect("the system has a temporary folder");
    let (kills, seed) = (how_often("KILLS", KILLS) * 4 / 5, seed(9));
    let count = kills.div_ceil(LANES).min(IN_ONE_CACHE);
    let images = Image::make_each(count, SIZES);
    let hit = in_lanes(kills, async |nth, budget| {
        let folder = scratch.path().join(format!("lane-{nth}"));
        // Half of the caches are too small.
        let max_size = (nth % 2 == 1).then_some(MAX_SIZE);
        let lane = Lane::open(&folder, &images, max_size, Random::new(seed + nth)).await;
        lane.run(budget).await
    });
    println!(
        "kills during pulls, seed {seed}: {} aimed at pulls, {} before their end, {} of those \
         while it evicted; {} aimed at starts, {} before their end; no wrong blob, none lost, nothing left",
        hit.aimed_at_transfers, hit.transfers, hit.evicting, hit.aimed_at_starts, hit.starts
    );
    assert_eq!(hit.kills(), kills);
    assert!(hit.transfers * 2 >= hit.aimed_at_transfers, "too few of the kills fell into a pull");
}

struct Lane<'a> {
    folder: &'a Path,
    images: &'a [Image],
    registry: MemoryRegistry,
    /// Nothing: room for everything.
    max_size: Option<u64>,
    random: Random,
    pulls: Usual,
    starts: Usual,
    hit: Hit,
}

impl<'a> Lane<'a> {
    async fn open(
        folder: &'a Path,
        images: &'a [Image],
        max_size: Option<u64>,
        random: Random,
    ) -> Self {
        Self {
            folder,
            images,
            registry: MemoryRegistry::holding(images, RATE).await,
            max_size,
            random,
            pulls: Usual(Duration::from_millis(200)),
            starts: Usual(Duration::from_millis(150)),
            hit: Hit::default(),
        }
    }

    /// One cache after the other.
    async fn run(mut self, budget: &Budget) -> Hit {
        let settings = Settings::reading(self.folder, "quay.io", self.registry.address);
        let settings = match self.max_size {
            Some(bytes) => settings.with_max_size(&bytes.to_string()),
            None => settings,
        };
        while !budget.is_used_up() {
            self.kill_in_one_cache(&settings, budget).await;
            every_blob_is_whole(settings.cache());
            fs::remove_dir_all(settings.cache()).expect("the folder is the test's own");
        }
        self.hit
    }

    /// One pull that is killed for each image, and now and then the starts after it, too.
    async fn kill_in_one_cache(&mut self, settings: &Settings, budget: &Budget) {
        let mut seen = SeenBlobs::default();
        let mut proxy = Proxy::start(settings).await;
        for round in 0..self.images.len() {
            if !budget.take() {
                return;
            }
            self.kill_in_a_pull(proxy, settings, round).await;
            self.look(&mut seen, settings);
            // None, or one or two after each other.
            for _ in 2..self.random.number() % 5 {
                if budget.take() {
                    self.kill_in_a_start(settings).await;
                    self.look(&mut seen, settings);
                }
            }
            let begun = Instant::now();
            proxy = restart(settings).await;
            self.starts.saw(begun.elapsed());
            self.pull_again(&proxy, &seen, settings, round).await;
        }
    }

    async fn kill_in_a_pull(&mut self, proxy: Proxy, settings: &Settings, round: usize) {
        let moment = self.pulls.moment(&mut self.random);
        let blobs = files(&settings.cache().join("blobs"));
        let (address, image) = (proxy.clients, self.images[round].clone());
        let transfer = async move { pull(address, &prefix(round), "1", &image).await };
        let is_cut = kill_during(proxy, moment, transfer).await.is_err();
        let has_evicted = blobs.iter().any(|blob| !blob.exists());
        self.hit.aimed_at_transfers += 1;
        self.hit.transfers += u64::from(is_cut);
        self.hit.evicting += u64::from(is_cut && has_evicted);
    }

    async fn kill_in_a_start(&mut self, settings: &Settings) {
        let moment = self.starts.moment(&mut self.random);
        self.hit.aimed_at_starts += 1;
        self.hit.starts += u64::from(kill_start(settings, moment).await);
    }

    fn look(&self, seen: &mut SeenBlobs, settings: &Settings) {
        if self.max_size.is_some() {
            seen.look(settings.cache());
        } else {
            seen.look_for_all(settings.cache());
        }
    }

    /// The image whose pull was cut, and one from before, which is not fetched again if it was there.
    async fn pull_again(
        &mut self,
        proxy: &Proxy,
        seen: &SeenBlobs,
        settings: &Settings,
        round: usize,
    ) {
        let begun = Instant::now();
        pull(proxy.clients, &prefix(round), "1", &self.images[round])
            .await
            .expect("the pull goes through after the restart");
        self.pulls.saw(begun.elapsed());
        let earlier = self.random.index_below(round + 1);
        let is_there = seen.have(settings.cache(), &self.images[earlier]);
        let sent = self.registry.blobs_sent();
        pull(proxy.clients, &prefix(earlier), "1", &self.images[earlier])
            .await
            .expect("what was there is still there");
        match self.max_size {
            None if is_there => assert_eq!(self.registry.blobs_sent(), sent, "fetched again"),
            None => {}
            Some(max_size) => within(max_size, settings.cache()).await,
        }
    }
}

/// Until the index is read a cache may hold more than it should.
async fn within(max_size: u64, cache: &Path) {
    poll("end of the eviction", PATIENCE, async || (bytes_of(cache) <= max_size).then_some(()))
        .await;
}

fn bytes_of(cache: &Path) -> u64 {
    let content: Vec<PathBuf> =
        ["blobs", "staging"].iter().flat_map(|folder| files(&cache.join(folder))).collect();
    // What is evicted meanwhile counts no more.
    content.iter().filter_map(|file| Some(fs::metadata(file).ok()?.len())).sum()
}
