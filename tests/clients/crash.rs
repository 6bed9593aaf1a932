//! kill -9 at any moment: the next start is quick and clean, and no wrong byte is ever served.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::support::crash::{SIZES, every_blob_is_whole, files, kill_during, restart};
use crate::support::http_client::pull;
use crate::support::image::{Image, Random};
use crate::support::process::ready;
use crate::support::proxy::{Proxy, Settings};
use crate::support::registry::{Auth, NEED, Registry};
use crate::support::tcp_forwarder::TcpForwarder;

const ROUNDS: u64 = 20;
/// A pull of one of the images takes about 400 ms at this rate.
const RATE: u32 = 8 << 20;
const LATEST: u64 = 380;

#[tokio::test]
async fn killed_during_pulls_it_starts_clean_and_pulls_again() {
    if !ready(&[NEED]) {
        return;
    }
    let scratch = TempDir::new().expect("the system has a temporary folder");
    let images = Image::make_each(scratch.path(), ROUNDS, SIZES).await;
    let registry = registry(scratch.path(), &images).await;
    let forwarder = TcpForwarder::limiting_answers(registry.address, RATE).await;
    let settings = Settings::at(scratch.path(), &registry, forwarder.address);
    let mut random = Random::new(9);
    let mut interrupted = 0;
    let mut proxy = Proxy::start(&settings).await;
    for (round, image) in images.iter().enumerate() {
        let moment = Duration::from_millis(random.number() % LATEST);
        let (address, pulled) = (proxy.clients, image.clone());
        let transfer = async move { pull(address, &prefix(round), "1", &pulled).await };
        interrupted += usize::from(kill_during(&mut proxy, moment, transfer).await.is_err());
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

async fn registry(folder: &Path, images: &[Image]) -> Registry {
    let repositories: Vec<String> =
        (0..images.len()).map(|round| format!("acme/app{round}")).collect();
    let held: Vec<(&str, &Image)> = repositories.iter().map(String::as_str).zip(images).collect();
    Registry::holding(folder, Auth::Anonymous, &held).await
}

fn prefix(round: usize) -> String {
    format!("/v2/quay.io/acme/app{round}")
}
