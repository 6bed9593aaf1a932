//! Power cuts during pulls: what the file system had not written is gone, and nothing that is left
//! is wrong.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::crash::{SeenBlobs, every_blob_is_whole, prefix, restart};
use crate::support::http_client::pull;
use crate::support::image::{Image, Random};
use crate::support::memory_registry::MemoryRegistry;
use crate::support::process::{Need, PATIENCE, ready, run};
use crate::support::proxy::{Proxy, Settings};

use super::{compile, how_often, seed};

/// Cuts of the short campaign.
const CUTS: u64 = 4;
const SIZES: &[usize] = &[300_000, 1 << 20];
/// A pull of one of the images takes about 200 ms at this rate; the file system writes what is not
/// synced 5 s later.
const RATE: u32 = 8 << 20;
const LATEST: u64 = 400;

#[tokio::test]
async fn a_power_cut_leaves_nothing_that_is_wrong() {
    if !ready(&[Need::Root, Need::Program("cc"), Need::Program("mkfs.ext4")]) {
        return;
    }
    let scratch = TempDir::new().expect("the system has a temporary folder");
    let cuts = how_often("CUTS", CUTS);
    let images = Image::make_each(cuts, SIZES);
    let registry = MemoryRegistry::holding(&images, RATE).await;
    let cut = compile("power_cut.c", scratch.path(), &[]).await;
    let mut disk = Disk::make(scratch.path()).await;
    let cache = disk.folder.join("cache");
    let settings = Settings::reading(scratch.path(), "quay.io", registry.address)
        .with_cache(cache.to_str().expect("UTF-8"));
    let seed = seed(11);
    let mut random = Random::new(seed);
    let mut blobs = SeenBlobs::default();
    let mut interrupted = 0;
    let mut proxy = Proxy::start(&settings).await;
    for (nth, image) in images.iter().enumerate() {
        let moment = Duration::from_millis(random.number() % LATEST);
        let (address, path) = (proxy.clients, prefix(nth));
        let (pulled, of) = (image.clone(), path.clone());
        let mut transfer = tokio::spawn(async move { pull(address, &of, "1", &pulled).await });
        let early = tokio::time::timeout(moment, &mut transfer).await;
        let mut power = Command::new(&cut);
        power.arg(&disk.folder);
        run("power_cut", scratch.path(), power).await;
        proxy.process.signal(Signal::KILL);
        proxy.process.exit(PATIENCE).await;
        interrupted += usize::from(early.is_err());
        if early.is_err() {
            let _ = transfer.await.expect("no wrong bytes");
        }
        drop(proxy);
        disk.remount().await;
        // What is seen now has been on the disk, and can be lost no more.
        blobs.look_for_all(&cache);
        proxy = restart(&settings).await;
        pull(proxy.clients, &path, "1", image).await.expect("pulled after the cut");
        let earlier = random.index_below(nth + 1);
        pull(proxy.clients, &prefix(earlier), "1", &images[earlier])
            .await
            .expect("pulled before the cut");
    }
    drop(proxy);
    every_blob_is_whole(&cache);
    println!(
        "power cuts, seed {seed}: {cuts}, {interrupted} of them during a pull, no wrong blob, none lost"
    );
}

/// A file system of its own, in a file.
struct Disk {
    image: PathBuf,
    folder: PathBuf,
    scratch: PathBuf,
}

impl Disk {
    async fn make(scratch: &Path) -> Self {
        let (image, folder) = (scratch.join("disk.img"), scratch.join("disk"));
        let file = std::fs::File::create(&image).expect("the folder is the test's own");
        file.set_len(1 << 30).expect("a sparse file");
        std::fs::create_dir(&folder).expect("the folder is the test's own");
        let mut format = Command::new("mkfs.ext4");
        format.arg("-q").arg(&image);
        run("mkfs.ext4", scratch, format).await;
        let disk = Self { image, folder, scratch: scratch.to_owned() };
        disk.mount().await;
        disk
    }

    async fn mount(&self) {
        let mut mount = Command::new("mount");
        mount.args(["-o", "loop"]).arg(&self.image).arg(&self.folder);
        run("mount", &self.scratch, mount).await;
    }

    async fn remount(&mut self) {
        let mut unmount = Command::new("umount");
        unmount.arg(&self.folder);
        run("umount", &self.scratch, unmount).await;
        self.mount().await;
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: whatever a failed test has left open keeps it until it is gone.
        let _ = Command::new("umount").arg("--lazy").arg(&self.folder).status();
    }
}
