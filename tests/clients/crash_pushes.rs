//! kill -9 at any moment of a push: the push goes through after the restart, and nothing half done
//! is left or served.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::campaigns::how_often;
use crate::support::crash::{SIZES, every_blob_is_whole, files, kill_during, restart};
use crate::support::http_client::{client, get_exactly, pull};
use crate::support::image::{Image, Random};
use crate::support::process::ready;
use crate::support::proxy::{Proxy, Settings};
use crate::support::push_client::PushClient;
use crate::support::registry::{Auth, NEED, Registry};
use crate::support::tcp_forwarder::TcpForwarder;

/// How often it is killed, if `KILLS` does not say.
const KILLS: u64 = 5;
/// With one cache, all of which is hashed after each kill.
const IN_ONE_CACHE: u64 = 20;
/// A push of one of the images takes about half a second at this rate.
const RATE: u32 = 8 << 20;
const LATEST: u64 = 500;

#[tokio::test]
async fn killed_during_pushes_it_starts_clean_and_takes_them_again() {
    if !ready(&[NEED]) {
        return;
    }
    let scratch = TempDir::new().expect("the system has a temporary folder");
    let kills = how_often("KILLS", KILLS);
    let images = Image::make_each(scratch.path(), kills.min(IN_ONE_CACHE), SIZES).await;
    let mut random = Random::new(10);
    let (mut done, mut fell) = (0, Fell::default());
    while done < kills {
        let folder = scratch.path().join(format!("after-{done}"));
        fs::create_dir(&folder).expect("the folder is the test's own");
        let left = usize::try_from(kills - done).unwrap_or(usize::MAX);
        let images = &images[..left.min(images.len())];
        kill_in_one_cache(&folder, images, &mut random, &mut fell).await;
        done += u64::try_from(images.len()).expect("64 bits");
        fs::remove_dir_all(&folder).expect("the folder is the test's own");
    }
    let Fell { into_uploads, into_pushes } = fell;
    println!(
        "kills during pushes: {done}, {into_pushes} of them in a push, {into_uploads} in an upload, no wrong blob, none lost"
    );
    assert!(into_uploads >= kills / 3, "only {into_uploads} of the kills fell into an upload");
}

/// What the kills have hit.
#[derive(Default)]
struct Fell {
    into_uploads: u64,
    into_pushes: u64,
}

/// One kill for each image, with a registry that has nothing of them yet.
async fn kill_in_one_cache(folder: &Path, images: &[Image], random: &mut Random, fell: &mut Fell) {
    let registry = Registry::holding(folder, Auth::Anonymous, &[]).await;
    let forwarder = TcpForwarder::limiting_requests(registry.address, RATE).await;
    let settings = Settings::taking_pushes(folder, &registry, forwarder.address);
    let staging = settings.cache().join("staging");
    let mut proxy = Proxy::start(&settings).await;
    for (round, image) in images.iter().enumerate() {
        let moment = Duration::from_millis(random.number() % LATEST);
        let (client, pushed) = (push_client(&proxy), image.clone());
        let transfer = async move { client.push_image(&repository(round), "1", &pushed).await };
        let broken_off = kill_during(&mut proxy, moment, transfer).await.err();
        fell.into_pushes += u64::from(broken_off.is_some());
        fell.into_uploads += u64::from(broken_off.is_some_and(|at| at.contains("/blobs/uploads/")));
        every_blob_is_whole(settings.cache());
        drop(proxy);
        proxy = restart(&settings).await;
        assert_eq!(files(&staging), [] as [PathBuf; 0], "round {round}");
        nothing_wrong_is_served(&proxy, round, image).await;
        push_client(&proxy)
            .push_image(&repository(round), "1", image)
            .await
            .expect("the push goes through after the restart");
        assert_eq!(files(&staging), [] as [PathBuf; 0], "round {round}, after the push");
        let earlier = usize::try_from(random.number()).expect("64 bits") % (round + 1);
        for there in [round, earlier] {
            pull(proxy.clients, &prefix(there), "1", &images[there])
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
