//! Many pushes and many pulls at the same time: each of them succeeds, and gets the right bytes.

use futures_util::future::join_all;
use tempfile::TempDir;

use crate::support::http_client::{client, pull};
use crate::support::image::Image;
use crate::support::process::ready;
use crate::support::proxy::{Proxy, Settings};
use crate::support::push_client::PushClient;
use crate::support::registry::{Auth, NEED, Registry};

const CLIENTS: u64 = 32;

#[tokio::test]
async fn pushes_of_many_images_and_pulls_beside_them_all_succeed() {
    if !ready(&[NEED]) {
        return;
    }
    let scratch = TempDir::new().expect("the system has a temporary folder");
    let images = Image::make_each(CLIENTS, &[10_000, 300_000]);
    let registry =
        Registry::holding(scratch.path(), Auth::Anonymous, &[("acme/old", &images[0])]).await;
    let proxy = Proxy::start(&Settings::taking_pushes(scratch.path(), registry.address)).await;
    let pushes = images.iter().enumerate().map(async |(number, image)| {
        let repository = format!("acme/new{number}");
        let push_client = PushClient::to(&format!("http://{}", proxy.clients), client(), None);
        push_client.push_image(&repository, "1", image).await?;
        pull(proxy.clients, &format!("/v2/{repository}"), "1", image).await
    });
    let pulls =
        images.iter().map(async |_| pull(proxy.clients, "/v2/acme/old", "1", &images[0]).await);
    let outcomes = tokio::join!(join_all(pushes), join_all(pulls));
    let failures: Vec<String> =
        outcomes.0.into_iter().chain(outcomes.1).filter_map(Result::err).collect();
    assert!(failures.is_empty(), "{failures:#?}");
}
