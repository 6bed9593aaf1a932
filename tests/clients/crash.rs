//! kill -9 at any moment: the next start is quick and clean, and no wrong byte is ever served.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use roadstead::oci::{Algorithm, Digest};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::time::{Instant, timeout};

use crate::image::{Image, Random};
use crate::line::Line;
use crate::process::{PATIENCE, ready};
use crate::proxy::{Proxy, Settings};
use crate::registry::{Auth, NEED, Registry};
use crate::web::pull;

const ROUNDS: u64 = 20;
pub(crate) const SIZES: &[usize] = &[300_000, 1 << 20, 3 << 20];
/// A pull of one of the images takes about 400 ms at this rate.
const RATE: u32 = 8 << 20;
const LATEST: u64 = 380;

#[tokio::test]
async fn killed_during_pulls_it_starts_clean_and_pulls_again() {
    if !ready(&[NEED]) {
        return;
    }
    let scratch = TempDir::new().expect("the system has a temporary folder");
    let images = images(scratch.path(), ROUNDS, SIZES).await;
    let registry = registry(scratch.path(), &images).await;
    let line = Line::thin(registry.address, RATE).await;
    let settings = Settings::at(scratch.path(), &registry, line.address);
    let mut random = Random::new(9);
    let mut interrupted = 0;
    let mut proxy = Proxy::start(&settings).await;
    for (round, image) in images.iter().enumerate() {
        let moment = Duration::from_millis(random.number() % LATEST);
        interrupted += usize::from(kill_during(&mut proxy, round, image, moment).await);
        every_blob_is_whole(settings.cache());
        drop(proxy);
        proxy = restart(&settings).await;
        assert_eq!(files(&settings.cache().join("staging")), [] as [PathBuf; 0], "round {round}");
        pull(proxy.clients, &prefix(round), "1", image)
            .await
            .expect("the pull goes through after the restart");
        let earlier = usize::try_from(random.number()).expect("64 bits") % (round + 1);
        pull(proxy.clients, &prefix(earlier), "1", &images[earlier])
            .await
            .expect("what was there is still there");
    }
    assert!(interrupted >= images.len() / 2, "only {interrupted} of the kills fell into a pull");
}

pub(crate) async fn images(folder: &Path, count: u64, sizes: &[usize]) -> Vec<Image> {
    let mut images = Vec::new();
    for seed in 0..count {
        images.push(Image::make(folder, seed, sizes).await);
    }
    images
}

async fn registry(folder: &Path, images: &[Image]) -> Registry {
    let repositories: Vec<String> =
        (0..images.len()).map(|round| format!("acme/app{round}")).collect();
    let held: Vec<(&str, &Image)> = repositories.iter().map(String::as_str).zip(images).collect();
    Registry::holding(folder, Auth::Anonymous, &held).await
}

/// True if the pull was cut short.
async fn kill_during(proxy: &mut Proxy, round: usize, image: &Image, moment: Duration) -> bool {
    let (address, image) = (proxy.clients, image.clone());
    let mut pull = tokio::spawn(async move { pull(address, &prefix(round), "1", &image).await });
    let early = timeout(moment, &mut pull).await;
    proxy.process.signal(Signal::KILL);
    proxy.process.exit(PATIENCE).await;
    let outcome = match early {
        Ok(outcome) => outcome,
        Err(_) => pull.await,
    };
    outcome.expect("no complete answer had wrong bytes").is_err()
}

pub(crate) async fn restart(settings: &Settings) -> Proxy {
    let begun = Instant::now();
    let proxy = Proxy::start(settings).await;
    let taken = begun.elapsed();
    assert!(taken < Duration::from_secs(1), "ready only after {taken:?}");
    proxy
}

pub(crate) fn every_blob_is_whole(cache: &Path) {
    for path in files(&cache.join("blobs")) {
        let bytes = fs::read(&path).expect("nobody else is there");
        let name = path.file_name().and_then(|name| name.to_str()).expect("a digest");
        assert_eq!(Digest::of(Algorithm::Sha256, &bytes).hex(), name, "{}", path.display());
    }
}

/// Every file below `folder`; none if there is no such folder.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let entries: Vec<_> = fs::read_dir(folder)
        .map(|entries| entries.filter_map(Result::ok).collect())
        .unwrap_or_default();
    let paths = entries.into_iter().map(|entry| entry.path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn prefix(round: usize) -> String {
    format!("/v2/quay.io/acme/app{round}")
}
