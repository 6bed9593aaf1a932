//! What is pushed arrives as it is, whichever way a client has of pushing, and is in the cache.

use bytes::Bytes;
use http::Method;
use roadstead::config::Writes;

use crate::support::content::Blob;
use crate::support::image::Image;
use crate::support::origin::{Dialect, Fault, Gate, Kind, On, Origin, Request};
use crate::support::proxy::{Proxy, blob, manifest};
use crate::support::push::{
    Client, anyone, ending, location, open_to_all, proxy_keeping_pushes, streamed, uploads, writes,
};
use crate::support::{eventually, soon};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// POST, PATCH of unknown length, empty PUT.
    Dockerd,
    /// POST, and a PUT with all of it.
    Containerd,
    /// POST, one PATCH after the other with `Content-Range`, PUT with the last bytes.
    Suite,
    /// POST with all of it.
    Whole,
}

const WAYS: [Way; 4] = [Way::Dockerd, Way::Containerd, Way::Suite, Way::Whole];

async fn push(client: Client<'_>, repository: &str, blob: &Blob, way: Way) {
    let done = match way {
        Way::Dockerd => {
            let begun = client.begin(repository).await;
            let sent = client.patch(&begun, streamed(&blob.content)).await;
            let range = format!("0-{}", blob.len() - 1);
            assert_eq!(
                (sent.status, sent.header("range")),
                (202, Some(range.as_str())),
                "{sent:?}"
            );
            assert!(sent.header("docker-upload-uuid").is_some(), "{sent:?}");
            client.put(&location(&sent), &blob.digest, Bytes::new()).await
        }
        Way::Containerd => client.blob(repository, blob).await,
        Way::Suite => {
            let mut at = client.begin(repository).await;
            let bytes = blob.bytes();
            let (half, last) = (bytes.len() / 2, bytes.len() - 3);
            for (first, end) in [(0, half), (half, last)] {
                let range = format!("{first}-{}", end - 1);
                let piece = bytes.slice(first..end);
                let sent =
                    client.send(Method::PATCH, &at, &[("content-range", &range)], piece).await;
                assert_eq!(sent.status, 202, "{sent:?}");
                at = location(&sent);
            }
            let range = format!("{last}-{}", bytes.len() - 1);
            let path = ending(&at, &blob.digest);
            client.send(Method::PUT, &path, &[("content-range", &range)], bytes.slice(last..)).await
        }
        Way::Whole => {
            client
                .send(Method::POST, &ending(&uploads(repository), &blob.digest), &[], blob.bytes())
                .await
        }
    };
    let at = format!("/v2/{repository}/blobs/{}", blob.digest);
    assert_eq!(
        (done.status, done.header("location")),
        (201, Some(at.as_str())),
        "{way:?}: {done:?}"
    );
    assert_eq!(done.header("docker-content-digest"), Some(blob.digest.as_str()));
}

async fn push_image(client: Client<'_>, image: &Image, way: Way) {
    for blob in image.layers.iter().chain([&image.config]) {
        push(client, "a/b", blob, way).await;
    }
    let taken = client.manifest("a/b", "v1", &image.manifest).await;
    assert_eq!(
        (taken.status, taken.header("docker-content-digest")),
        (201, Some(image.manifest.digest.as_str()))
    );
    assert_eq!(taken.header("location"), Some(manifest("a/b", &image.manifest.digest).as_str()));
}

/// The origin refuses bytes that are not what they are said to be, so a 201 means that all of it
/// arrived.
async fn pull(proxy: &Proxy, image: &Image) {
    let pulled = proxy.get(&manifest("a/b", "v1")).await;
    assert_eq!((pulled.status, &pulled.body), (200, &image.manifest.bytes));
    assert_eq!(pulled.header("content-type"), Some(image.manifest.media_type.as_str()));
    for layer in image.layers.iter().chain([&image.config]) {
        assert_eq!(proxy.get(&blob("a/b", &layer.digest)).await.body, layer.bytes());
    }
}

fn reads(origin: &Origin) -> usize {
    origin
        .count(|request| matches!(request.kind, Kind::Blob | Kind::Manifest) && !request.is_write())
}

