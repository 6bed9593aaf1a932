//! Nothing is written to a sealed upstream, and what is being written is cut (SEAL-2, SEAL-6).

use std::convert::Infallible;

use bytes::Bytes;
use http::Method;
use http_body::Frame;
use http_body_util::StreamBody;

use crate::support::content::{Blob, Content};
use crate::support::eventually;
use crate::support::image::Image;
use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, Setup, blob, manifest};
use crate::support::pulled::paths;
use crate::support::push::{anyone, ending, uploads, writes};

/// Everybody may do everything at this registry, which is sealed or not.
fn text(origin: &Origin, sealed: bool) -> String {
    format!(
        "cache: {{ path: CACHE, min_free: 1MiB }}\n\
         drain_delay: 0s\n\
         default_upstream: registry.test\n\
         upstreams: {{ registry.test: {{ url: '{}', push: true, sealed: {sealed} }} }}\n\
         access: {{ rules: [{{ who: anonymous, allow: [pull, list, push, delete], images: ['**'] }}] }}\n",
        origin.url()
    )
}

async fn seal(proxy: &Proxy, origin: &Origin, sealed: bool) {
    assert_eq!(proxy.reconfigure(&text(origin, sealed)).await.1, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_write_is_denied_and_what_was_pushed_before_is_served() {
    let origin = Origin::start().await;
    let proxy = Setup::written(&text(&origin, false)).start().await;
    let (image, other) = (Image::new(1, &[70_000]), Blob::new(Content::seeded(7, 1000)));
    anyone(&proxy).image("a/b", "v1", &image).await;
    let begun = anyone(&proxy).begin("a/b").await;
    let before = (origin.requests().len(), origin.connections());
    seal(&proxy, &origin, true).await;
    let layer = &image.layers[0].digest;
    let steps = [
        (Method::POST, uploads("a/b")),
        (Method::POST, format!("{}?digest={}", uploads("a/b"), other.digest)),
        (Method::POST, format!("{}?mount={layer}&from=c/d", uploads("a/b"))),
        (Method::GET, begun.clone()),
        (Method::PATCH, begun.clone()),
        (Method::PUT, ending(&begun, &other.digest)),
        (Method::DELETE, begun.clone()),
        (Method::PUT, manifest("a/b", "v2")),
        (Method::DELETE, manifest("a/b", "v1")),
        (Method::DELETE, manifest("a/b", &image.manifest.digest)),
        (Method::DELETE, blob("a/b", layer)),
    ];
    for (method, path) in steps {
        let body = if method == Method::GET { Bytes::new() } else { other.bytes() };
        let answer = proxy.send(method.clone(), &path, &[], body).await;
        assert_eq!(answer.refusal(), (403, "DENIED".to_owned()), "{method} {path}");
        assert!(answer.message().contains("sealed"), "{}", answer.message());
    }
    for path in paths(&image) {
        assert_eq!((proxy.get(&path).await.status, proxy.head(&path).await.status), (200, 200));
    }
    assert_eq!(proxy.head(&blob("a/b", &other.digest)).await.status, 404);
    assert_eq!((origin.requests().len(), origin.connections()), before);
    seal(&proxy, &origin, false).await;
    let ended = anyone(&proxy).put(&begun, &other.digest, other.bytes()).await;
    assert_eq!(ended.status, 201, "an upload goes on where it was");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_under_way_is_cut() {
    let origin = Origin::start().await;
    let proxy = Setup::written(&text(&origin, false)).start().await;
    let begun = anyone(&proxy).begin("a/b").await;
    let before = writes(&origin);
    let (send, receive) = tokio::sync::mpsc::channel::<Bytes>(1);
    let pieces = futures_util::stream::unfold(receive, |mut from| async move {
        let piece = from.recv().await?;
        Some((Ok::<_, Infallible>(Frame::data(piece)), from))
    });
    let body = reqwest::Body::wrap(StreamBody::new(pieces));
    let (url, client) = (format!("http://{}{begun}", proxy.authority()), reqwest::Client::new());
    let sending = tokio::spawn(client.patch(url).body(body).send());
    send.send(vec![7; 100_000].into()).await.expect("it is read");
    eventually("the registry has some of it", || writes(&origin) > before).await;
    seal(&proxy, &origin, true).await;
    let answer = sending.await.expect("it ends").expect("an answer");
    assert_eq!(answer.status(), 403);
    eventually("nothing is left", || proxy.staged_files() == 0).await;
}
