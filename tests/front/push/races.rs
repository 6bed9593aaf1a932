//! Answers that were on their way while something was written, and clients that did not wait for
//! theirs (UPL-8).

use std::time::Duration;

use roadstead::config::Writes;

use crate::support::image::Image;
use crate::support::origin::{Fault, Gate, Kind, On, Origin};
use crate::support::proxy::{Proxy, blob, manifest};
use crate::support::push::{Client, anyone, open_to_all, proxy_keeping_pushes};
use crate::support::{eventually, soon};

/// HEADs of a tag that wait at a gate with the answer that was right when they were asked.
struct Late {
    /// Answers as long as it is held.
    _origin: Origin,
    proxy: Proxy,
    gate: Gate,
}

impl Late {
    async fn start(writes: Writes, image: &Image) -> Self {
        let origin = Origin::start().await;
        let proxy = open_to_all(&origin, writes).start().await;
        anyone(&proxy).image("a/b", "v1", image).await;
        // Whatever was kept is old by now.
        proxy.clock().advance(Duration::from_mins(6));
        let gate = Gate::new();
        origin.fault(On::kind(Kind::Manifest).heads().once(), Fault::HoldHead(gate.clone()));
        Self { _origin: origin, proxy, gate }
    }

    /// What `pull` is answered after `write`, while a HEAD from before it is still on its way, and
    /// after that has come.
    async fn around(&self, write: impl AsyncFnOnce(Client<'_>), pull: impl AsyncFn(&Proxy)) {
        let path = manifest("a/b", "v1");
        let early = self.proxy.head(&path);
        let rest = async {
            eventually("the HEAD is asked", || self.gate.reached() == 1).await;
            self.proxy.clock().advance(Duration::from_millis(1));
            write(anyone(&self.proxy)).await;
            self.proxy.clock().advance(Duration::from_millis(1));
            let pulled = tokio::time::timeout(Duration::from_secs(2), pull(&self.proxy)).await;
            pulled.expect("nobody waits for an answer that is too old");
            self.gate.open();
        };
        tokio::join!(early, rest);
        pull(&self.proxy).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_from_before_a_push_that_comes_after_it_changes_nothing() {
    for writes in [Writes::Kept, Writes::Passed] {
        let (first, second) = (Image::new(1, &[1_000]), Image::new(2, &[1_000]));
        let late = Late::start(writes, &first).await;
        let write = async |client: Client<'_>| client.image("a/b", "v1", &second).await;
        let pull = async |proxy: &Proxy| {
            let digest = Some(second.manifest.digest.as_str());
            assert_eq!(
                proxy.head(&manifest("a/b", "v1")).await.header("docker-content-digest"),
                digest,
                "{writes:?}"
            );
            assert_eq!(
                proxy.get(&manifest("a/b", "v1")).await.body,
                second.manifest.bytes,
                "{writes:?}"
            );
        };
        late.around(write, pull).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_from_before_a_delete_that_comes_after_it_changes_nothing() {
    for writes in [Writes::Kept, Writes::Passed] {
        let image = Image::new(1, &[1_000]);
        for path in [manifest("a/b", "v1"), manifest("a/b", &image.manifest.digest)] {
            let late = Late::start(writes, &image).await;
            let write =
                async |client: Client<'_>| assert_eq!(client.delete(&path).await.status, 202);
            let whole = path.contains(':');
            let pull = async |proxy: &Proxy| {
                assert_eq!(
                    proxy.get(&manifest("a/b", "v1")).await.status,
                    404,
                    "{writes:?} {path}"
                );
                let by_digest = proxy.get(&manifest("a/b", &image.manifest.digest)).await.status;
                assert_eq!(by_digest, if whole { 404 } else { 200 }, "{writes:?} {path}");
            };
            late.around(write, pull).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_is_deleted_meanwhile_is_not_proven_by_an_older_answer() {
    let origin = Origin::start().await;
    let proxy = proxy_keeping_pushes(&origin).await;
    let image = Image::new(1, &[1_000]);
    let path = blob("a/b", &image.layers[0].digest);
    anyone(&proxy).image("a/b", "v1", &image).await;
    let gate = Gate::new();
    origin.fault(On::kind(Kind::Blob).heads().once(), Fault::HoldHead(gate.clone()));
    let early = proxy.head(&path);
    let rest = async {
        eventually("the HEAD is asked", || gate.reached() == 1).await;
        proxy.clock().advance(Duration::from_millis(1));
        assert_eq!(anyone(&proxy).delete(&path).await.status, 202);
        gate.open();
    };
    tokio::join!(early, rest);
    assert_eq!(proxy.get(&path).await.status, 404);
}

/// Nothing was there when it was asked for, and the answer says so when it is.
#[tokio::test(flavor = "multi_thread")]
async fn an_absence_from_before_a_push_that_comes_after_it_is_not_believed() {
    for writes in [Writes::Kept, Writes::Passed] {
        let image = Image::new(1, &[1_000]);
        let by_digest = manifest("a/b", &image.manifest.digest);
        for path in [manifest("a/b", "v1"), by_digest, blob("a/b", &image.layers[0].digest)] {
            let origin = Origin::start().await;
            let proxy = open_to_all(&origin, writes).start().await;
            let gate = Gate::new();
            origin.fault(On::any().once(), Fault::HoldHead(gate.clone()));
            let early = proxy.get(&path);
            let rest = async {
                eventually("it is asked for", || gate.reached() == 1).await;
                anyone(&proxy).image("a/b", "v1", &image).await;
                gate.open();
            };
            let (early, ()) = tokio::join!(early, rest);
            assert_eq!(
                (early.status, proxy.get(&path).await.status),
                (404, 200),
                "{writes:?} {path}"
            );
        }
    }
}

/// The registry has it, and whoever pushed it will never know.
#[tokio::test(flavor = "multi_thread")]
async fn a_tag_whose_pusher_left_before_the_answer_is_the_new_one() {
    let origin = Origin::start().await;
    let proxy = proxy_keeping_pushes(&origin).await;
    let (first, second) = (Image::new(1, &[]), Image::new(2, &[]));
    anyone(&proxy).image("a/b", "v1", &first).await;
    assert_eq!(anyone(&proxy).blob("a/b", &second.config).await.status, 201);
    let gate = Gate::new();
    origin.fault(On::kind(Kind::Manifest).method("PUT"), Fault::HoldHead(gate.clone()));
    {
        let mut left = std::pin::pin!(anyone(&proxy).manifest("a/b", "v1", &second.manifest));
        let reached = eventually("the registry has it", || gate.reached() == 1);
        tokio::select! { _ = &mut left => panic!("answered"), () = reached => {} }
    }
    proxy.settled().await;
    gate.open();
    let is_new = async || proxy.get(&manifest("a/b", "v1")).await.body == second.manifest.bytes;
    soon("the new manifest", async { while !is_new().await {} }).await;
}