fn whole() -> Dialect {
    Dialect { whole: true, ..Dialect::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn whichever_way_an_image_is_pushed_it_arrives_and_a_pull_costs_nothing() {
    for (way, seed) in WAYS.into_iter().zip(1..) {
        let origin = Origin::start().await;
        origin.behave(whole());
        let proxy = proxy_keeping_pushes(&origin).await;
        let image = Image::new(seed, &[300_000, 40, 2_500_000]);
        push_image(anyone(&proxy), &image, way).await;
        pull(&proxy, &image).await;
        assert_eq!(reads(&origin), 0, "{way:?}");
        assert_eq!(proxy.staged_files(), 0);
        origin.stop().await;
        pull(&proxy, &image).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_only_passed_is_fetched_when_it_is_wanted() {
    for (way, seed) in WAYS.into_iter().zip(10..) {
        let origin = Origin::start().await;
        origin.behave(whole());
        let proxy = open_to_all(&origin, Writes::Passed).start().await;
        let image = Image::new(seed, &[300_000]);
        push_image(anyone(&proxy), &image, way).await;
        assert!(
            !proxy.has_stored(&image.layers[0].digest) && !proxy.has_stored(&image.manifest.digest)
        );
        assert_eq!((reads(&origin), proxy.metric("roadstead_store_blobs", &[])), (0, 0), "{way:?}");
        pull(&proxy, &image).await;
        assert_eq!(origin.blob_gets(&image.layers[0].digest), 1, "{way:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lengths_are_told_upstream_as_they_were_told_to_us() {
    let origin = Origin::start().await;
    let proxy = proxy_keeping_pushes(&origin).await;
    let layer = Blob::seeded(1, 100_000);
    push(anyone(&proxy), "a/b", &layer, Way::Dockerd).await;
    push(anyone(&proxy), "a/b", &layer, Way::Containerd).await;
    let sent = |method: &str| {
        let of = |request: &Request| request.method == method && request.kind == Kind::Upload;
        let requests = origin.requests().into_iter().filter(of);
        let framed = |request: Request| {
            let header = |name| request.header(name).map(str::to_owned);
            (header("content-length"), header("transfer-encoding"), request.received)
        };
        requests.map(framed).collect::<Vec<_>>()
    };
    assert_eq!(sent("PATCH"), [(None, Some("chunked".to_owned()), 100_000)]);
    // Some want to be told that there is nothing, too.
    let known = |length: u64| (Some(length.to_string()), None, length);
    assert_eq!(sent("PUT"), [known(0), known(100_000)]);
    assert_eq!(sent("POST"), [known(0), known(0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_registry_is_not_pinged_before_every_chunk() {
    let origin = Origin::start().await;
    let proxy = proxy_keeping_pushes(&origin).await;
    push(anyone(&proxy), "a/b", &Blob::seeded(1, 100_000), Way::Suite).await;
    assert!(origin.count(|request| request.kind == Kind::Ping) <= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_of_an_upload_is_told_and_an_upload_can_be_given_up() {
    let origin = Origin::start().await;
    let proxy = proxy_keeping_pushes(&origin).await;
    let (client, layer) = (anyone(&proxy), Blob::seeded(1, 100_000));
    let begun = client.begin("a/b").await;
    let sent = client.patch(&begun, layer.bytes().slice(..60_000)).await;
    let status = proxy.get(&location(&sent)).await;
    assert_eq!((status.status, status.header("range")), (204, Some("0-59999")));
    let done = client.put(&location(&status), &layer.digest, layer.bytes().slice(60_000..)).await;
    assert_eq!((done.status, proxy.has_stored(&layer.digest)), (201, true));

    let begun = client.begin("a/b").await;
    let sent = client.patch(&begun, layer.bytes()).await;
    assert_eq!(proxy.staged_files(), 1);
    assert_eq!(client.delete(&location(&sent)).await.status, 204);
    eventually("nothing is left of it", || proxy.staged_files() == 0).await;
    assert_eq!(client.put(&location(&sent), &layer.digest, Bytes::new()).await.refusal().0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_side_by_side_do_not_mix() {
    let origin = Origin::start().await;
    let proxy = proxy_keeping_pushes(&origin).await;
    let client = anyone(&proxy);
    let layers = [Blob::seeded(1, 900_000), Blob::seeded(2, 900_000)];
    let mut at = [client.begin("a/b").await, client.begin("a/b").await];
    for part in 0..9 {
        for (at, layer) in at.iter_mut().zip(&layers) {
            let sent =
                client.patch(at, layer.content.slice(part * 100_000..(part + 1) * 100_000)).await;
            *at = location(&sent);
        }
    }
    for (at, layer) in at.iter().zip(&layers) {
        assert_eq!(client.put(at, &layer.digest, Bytes::new()).await.status, 201);
        assert_eq!(proxy.get(&blob("a/b", &layer.digest)).await.body, layer.bytes());
        assert_eq!(origin.blob_gets(&layer.digest), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_uploads_than_are_kept_track_of_go_on_without_the_cache() {
    let origin = Origin::start().await;
    let proxy = proxy_keeping_pushes(&origin).await;
    let client = anyone(&proxy);
    for _ in 0..256 {
        client.begin("a/b").await;
    }
    let layer = Blob::seeded(1, 100_000);
    push(client, "a/b", &layer, Way::Dockerd).await;
    assert!(!proxy.has_stored(&layer.digest) && proxy.staged_files() == 0);
    assert_eq!(proxy.get(&blob("a/b", &layer.digest)).await.body, layer.bytes());
    assert_eq!(origin.blob_gets(&layer.digest), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_are_only_passed_take_no_place_from_others() {
    let (plain, origin) = (Origin::start().await, Origin::start().await);
    let mut setup = open_to_all(&origin, Writes::Kept);
    setup.upstream("plain.test", &plain).writes = Writes::Passed;
    let proxy = setup.start().await;
    let client = anyone(&proxy);
    for _ in 0..256 {
        client.begin("plain.test/a").await;
    }
    let layer = Blob::seeded(1, 1_000);
    push(client, "a/b", &layer, Way::Dockerd).await;
    assert!(proxy.has_stored(&layer.digest));
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_take_the_room_of_what_they_have_sent() {
    let origin = Origin::start().await;
    let mut setup = open_to_all(&origin, Writes::Kept);
    setup.config.cache.max_size = 64 << 20;
    let proxy = setup.start().await;
    let kept: Vec<Blob> = (0..6).map(|seed| origin.blob("a/b", seed, 10 << 20)).collect();
    for layer in &kept {
        assert_eq!(proxy.get(&blob("a/b", &layer.digest)).await.digest(), layer.digest);
        eventually("it is stored", || proxy.has_stored(&layer.digest)).await;
    }
    for _ in 0..16 {
        let location = anyone(&proxy).begin("c/d").await;
        assert_eq!(anyone(&proxy).patch(&location, "x").await.status, 202);
    }
    assert_eq!(proxy.staged_files(), 16, "they are kept as they come");
    assert!(kept.iter().all(|layer| proxy.has_stored(&layer.digest)));
    assert_eq!(proxy.metric("roadstead_evictions_total", &[]), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_after_a_restart() {
    let origin = Origin::start().await;
    let mut proxy = proxy_keeping_pushes(&origin).await;
    let layer = Blob::seeded(1, 100_000);
    let begun = anyone(&proxy).begin("a/b").await;
    let sent = anyone(&proxy).patch(&begun, layer.bytes().slice(..50_000)).await;
    proxy.restart().await;
    let done =
        anyone(&proxy).put(&location(&sent), &layer.digest, layer.bytes().slice(50_000..)).await;
    assert_eq!((done.status, proxy.has_stored(&layer.digest)), (201, false));
    assert_eq!(proxy.get(&blob("a/b", &layer.digest)).await.body, layer.bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_the_disk_has_no_room_for_arrives_all_the_same() {
    let origin = Origin::start().await;
    let mut setup = open_to_all(&origin, Writes::Kept);
    setup.config.cache.max_size = 1 << 20;
    let proxy = setup.start().await;
    let layer = Blob::seeded(1, 3 << 20);
    for way in [Way::Dockerd, Way::Containerd, Way::Suite] {
        push(anyone(&proxy), "a/b", &layer, way).await;
        assert!(!proxy.has_stored(&layer.digest) && proxy.staged_files() == 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_in_the_middle_has_its_bytes_on_disk_and_nobody_can_read_them() {
    let origin = Origin::start().await;
    let proxy = proxy_keeping_pushes(&origin).await;
    let (layer, gate) = (Blob::seeded(1, 1 << 20), Gate::new());
    let begun = anyone(&proxy).begin("a/b").await;
    origin.fault(On::kind(Kind::Upload).method("PUT"), Fault::HoldHead(gate.clone()));
    let ended = async {
        let done = anyone(&proxy).put(&begun, &layer.digest, layer.bytes()).await;
        assert_eq!(done.status, 201);
    };
    let watched = async {
        soon("the registry has it", eventually("the gate is reached", || gate.reached() == 1))
            .await;
        origin.remove_blob("a/b", &layer.digest);
        assert_eq!(proxy.get(&blob("a/b", &layer.digest)).await.status, 404);
        gate.open();
    };
    tokio::join!(ended, watched);
    assert!(writes(&origin) > 0 && proxy.has_stored(&layer.digest));
}
