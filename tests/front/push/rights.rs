//! Who may write, and what is looked up for those who may not: nothing. Mounts from where one may
//! pull.

use bytes::Bytes;
use http::Method;
use roadstead::config::{Allow, Writes};
use roadstead::identity::Identity;
use roadstead::licence::LicenceId;

use crate::support::client::Answer;
use crate::support::content::Blob;
use crate::support::image::Image;
use crate::support::origin::{Kind, Request};
use crate::support::proxy::{blob, manifest};
use crate::support::push::{Client, uploads};
use crate::support::vendor::{Vendor, basic, rule};

const WORKER: &str = "registry.test/myapp/worker";
const API: &str = "registry.test/myapp/api";
const THEIRS: &str = "registry.test/other/worker";
const MIRROR: &str = "quay.io/acme/api";

/// The licences `pusher`, `deleter` and `reader` have one right each, on `myapp/**`.
async fn vendor() -> Vendor {
    Vendor::start_with(|setup| {
        setup.config.upstreams[0].writes = Writes::Kept;
        let who = |id: &str| Identity::Licence(LicenceId::parse(id).expect(id));
        let (push, delete) =
            (Allow { push: true, ..Allow::default() }, Allow { delete: true, ..Allow::default() });
        for (id, allow) in [("pusher", push), ("deleter", delete)] {
            setup.config.access.rules.push(rule(who(id), allow, &["registry.test/myapp/**"]));
        }
    })
    .await
}

fn client<'a>(vendor: &'a Vendor, authorization: &'a str) -> Client<'a> {
    Client { proxy: &vendor.proxy, authorization: Some(authorization) }
}

