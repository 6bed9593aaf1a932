//! kill -9 during a transfer, the start after it, and what lies on the disk between the two.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use roadstead::oci::{Algorithm, Digest};
use rustix::process::Signal;
use tokio::time::{Instant, timeout};

use super::image::Image;
use super::process::PATIENCE;
use super::proxy::{Proxy, Settings};
use super::registry::{Auth, Registry};

/// Layers of the images that are transferred meanwhile, in bytes.
pub(crate) const SIZES: &[usize] = &[300_000, 1 << 20, 3 << 20];

/// Kills the proxy when `transfer` has run for `moment`, and waits for both: how the transfer
/// ended.
pub(crate) async fn kill_during(
    proxy: &mut Proxy,
    moment: Duration,
    transfer: impl Future<Output = Result<(), String>> + Send + 'static,
) -> Result<(), String> {
    let mut transfer = tokio::spawn(transfer);
    let early = timeout(moment, &mut transfer).await;
    proxy.process.signal(Signal::KILL);
    proxy.process.exit(PATIENCE).await;
    let outcome = match early {
        Ok(outcome) => outcome,
        Err(_) => transfer.await,
    };
    outcome.expect("a transfer that is cut short is an error, and got no wrong bytes")
}

pub(crate) async fn restart(settings: &Settings) -> Proxy {
    let begun = Instant::now();
    let proxy = Proxy::start(settings).await;
    let taken = begun.elapsed();
    // A tenth of a second where nothing else runs; what is wrong would be a start that reads it all.
    assert!(taken < Duration::from_secs(5), "ready only after {taken:?}");
    proxy
}

pub(crate) fn every_blob_is_whole(cache: &Path) {
    for path in files(&cache.join("blobs")) {
        let bytes = fs::read(&path).expect("nobody else is there");
        let name = path.file_name().and_then(|name| name.to_str()).expect("a digest");
        assert_eq!(Digest::of(Algorithm::Sha256, &bytes).hex(), name, "{}", path.display());
    }
}

/// A registry that holds each image in a repository of its own; see [`prefix`].
pub(crate) async fn registry_of_each(folder: &Path, images: &[Image]) -> Registry {
    let names: Vec<String> = (0..images.len()).map(|nth| format!("acme/app{nth}")).collect();
    let held: Vec<(&str, &Image)> = names.iter().map(String::as_str).zip(images).collect();
    Registry::holding(folder, Auth::Anonymous, &held).await
}

/// Where the proxy has the image of this number, as Quay's.
pub(crate) fn prefix(nth: usize) -> String {
    format!("/v2/quay.io/acme/app{nth}")
}

/// Every file below `folder`; none if there is no such folder.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let entries: Vec<_> = fs::read_dir(folder)
        .map(|entries| entries.filter_map(Result::ok).collect())
        .unwrap_or_default();
    let paths = entries.into_iter().map(|entry| entry.path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}
