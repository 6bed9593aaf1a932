//! Hours of mixed pulls through a cache that is too small for them: nothing grows.

use std::fs;
use std::time::Duration;

use rustix::process::Pid;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::support::crash::{every_blob_is_whole, prefix, registry_of_each};
use crate::support::http_client::pull;
use crate::support::image::{Image, Random};
use crate::support::process::ready;
use crate::support::proxy::{Proxy, Settings};
use crate::support::registry::NEED;

use super::{anonymous_kib, how_often};

/// Seconds of the short campaign.
const SOAK: u64 = 6;
const IMAGES: u64 = 24;
const SIZES: &[usize] = &[100_000, 900_000];
/// Room for about a third of the images.
const MAX_SIZE: &str = "8MiB";
const CLIENTS: u64 = 4;

#[tokio::test]
async fn pulls_for_hours_leave_memory_and_descriptors_as_they_were() {
    if !ready(&[NEED]) {
        return;
    }
    let scratch = TempDir::new().expect("the system has a temporary folder");
    let length = Duration::from_secs(how_often("SOAK", SOAK));
    let images = Image::make_each(IMAGES, SIZES);
    let registry = registry_of_each(scratch.path(), &images).await;
    let settings = Settings::mirroring(scratch.path(), &registry).with_max_size(MAX_SIZE);
    let proxy = Proxy::start(&settings).await;
    let third = Instant::now() + length / 3;
    let warm = pulls_until(third, &proxy, &images).await;
    let before = Held::by(proxy.process.pid());
    let rest = pulls_until(third + length * 2 / 3, &proxy, &images).await;
    let after = Held::by(proxy.process.pid());
    println!(
        "soak: {} pulls in {} s, none failed; after a third {before:?}, at the end {after:?}",
        warm + rest,
        length.as_secs()
    );
    assert!(after.kib <= before.kib * 5 / 4 + 16 * 1024, "memory: {before:?}, then {after:?}");
    assert!(after.descriptors <= before.descriptors + 32, "{before:?}, then {after:?}");
    every_blob_is_whole(settings.cache());
}

/// Some clients at once, each with one image after the other; how many pulls there were.
async fn pulls_until(end: Instant, proxy: &Proxy, images: &[Image]) -> u64 {
    let clients = (0..CLIENTS).map(async |seed| {
        let (mut random, mut pulls) = (Random::new(seed), 0);
        while Instant::now() < end {
            // The lower numbers more often, as some images are wanted more than others.
            let bound = 1 + random.number() % IMAGES;
            let nth = usize::try_from(random.number() % bound).expect("small");
            pull(proxy.clients, &prefix(nth), "1", &images[nth]).await.expect("a pull");
            pulls += 1;
        }
        pulls
    });
    futures_util::future::join_all(clients).await.into_iter().sum()
}

/// What a process holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    /// KiB of memory that is no file's.
    kib: u64,
    descriptors: usize,
}

impl Held {
    fn by(process: Pid) -> Self {
        let folder = format!("/proc/{}/fd", process.as_raw_nonzero());
        let descriptors = fs::read_dir(folder).expect("it runs").count();
        Self { kib: anonymous_kib(process), descriptors }
    }
}
