//! kill -9 at any moment of a push: the push goes through after the restart, and nothing half done
//! is left or served.

use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;

use crate::support::crash::{SIZES, every_blob_is_whole, files, kill_during, restart};
use crate::support::http_client::{client, get_exactly, pull};
use crate::support::image::{Image, Random};
use crate::support::process::ready;
use crate::support::proxy::{Proxy, Settings};
use crate::support::push_client::PushClient;
use crate::support::registry::{Auth, NEED, Registry};
use crate::support::tcp_forwarder::TcpForwarder;

/// How often it is killed, if the variable does not say.
const KILLS: u64 = 5;
const VARIABLE: &str = "KILLS";
/// A push of one of the images takes about half a second at this rate.
const RATE: u32 = 8 << 20;
const LATEST: u64 = 500;

#[tokio::test]
async fn killed_during_pushes_it_starts_clean_and_takes_them_again() {
    if !ready(&[NEED]) {
        return;
    }
    let scratch = TempDir::new().expect("the system has a temporary folder");
    let kills =
        std::env::var(VARIABLE).map_or(KILLS, |kills| kills.parse().expect("a number of kills"));
    let images = Image::make_each(scratch.path(), kills, SIZES).await;
    let registry = Registry::holding(scratch.path(), Auth::Anonymous, &[]).await;
    let forwarder = TcpForwarder::limiting_requests(registry.address, RATE).await;
    let settings = Settings::taking_pushes(scratch.path(), &registry, forwarder.address);
    let staging = settings.cache().join("staging");
    let mut random = Random::new(10);
    let (mut during_uploads, mut during_pushes) = (0, 0);
    let mut proxy = Proxy::start(&settings).await;
    for (round, image) in images.iter().enumerate() {
        let moment = Duration::from_millis(random.number() % LATEST);
        let (client, pushed) = (push_client(&proxy), image.clone());
        let transfer = async move { client.push_image(&repository(round), "1", &pushed).await };
        let broken_off = kill_during(&mut proxy, moment, transfer).await.err();
        during_pushes += usize::from(broken_off.is_some());
        during_uploads += usize::from(broken_off.is_some_and(|at| at.contains("/blobs/uploads/")));
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
    println!("{during_uploads} of {kills} kills fell into an upload, {during_pushes} into a push");
    assert!(
        during_uploads >= images.len() / 3,
        "only {during_uploads} of the kills fell into an upload"
    );
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