/// Every write there is, on `name`.
async fn every_write(client: Client<'_>, name: &str) -> Vec<(String, Answer)> {
    let image = Image::new(100, &[70_000]);
    let layer = &image.layers[0].digest;
    let requests = [
        (Method::POST, uploads(name)),
        (Method::POST, format!("{}?digest={layer}", uploads(name))),
        (Method::POST, format!("{}?mount={layer}&from={name}", uploads(name))),
        (Method::GET, format!("{}x", uploads(name))),
        (Method::PATCH, format!("{}x", uploads(name))),
        (Method::PUT, format!("{}x?digest={layer}", uploads(name))),
        (Method::DELETE, format!("{}x", uploads(name))),
        (Method::PUT, manifest(name, "1.0")),
        (Method::DELETE, manifest(name, "1.0")),
        (Method::DELETE, manifest(name, &image.manifest.digest)),
        (Method::DELETE, blob(name, layer)),
    ];
    let mut answers = Vec::new();
    for (method, path) in requests {
        let body = if matches!(method, Method::GET | Method::DELETE) {
            Bytes::new()
        } else {
            image.layers[0].bytes()
        };
        let what = format!("{method} {path}");
        answers.push((
            what,
            client.send(method, &path, &[("content-type", "text/plain")], body).await,
        ));
    }
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_without_a_right_look_nothing_up() {
    let vendor = vendor().await;
    let (ci, ops) = (basic("ci", "ci-secret"), basic("ops@acme.test", "ops-secret"));
    let licence = vendor.customer("acme", &["myapp"]);
    let (anonymous, unknown) = ("Basic Og==".to_owned(), "registry.test/nothing/here");
    for (authorization, name, status, code) in [
        (&ci, THEIRS, 403, "DENIED"),
        (&ci, unknown, 403, "DENIED"),
        // No registry of ours: nobody needs a right to hear that.
        (&ci, "elsewhere.test/a", 404, "NAME_UNKNOWN"),
        (&ops, WORKER, 403, "DENIED"),
        (&licence, WORKER, 403, "DENIED"),
        (&licence, THEIRS, 403, "DENIED"),
        (&licence, MIRROR, 403, "DENIED"),
        (&anonymous, WORKER, 401, "UNAUTHORIZED"),
        (&anonymous, "registry.test/public/base", 401, "UNAUTHORIZED"),
        (&anonymous, MIRROR, 401, "UNAUTHORIZED"),
    ] {
        // Whoever may pull a mirror is told that it is one.
        let (status, code) = if name == MIRROR && authorization == &licence {
            (405, "UNSUPPORTED")
        } else {
            (status, code)
        };
        for (what, answer) in every_write(client(&vendor, authorization), name).await {
            assert_eq!(answer.refusal(), (status, code.to_owned()), "{what}");
            let message = answer.message();
            match status {
                403 => assert!(
                    message.contains(" may not ") && message.ends_with(" here"),
                    "{message}"
                ),
                401 => assert!(
                    answer.header("www-authenticate").is_some_and(|c| c.starts_with("Bearer ")),
                    "{what}"
                ),
                404 => assert_eq!(answer.header("www-authenticate"), None, "{what}"),
                _ => assert_eq!(answer.header("allow"), Some("GET, HEAD"), "{what}"),
            }
        }
    }
    assert_eq!(
        (vendor.registry.connections(), vendor.quay.connections()),
        (0, 0),
        "nothing was looked up"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_pushes_and_does_not_delete() {
    let vendor = vendor().await;
    let ci = basic("ci", "ci-secret");
    let client = client(&vendor, &ci);
    let image = Image::new(1, &[1_000]);
    client.image(API, "1.0", &image).await;
    for path in [
        manifest(API, "1.0"),
        manifest(API, &image.manifest.digest),
        blob(API, &image.layers[0].digest),
    ] {
        assert_eq!(client.delete(&path).await.refusal(), (403, "DENIED".into()));
    }
    assert_eq!(vendor.registry.count(|request| request.method == "DELETE"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_only_push_looks_and_does_not_read() {
    let vendor = vendor().await;
    let pusher = vendor.customer("pusher", &["gone"]);
    let client = client(&vendor, &pusher);
    let image = Image::new(1, &[1_000]);
    client.image(WORKER, "2.0", &image).await;
    for path in [
        manifest(WORKER, "2.0"),
        manifest(WORKER, &image.manifest.digest),
        blob(WORKER, &image.layers[0].digest),
    ] {
        assert_eq!(client.send(Method::HEAD, &path, &[], Bytes::new()).await.status, 200, "{path}");
        assert_eq!(
            client.send(Method::GET, &path, &[], Bytes::new()).await.refusal(),
            (404, "NAME_UNKNOWN".into())
        );
    }
    let listed =
        client.send(Method::GET, &format!("/v2/{WORKER}/tags/list"), &[], Bytes::new()).await;
    assert_eq!(listed.status, 404);
    assert_eq!(client.delete(&manifest(WORKER, "2.0")).await.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_only_delete_deletes() {
    let vendor = vendor().await;
    let deleter = vendor.customer("deleter", &["gone"]);
    let client = client(&vendor, &deleter);
    let image = Image::new(100, &[70_000]);
    assert_eq!(client.post(&uploads(WORKER)).await.status, 403);
    assert_eq!(
        client.send(Method::HEAD, &manifest(WORKER, "1.0"), &[], Bytes::new()).await.status,
        404
    );
    for path in [
        manifest(WORKER, "1.0"),
        manifest(WORKER, &image.manifest.digest),
        blob(WORKER, &image.layers[0].digest),
    ] {
        assert_eq!(client.delete(&path).await.status, 202, "{path}");
        assert_eq!(client.delete(&path).await.status, 404, "{path}");
    }
    assert_eq!(client.delete(&manifest(THEIRS, "1.0")).await.status, 403);
}

/// The registry may have collected it since (UPL-12).
#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_push_is_told_what_the_registry_has() {
    let vendor = vendor().await;
    let (ci, licence) = (basic("ci", "ci-secret"), vendor.customer("acme", &["myapp"]));
    let layer = Blob::seeded(1, 1_000);
    let path = blob(WORKER, &layer.digest);
    assert_eq!(client(&vendor, &ci).blob(WORKER, &layer).await.status, 201);
    let head =
        async |who: &str| client(&vendor, who).send(Method::HEAD, &path, &[], Bytes::new()).await;
    for _ in 0..2 {
        assert_eq!((head(&ci).await.status, head(&licence).await.status), (200, 200));
    }
    let heads = || vendor.registry.count(|request| request.is_head(Kind::Blob));
    assert_eq!(heads(), 2, "of the two, only whoever may push asks upstream");
    vendor.registry.remove_blob("myapp/worker", &layer.digest);
    let told = head(&ci).await;
    assert_eq!((told.status, heads()), (404, 3));
    assert_eq!(client(&vendor, &ci).blob(WORKER, &layer).await.status, 201);
    assert_eq!((head(&ci).await.status, heads()), (200, 4), "no absence is believed either");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_is_mounted_from_another_image_of_the_same_application() {
    let vendor = vendor().await;
    let ci = basic("ci", "ci-secret");
    let layer = &Image::new(100, &[70_000]).layers[0];
    let path =
        format!("{}?mount={}&from={}", uploads(API), layer.digest, WORKER.replace('/', "%2F"));
    let mounted = client(&vendor, &ci).post(&path).await;
    let at = blob(API, &layer.digest);
    assert_eq!((mounted.status, mounted.header("location")), (201, Some(at.as_str())));
    assert_eq!(mounted.header("docker-content-digest"), Some(layer.digest.as_str()));
    let read = client(&vendor, &ci).send(Method::GET, &at, &[], Bytes::new()).await;
    assert_eq!(read.body, layer.bytes());
    let of = |repository: &str| {
        vendor.registry.count(|r| r.kind == Kind::Blob && r.repository == repository)
    };
    assert_eq!((of("myapp/api"), of("myapp/worker")), (1, 0), "one GET, and no HEAD to prove it");
}

#[tokio::test(flavor = "multi_thread")]
async fn any_other_mount_is_an_upload_like_one_without() {
    let vendor = vendor().await;
    let (ci, pusher) = (basic("ci", "ci-secret"), vendor.customer("pusher", &["gone"]));
    let (own, theirs) = (Image::new(100, &[70_000]), Image::new(101, &[70_000]));
    let (own, theirs) = (&own.layers[0].digest, &theirs.layers[0].digest);
    for (who, query) in [
        (&ci, format!("mount={theirs}&from={THEIRS}")),
        (&ci, format!("mount={theirs}&from=registry.test/public/base")),
        (&ci, format!("mount={theirs}&from=other/worker")),
        (&ci, format!("mount={own}")),
        (&ci, format!("from={WORKER}")),
        (&ci, format!("mount={own}&from=quay.io/acme/api")),
        (&ci, format!("mount={own}&from=proxy/myapp/quay.io/acme/api")),
        (&ci, format!("mount={own}&from=elsewhere.test/a/b")),
        (&pusher, format!("mount={own}&from={WORKER}")),
    ] {
        let begun = client(&vendor, who).post(&format!("{}?{query}", uploads(API))).await;
        assert_eq!(begun.status, 202, "{query}: {begun:?}");
    }
    let names_it =
        |request: &Request| request.query.contains("mount") || request.query.contains("from");
    assert_eq!((vendor.registry.count(names_it), vendor.quay.connections()), (0, 0));
    assert_eq!(vendor.registry.count(|request| request.kind == Kind::Upload), 9);
}

/// The registry's own account may not be able to read there: that ends nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_mount_that_the_registry_refuses_is_an_upload() {
    use crate::support::origin::{Fault, On};
    let vendor = vendor().await;
    let ci = basic("ci", "ci-secret");
    let layer = &Image::new(100, &[70_000]).layers[0].digest;
    let path = format!("{}?mount={layer}&from={WORKER}", uploads(API));
    for status in [401, 403, 404, 405, 400] {
        vendor.registry.fault(On::kind(Kind::Upload).once(), Fault::Status(status));
        let begun = client(&vendor, &ci).post(&path).await;
        assert_eq!(begun.status, 202, "{status}: {begun:?}");
    }
}
