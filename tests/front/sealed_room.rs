//! What only a sealed upstream could give again stays, whatever needs room (SEAL-8).

use roadstead::config::MinFree;

use crate::support::content::Blob;
use crate::support::eventually;
use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, Setup, blob};

const MIB: u64 = 1 << 20;

/// Room for eight blobs of a mebibyte; three of `docker.io` are in it, which is sealed since.
async fn three_of_a_sealed_one() -> (Origin, Vec<Blob>, Proxy) {
    let origin = Origin::start().await;
    let blobs: Vec<_> = (0..30).map(|n| origin.blob("a/b", n, MIB)).collect();
    let mut setup = Setup::new();
    setup.upstream("docker.io", &origin);
    setup.upstream("quay.io", &origin);
    setup.config.cache.max_size = 8 * MIB + MIB / 2;
    let mut proxy = setup.start().await;
    for blob in &blobs[..3] {
        get(&proxy, "docker.io/a/b", blob).await;
        eventually("it is kept", || proxy.has_stored(&blob.digest)).await;
    }
    proxy.setup().config.upstreams[0].sealed = true;
    proxy.restart().await;
    (origin, blobs, proxy)
}

async fn get(proxy: &Proxy, repository: &str, wanted: &Blob) {
    assert_eq!(proxy.get(&blob(repository, &wanted.digest)).await.digest(), wanted.digest);
}

fn stored(proxy: &Proxy, blobs: &[Blob]) -> usize {
    blobs.iter().filter(|blob| proxy.has_stored(&blob.digest)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn others_go_for_what_comes() {
    let (_origin, blobs, proxy) = three_of_a_sealed_one().await;
    for _ in 0..2 {
        for blob in &blobs[3..] {
            get(&proxy, "quay.io/a/b", blob).await;
        }
    }
    eventually("others are kept", || stored(&proxy, &blobs[3..]) > 0).await;
    assert_eq!(stored(&proxy, &blobs[..3]), 3);
    assert!(stored(&proxy, &blobs[3..]) <= 5, "within max_size");
    assert!(proxy.metric("roadstead_evictions_total", &[("reason", "size")]) > 20);
    for blob in &blobs[..3] {
        get(&proxy, "docker.io/a/b", blob).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_when_the_disk_is_at_its_end_and_not_before() {
    let (_origin, blobs, mut proxy) = three_of_a_sealed_one().await;
    get(&proxy, "quay.io/a/b", &blobs[3]).await;
    eventually("it is kept", || proxy.has_stored(&blobs[3].digest)).await;
    let disk = rustix::fs::statvfs(proxy.directory()).expect("a file system");
    let available = disk.f_bavail * disk.f_frsize;
    // A third more than is free, so that new content finds no room, and others go.
    proxy.setup().config.cache.min_free = MinFree::Bytes(available / 3 * 4);
    proxy.restart().await;
    eventually("others go", || stored(&proxy, &blobs[3..]) == 0).await;
    assert_eq!(stored(&proxy, &blobs[..3]), 3);
    // Less than half of it is free. What the process does at its end it does every ten seconds.
    proxy.setup().config.cache.min_free = MinFree::Bytes(available * 8);
    proxy.restart().await;
    let loaded = || proxy.metric("roadstead_store_blobs", &[]) > 0 || stored(&proxy, &blobs) == 0;
    eventually("the index is loaded", loaded).await;
    proxy.stop().await;
    assert_eq!(stored(&proxy, &blobs), 0);
    proxy.start().await;
    assert_eq!(proxy.get(&blob("a/b", &blobs[0].digest)).await.status, 404);
}
