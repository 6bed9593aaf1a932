//! A disk that fails in the middle of a pull, from any call on, and heals again.

use libc::{EIO, ENOSPC, EROFS};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::crash::{every_blob_is_whole, prefix, restart};
use crate::support::http_client::pull;
use crate::support::image::{Image, Random};
use crate::support::memory_registry::MemoryRegistry;
use crate::support::process::{Need, PATIENCE, ready};
use crate::support::proxy::{Proxy, Settings};

use super::fault_disk::{FaultDisk, Strike};
use super::{how_often, seed};

/// Faults of each kind in the short campaign.
const FAULTS: u64 = 4;
/// Calls of a pull that a fault may begin with.
const CALLS: u64 = 60;
const SIZES: &[usize] = &[200_000, 700_000];
const RATE: u32 = 32 << 20;

#[tokio::test]
async fn a_disk_that_fails_costs_no_pull_and_no_wrong_byte() {
    if !ready(&[Need::Program("cc")]) {
        return;
    }
    let scratch = TempDir::new().expect("the system has a temporary folder");
    let faults = how_often("FAULTS", FAULTS);
    let images = Image::make_each(faults + 1, SIZES);
    let registry = MemoryRegistry::holding(&images, RATE).await;
    let disk = FaultDisk::make(scratch.path()).await;
    let seed = seed(12);
    let mut random = Random::new(seed);
    for (word, errno) in [("ENOSPC", ENOSPC), ("EIO", EIO), ("EROFS", EROFS)] {
        let settings = Settings::reading(&scratch.path().join(word), "quay.io", registry.address);
        let proxy = disk.proxy(&settings).await;
        let pulled = async |nth: usize| pull(proxy.clients, &prefix(nth), "1", &images[nth]).await;
        pulled(0).await.expect("the disk is well");
        let mut failed = 0;
        for nth in 1..images.len() {
            let point = 1 + random.number() % CALLS;
            // One call that fails by itself is the harder one: what comes after it seems to be well.
            let strike = if nth % 2 == 0 { Strike::Once(errno) } else { Strike::Errno(errno) };
            disk.strike(point, strike);
            if let Err(error) = pulled(nth).await {
                println!("{word} from call {point} on: {error}");
                failed += 1;
            }
            pulled(0).await.expect("what is here is served whatever the disk does");
            disk.heal();
            pulled(nth).await.unwrap_or_else(|error| panic!("{word}, healed: {error}"));
        }
        println!(
            "disk faults, seed {seed}: {faults} of {word}, half of them for one call; {failed} pulls failed, no wrong byte"
        );
        assert_eq!(failed, 0, "{word}");
        drop(proxy);
        every_blob_is_whole(settings.cache());
        let proxy = restart(&settings).await;
        pull(proxy.clients, &prefix(0), "1", &images[0]).await.expect("served after a restart");
    }
}

/// The first start finds a disk that fails; what it finds of records is not the less for it.
#[tokio::test]
async fn a_start_on_a_disk_that_fails_loses_no_records() {
    if !ready(&[Need::Program("cc")]) {
        return;
    }
    let scratch = TempDir::new().expect("the system has a temporary folder");
    let images = Image::make_each(1, SIZES);
    let registry = MemoryRegistry::holding(&images, RATE).await;
    let disk = FaultDisk::make(scratch.path()).await;
    let settings = Settings::reading(&scratch.path().join("cached"), "quay.io", registry.address);
    let pulled = async |proxy: &Proxy| {
        pull(proxy.clients, &prefix(0), "1", &images[0]).await.expect("it is served");
    };
    let proxy = disk.proxy(&settings).await;
    pulled(&proxy).await;
    pulled(&proxy).await;
    stop(proxy).await;
    drop(registry);
    for start in 0..2 {
        disk.strike(1, Strike::Errno(EIO));
        let proxy = disk.proxy(&settings).await;
        pulled(&proxy).await;
        let files = std::fs::read_dir(settings.cache()).expect("the cache").filter_map(Result::ok);
        let names: Vec<String> =
            files.map(|file| file.file_name().to_string_lossy().into_owned()).collect();
        assert!(!names.iter().any(|name| name.contains("damaged")), "start {start}: {names:?}");
        stop(proxy).await;
    }
    disk.heal();
    let proxy = disk.proxy(&settings).await;
    pulled(&proxy).await;
}

async fn stop(mut proxy: Proxy) {
    proxy.process.signal(Signal::TERM);
    proxy.process.exit(PATIENCE).await;
}
