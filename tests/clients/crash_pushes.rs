//! kill -9 at any moment of a push: the push goes through after the restart, and nothing half done
//! is left or served.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::Instant;

use crate::campaigns::{how_often, seed};
use crate::support::crash::{
    Budget, Hit, LANES, SeenBlobs, Usual, every_blob_is_whole, files, in_lanes, kill_during,
    kill_start, restart,
};
use crate::support::http_client::{client, get_exactly, pull};
use crate::support::image::{Image, Random};
use crate::support::memory_registry::MemoryRegistry;
use crate::support::proxy::{Proxy, Settings};
use crate::support::push_client::PushClient;

/// How often it is killed, if `KILLS` does not say; four fifths of them during pulls.
const KILLS: u64 = 25;
const IN_ONE_CACHE: u64 = 20;
const SIZES: &[usize] = &[300_000, 900_000];
/// A push of one of the images takes about 300 ms at this rate.
const RATE: u32 = 8 << 20;

#[test]
fn killed_during_pushes_it_starts_clean_and_takes_them_again() {
    let scratch = TempDir::new().expect("the system has a temporary folder");
    let (kills, seed) = (how_often("KILLS", KILLS) / 5, seed(10));
    let count = kills.div_ceil(LANES).min(IN_ONE_CACHE);
    let images = Image::make_each(count, SIZES);
    let hit = in_lanes(kills, async |nth, budget| {
        let lane = Lane {
            folder: &scratch.path().join(format!("lane-{nth}")),
            images: &images,
            random: Random::new(seed + nth),
            pushes: Usual(Duration::from_millis(400)),
            starts: Usual(Duration::from_millis(150)),
            hit: Hit::default(),
        };
        lane.run(budget).await
    });
    println!(
        "kills during pushes, seed {seed}: {} aimed at pushes, {} before their end, {} of those in \
         an upload; {} aimed at starts, {} before their end; no wrong blob, none lost, nothing left",
        hit.aimed_at_transfers, hit.transfers, hit.uploads, hit.aimed_at_starts, hit.starts
    );
    assert_eq!(hit.kills(), kills);
    assert!(hit.transfers * 2 >= hit.aimed_at_transfers, "too few of the kills fell into a push");
}

struct Lane<'a> {
    folder: &'a Path,
    images: &'a [Image],
    random: Random,
    pushes: Usual,
    starts: Usual,
    hit: Hit,
}

impl Lane<'_> {
    /// One cache after the other, each with a registry that has nothing yet.
    async fn run(mut self, budget: &Budget) -> Hit {
        while !budget.is_used_up() {
            let registry = MemoryRegistry::holding(&[], RATE).await;
            let settings = Settings::taking_pushes(self.folder, registry.address);
            self.kill_in_one_cache(&settings, budget).await;
            every_blob_is_whole(settings.cache());
            fs::remove_dir_all(settings.cache()).expect("the folder is the test's own");
        }
        self.hit
    }

    /// One push that is killed for each image, and every other time the start after it, too.
    async fn kill_in_one_cache(&mut self, settings: &Settings, budget: &Budget) {
        let mut seen = SeenBlobs::default();
        let mut proxy = Proxy::start(settings).await;
        for (round, image) in self.images.iter().enumerate() {
            if !budget.take() {
                return;
            }
            self.kill_in_a_push(proxy, round, image).await;
            seen.look_for_all(settings.cache());
            if self.random.number() % 2 == 1 && budget.take() {
                let moment = self.starts.moment(&mut self.random);
                self.hit.aimed_at_starts += 1;
                self.hit.starts += u64::from(kill_start(settings, moment).await);
                seen.look_for_all(settings.cache());
            }
            let begun = Instant::now();
            proxy = restart(settings).await;
            self.starts.saw(begun.elapsed());
            nothing_wrong_is_served(&proxy, round, image).await;
            self.push_again(&proxy, settings, round).await;
        }
    }

    async fn kill_in_a_push(&mut self, proxy: Proxy, round: usize, image: &Image) {
        let moment = self.pushes.moment(&mut self.random);
        let (client, pushed) = (push_client(&proxy), image.clone());
        let transfer = async move { client.push_image(&repository(round), "1", &pushed).await };
        let broken_off = kill_during(proxy, moment, transfer).await.err();
        self.hit.aimed_at_transfers += 1;
        self.hit.transfers += u64::from(broken_off.is_some());
        self.hit.uploads += u64::from(broken_off.is_some_and(|at| at.contains("/blobs/uploads/")));
    }

    async fn push_again(&mut self, proxy: &Proxy, settings: &Settings, round: usize) {
        let begun = Instant::now();
        push_client(proxy)
            .push_image(&repository(round), "1", &self.images[round])
            .await
            .expect("the push goes through after the restart");
        self.pushes.saw(begun.elapsed());
        let staging = settings.cache().join("staging");
        assert_eq!(files(&staging), [] as [PathBuf; 0], "round {round}, after the push");
        for there in [round, self.random.index_below(round + 1)] {
            pull(proxy.clients, &prefix(there), "1", &self.images[there])
                .await
                .expect("what was pushed is served");
        }
    }
}

/// By digest, whatever the registry has of it: a blob that it has not is an error here, a wrong one
/// ends the test.
async fn nothing_wrong_is_served(proxy: &Proxy, round: usize, image: &Image) {
    for blob in image.platforms.iter().flat_map(|platform| platform.blobs()) {
        let path = format!("{}/blobs/{}", prefix(round), blob.digest);
        let _ = get_exactly(proxy.clients, &path, blob).await;
    }
}

fn push_client(proxy: &Proxy) -> PushClient {
    PushClient::to(&format!("http://{}", proxy.clients), client(), None)
}

fn repository(round: usize) -> String {
    format!("acme/app{round}")
}

fn prefix(round: usize) -> String {
    format!("/v2/{}", repository(round))
}
