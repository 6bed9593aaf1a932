//! kill -9 at any moment: the next start is quick and clean, and no wrong byte is ever served.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;

use crate::campaigns::how_often;
use crate::support::crash::{
    SIZES, every_blob_is_whole, files, kill_during, prefix, registry_of_each, restart,
};
use crate::support::http_client::pull;
use crate::support::image::{Image, Random};
use crate::support::process::ready;
use crate::support::proxy::{Proxy, Settings};
use crate::support::registry::NEED;
use crate::support::tcp_forwarder::TcpForwarder;

/// How often it is killed, if `KILLS` does not say.
const KILLS: u64 = 20;
/// With one cache. All of it is hashed after each kill, so a long campaign goes on with a new one.
const IN_ONE_CACHE: u64 = 20;
/// A pull of one of the images takes about 400 ms at this rate.
const RATE: u32 = 8 << 20;
const LATEST: u64 = 380;

#[tokio::test]
async fn killed_during_pulls_it_starts_clean_and_pulls_again() {
    if !ready(&[NEED]) {
        return;
    }
    let scratch = TempDir::new().expect("the system has a temporary folder");
    let kills = how_often("KILLS", KILLS);
    let images = Image::make_each(scratch.path(), kills.min(IN_ONE_CACHE), SIZES).await;
    let registry = registry_of_each(scratch.path(), &images).await;
    let forwarder = TcpForwarder::limiting_answers(registry.address, RATE).await;
    let mut random = Random::new(9);
    let (mut done, mut interrupted) = (0, 0);
    while done < kills {
        let folder = scratch.path().join(format!("after-{done}"));
        let settings = Settings::at(&folder, &registry, forwarder.address);
        let images =
            &images[..usize::try_from(kills - done).unwrap_or(usize::MAX).min(images.len())];
        interrupted += kill_in_one_cache(&settings, images, &mut random).await;
        done += u64::try_from(images.len()).expect("64 bits");
        fs::remove_dir_all(&folder).expect("the folder is the test's own");
    }
    println!(
        "kills during pulls: {done}, {interrupted} of them in a pull, no wrong blob, none lost"
    );
    assert!(interrupted >= kills / 2, "only {interrupted} of the kills fell into a pull");
}

/// One kill for each image, and how many of them fell into its pull.
async fn kill_in_one_cache(settings: &Settings, images: &[Image], random: &mut Random) -> u64 {
    let mut interrupted = 0;
    let mut proxy = Proxy::start(settings).await;
    for (round, image) in images.iter().enumerate() {
        let moment = Duration::from_millis(random.number() % LATEST);
        let (address, pulled) = (proxy.clients, image.clone());
        let transfer = async move { pull(address, &prefix(round), "1", &pulled).await };
        interrupted += u64::from(kill_during(&mut proxy, moment, transfer).await.is_err());
        every_blob_is_whole(settings.cache());
        drop(proxy);
        proxy = restart(settings).await;
        assert_eq!(files(&settings.cache().join("staging")), [] as [PathBuf; 0], "round {round}");
        pull(proxy.clients, &prefix(round), "1", image)
            .await
            .expect("the pull goes through after the restart");
        let earlier = usize::try_from(random.number()).expect("64 bits") % (round + 1);
        pull(proxy.clients, &prefix(earlier), "1", &images[earlier])
            .await
            .expect("what was there is still there");
    }
    interrupted
}
