//! HEAD, whose answer has no text: what of it is believed, and what is asked again by GET (UP-10,
//! UP-11).

use std::time::Duration;

use http::Method;
use roadstead::oci::{Algorithm, Digest, Reference};
use roadstead::upstream::ErrorKind;

use crate::support::{
    MANIFEST, Origin, Reply, Setup, absent, digest, manifest, origin, reply, repository, soon, tag,
};

const API_VERSION: (&str, &str) = ("docker-distribution-api-version", "registry/2.0");

/// The manifest that `manifest` answers with.
fn served() -> Reference {
    Reference::Digest(Digest::of(Algorithm::Sha256, b"{}"))
}

fn methods(origin: &Origin) -> Vec<Method> {
    origin.seen().into_iter().map(|seen| seen.method).collect()
}

/// A registry that answers HEAD in its own way, and GET by `get`.
async fn by_method(
    head: impl Fn() -> Reply + Send + Sync + 'static,
    get: impl Fn() -> Reply + Send + Sync + 'static,
) -> Origin {
    origin(move |seen| if seen.method == Method::HEAD { head() } else { get() }).await
}

#[tokio::test]
async fn any_refusal_of_head_for_a_manifest_is_put_to_get() {
    for status in
        [400, 401, 402, 403, 404, 405, 406, 409, 410, 418, 451, 500, 501, 502, 503, 504, 520]
    {
        let origin = by_method(move || reply(status, &[], ""), manifest).await;
        let upstream = Setup::new(&origin.url()).build();
        for reference in [tag(), served()] {
            let head = upstream.head_manifest(&repository(), &reference, soon()).await;
            assert_eq!(head.expect("GET tells").size, Some(2), "{status}");
        }
    }
}

#[tokio::test]
async fn head_is_not_asked_again_for_an_hour_where_the_method_is_refused() {
    for (status, heads) in [(405, 1), (401, 1), (501, 1), (404, 3), (451, 3)] {
        let origin = by_method(move || reply(status, &[], ""), manifest).await;
        let setup = Setup::new(&origin.url());
        let upstream = setup.build();
        let ask = async || {
            upstream.head_manifest(&repository(), &tag(), soon()).await.expect("GET tells");
            methods(&origin).iter().filter(|method| *method == Method::HEAD).count()
        };
        ask().await;
        ask().await;
        assert_eq!(ask().await, heads, "{status}");
        setup.clock.advance(Duration::from_hours(1));
        assert_eq!(ask().await, heads + 1, "{status}: it may be mended");
    }
}

#[tokio::test]
async fn where_get_is_refused_as_well_nothing_is_learnt_of_head() {
    let origin = origin(|_| reply(403, &[], "")).await;
    let upstream = Setup::new(&origin.url()).build();
    for _ in 0..2 {
        let error = upstream.head_manifest(&repository(), &tag(), soon()).await.expect_err("no");
        assert_eq!(error.kind(), &ErrorKind::Denied);
    }
    assert_eq!(methods(&origin), ["HEAD", "GET", "HEAD", "GET"]);
}

#[tokio::test]
async fn neither_a_pause_nor_a_rejected_login_is_put_to_get() {
    for (status, challenge) in [(429, ""), (401, "Basic")] {
        let origin = origin(move |_| reply(status, &[("www-authenticate", challenge)], "")).await;
        let upstream = Setup::new(&origin.url()).credential("**", "robot", "hunter2").build();
        upstream.head_manifest(&repository(), &tag(), soon()).await.expect_err("refused");
        assert!(methods(&origin).iter().all(|method| method == Method::HEAD), "{status}");
    }
}

#[tokio::test]
async fn a_404_to_head_is_confirmed_by_get_unless_its_headers_tell_a_registry() {
    type Answer = fn() -> Reply;
    let page: Answer = || reply(404, &[("content-type", "text/html")], "<html>");
    let told: Answer = || reply(404, &[API_VERSION], "");
    for (head, get, kind, asked) in [
        (told, page, ErrorKind::NotFound, 1),
        (page, absent as Answer, ErrorKind::NotFound, 2),
        (page, page, ErrorKind::UnconfirmedAbsence, 2),
    ] {
        let origin = by_method(head, get).await;
        let upstream = Setup::new(&origin.url()).build();
        let error = upstream.head_manifest(&repository(), &tag(), soon()).await.expect_err("404");
        assert_eq!((error.kind(), origin.seen().len()), (&kind, asked));
        let error = upstream.head_blob(&repository(), &digest(), soon()).await.expect_err("404");
        assert_eq!((error.kind(), origin.seen().len()), (&kind, 2 * asked));
    }
}

#[tokio::test]
async fn a_known_manifest_is_gone_only_if_get_says_so_too() {
    let told = || reply(404, &[API_VERSION], "");
    let origin = by_method(told, manifest).await;
    let upstream = Setup::new(&origin.url()).build();
    upstream.head_manifest(&repository(), &tag(), soon()).await.expect_err("believed");
    upstream.head_known_manifest(&repository(), &tag(), soon()).await.expect("still there");
    let origin = by_method(told, told).await;
    let upstream = Setup::new(&origin.url()).build();
    let error = upstream.head_known_manifest(&repository(), &tag(), soon()).await;
    assert_eq!(error.expect_err("gone").kind(), &ErrorKind::NotFound);
    assert_eq!(methods(&origin), ["HEAD", "GET"]);
}

#[tokio::test]
async fn a_200_without_a_digest_proves_no_manifest_by_digest() {
    for body in ["", "<html>", "{ }"] {
        let origin = origin(move |_| reply(200, &[("content-type", MANIFEST)], body)).await;
        let upstream = Setup::new(&origin.url()).build();
        let error = upstream.head_manifest(&repository(), &served(), soon()).await;
        assert_eq!(error.expect_err("no such thing").kind(), &ErrorKind::Protocol, "{body}");
    }
    let origin = origin(|_| manifest()).await;
    let upstream = Setup::new(&origin.url()).build();
    upstream.head_manifest(&repository(), &served(), soon()).await.expect("GET has its bytes");
}

#[tokio::test]
async fn an_empty_200_is_no_blob_and_no_manifest() {
    let origin = origin(|_| reply(200, &[("content-type", MANIFEST)], "")).await;
    let upstream = Setup::new(&origin.url()).build();
    let error = upstream.head_blob(&repository(), &digest(), soon()).await.expect_err("nothing");
    assert_eq!(error.kind(), &ErrorKind::Protocol);
    let error = upstream.get_manifest(&repository(), &tag(), soon()).await.expect_err("nothing");
    assert_eq!(error.kind(), &ErrorKind::Protocol);
    let empty = Digest::of(Algorithm::Sha256, b"");
    let size = upstream.head_blob(&repository(), &empty, soon()).await;
    assert_eq!(size.expect("the empty blob"), Some(0));
}
