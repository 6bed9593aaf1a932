//! Redirects and the addresses that nobody may send us to.

use std::sync::atomic::{AtomicUsize, Ordering};

use roadstead::oci::{ByteSpan, Extent, Part};
use roadstead::upstream::ErrorKind;

use crate::support::{
    Origin, Setup, absent, bind, canary, digest, loopback_lookup, manifest, origin, reply,
    repository, soon, tag,
};

/// A registry that wants Basic and redirects blobs to `location`.
async fn redirecting(location: impl Into<String>) -> Origin {
    let location = location.into();
    origin(move |seen| match (seen.path(), seen.header("authorization")) {
        ("/here", _) => reply(200, &[], "blob"),
        (_, Some(_)) => reply(307, &[("location", &location)], ""),
        (_, None) => reply(401, &[("www-authenticate", "Basic")], ""),
    })
    .await
}

fn setup(origin: &Origin) -> Setup {
    Setup::new(&origin.url()).credential("**", "robot", "hunter2")
}

#[tokio::test]
async fn a_redirect_to_another_origin_loses_the_credential_and_keeps_the_range() {
    let storage = origin(|_| reply(206, &[("content-range", "bytes 2-3/4")], "ob")).await;
    let origin = redirecting(format!("{}/data?X-Amz-Signature=abc", storage.url())).await;
    let upstream = setup(&origin).blob_host(storage.host()).build();
    let blob = upstream
        .get_blob(&repository(), &digest(), Some(Part::From(2)), soon())
        .await
        .expect("a part");
    assert_eq!(
        blob.extent,
        Extent::Part { span: ByteSpan::new(2, 3).expect("in order"), total: Some(4) }
    );
    let seen = storage.seen();
    assert_eq!(seen[0].target, "/data?X-Amz-Signature=abc");
    assert_eq!(seen[0].header("authorization"), None);
    assert_eq!(seen[0].header("range"), Some("bytes=2-"));
    assert_eq!(seen[0].header("accept-encoding"), Some("identity"));
    assert_eq!(seen[0].header("referer"), None);
}

/// Another registry behind the first one, which the operator has named for both.
#[tokio::test]
async fn a_redirect_to_a_host_that_is_trusted_with_both_keeps_the_credential() {
    for (is_token_host, is_blob_host) in [(true, true), (false, true), (true, false)] {
        let other = origin(|seen| match seen.header("authorization") {
            Some(_) => reply(200, &[], "blob"),
            None => reply(401, &[("www-authenticate", "Basic")], ""),
        })
        .await;
        let origin = redirecting(format!("{}/v2/team/app/blobs/x", other.url())).await;
        let mut setup = setup(&origin);
        if is_token_host {
            setup = setup.token_host(other.host());
        }
        if is_blob_host {
            setup = setup.blob_host(other.host());
        }
        let blob = setup.build().get_blob(&repository(), &digest(), None, soon()).await;
        let both = is_token_host && is_blob_host;
        assert_eq!(blob.is_ok(), both);
        assert!(other.seen().iter().all(|seen| seen.header("authorization").is_some() == both));
    }
}

#[tokio::test]
async fn a_relative_redirect_on_the_same_origin_keeps_the_credential() {
    let origin = redirecting("/here").await;
    let mut blob = setup(&origin)
        .build()
        .get_blob(&repository(), &digest(), None, soon())
        .await
        .expect("a blob");
    assert_eq!(blob.body.chunk().await.expect("bytes").as_deref(), Some(&b"blob"[..]));
    let last = origin.seen().pop().expect("three requests");
    assert_eq!(last.path(), "/here");
    assert!(last.header("authorization").is_some());
}

#[tokio::test]
async fn a_credential_that_was_dropped_is_not_taken_up_on_the_way_back() {
    let home = bind().await;
    let back = format!("{}/here", home.url());
    let away = origin(move |_| reply(302, &[("location", &back)], "")).await;
    let location = away.url();
    let origin = home.serve(move |seen| match (seen.path(), seen.header("authorization")) {
        ("/here", _) => reply(200, &[], "blob"),
        (_, Some(_)) => reply(302, &[("location", &location)], ""),
        (_, None) => reply(401, &[("www-authenticate", "Basic")], ""),
    });
    let upstream = setup(&origin).blob_host(away.host()).build();
    upstream.get_blob(&repository(), &digest(), None, soon()).await.expect("a blob");
    let last = origin.seen().pop().expect("the last hop");
    assert_eq!((last.path(), last.header("authorization")), ("/here", None));
}

#[tokio::test]
async fn five_redirects_are_followed_and_six_are_not() {
    let origin = origin(|seen| {
        match seen.path().strip_prefix("/hop/").map(|left| left.parse::<u32>().expect("a number")) {
            Some(0) => reply(200, &[], "blob"),
            Some(left) => reply(301, &[("location", &format!("/hop/{}", left - 1))], ""),
            None if seen.path().contains("sha512") => reply(308, &[("location", "/hop/5")], ""),
            None => reply(303, &[("location", "/hop/4")], ""),
        }
    })
    .await;
    let upstream = Setup::new(&origin.url()).build();
    upstream.get_blob(&repository(), &digest(), None, soon()).await.expect("five hops");
    let longer = roadstead::oci::Digest::of(roadstead::oci::Algorithm::Sha512, b"blob");
    let error =
        upstream.get_blob(&repository(), &longer, None, soon()).await.expect_err("six hops");
    assert_eq!(error.kind(), &ErrorKind::Protocol);
    assert_eq!(origin.count("/hop/"), 10);
}

#[tokio::test]
async fn private_addresses_are_never_dialled_by_redirect() {
    let canary = canary().await;
    let port = canary.address.port();
    for location in [
        format!("http://127.0.0.1:{port}/"),
        format!("https://127.0.0.1:{port}/"),
        format!("https://0x7f.1:{port}/"),
        format!("https://[::1]:{port}/"),
        format!("https://[::ffff:127.0.0.1]:{port}/"),
        format!("https://0.0.0.0:{port}/"),
        format!("https://localhost:{port}/"),
        format!("https://cdn.example:{port}/"),
        format!("https://robot@cdn.example:{port}/"),
        format!("//127.0.0.1:{port}/"),
        format!("ftp://127.0.0.1:{port}/"),
        "https://169.254.169.254/latest/meta-data".to_owned(),
    ] {
        let origin = redirecting(location.clone()).await;
        let (lookup, _) = loopback_lookup();
        let upstream = Setup { lookup, ..setup(&origin) }.build();
        let error =
            upstream.get_blob(&repository(), &digest(), None, soon()).await.expect_err(&location);
        assert_eq!(error.kind(), &ErrorKind::ForbiddenAddress, "{location}: {error}");
    }
    assert_eq!(canary.connections(), 0);
}

#[tokio::test]
async fn a_private_name_is_dialled_only_if_its_exact_host_and_port_are_configured() {
    let canary = canary().await;
    let port = canary.address.port();
    let origin = redirecting(format!("http://cdn.example:{port}/")).await;
    let (lookup, lookups) = loopback_lookup();
    let with =
        |host: String| Setup { lookup: lookup.clone(), ..setup(&origin) }.blob_host(host).build();
    for host in
        ["cdn.example".to_owned(), format!("cdn.example:{}", port ^ 1), format!("example:{port}")]
    {
        let error = with(host)
            .get_blob(&repository(), &digest(), None, soon())
            .await
            .expect_err("not configured");
        assert_eq!(error.kind(), &ErrorKind::ForbiddenAddress);
    }
    assert_eq!((canary.connections(), lookups.load(Ordering::SeqCst)), (0, 0));
    with(format!("CDN.example:{port}"))
        .get_blob(&repository(), &digest(), None, soon())
        .await
        .expect("configured");
    assert_eq!((canary.connections(), lookups.load(Ordering::SeqCst)), (1, 1));
}

#[tokio::test]
async fn storage_that_refuses_is_not_the_registry_denying() {
    for (status, kind) in [
        (403, ErrorKind::Protocol),
        (401, ErrorKind::Protocol),
        (404, ErrorKind::UnconfirmedAbsence),
    ] {
        let storage = origin(move |_| reply(status, &[("www-authenticate", "Basic")], "")).await;
        let origin = redirecting(storage.url()).await;
        let upstream = setup(&origin).blob_host(storage.host()).build();
        let error =
            upstream.get_blob(&repository(), &digest(), None, soon()).await.expect_err("refused");
        assert_eq!(error.kind(), &kind);
        assert_eq!((origin.seen().len(), storage.seen().len()), (3, 2), "asked once more");
    }
}

#[tokio::test]
async fn storage_that_has_no_blob_is_asked_once_more_by_way_of_the_registry() {
    for status in [400, 403, 404, 410] {
        let storage = origin(move |seen| match seen.path() {
            "/first" => reply(status, &[], "<Error><Code>NoSuchKey</Code></Error>"),
            _ => reply(200, &[], "blob"),
        })
        .await;
        let (at, asked) = (storage.url(), AtomicUsize::new(0));
        let origin = origin(move |_| {
            let place = if asked.fetch_add(1, Ordering::SeqCst) == 0 { "first" } else { "second" };
            reply(307, &[("location", &format!("{at}/{place}"))], "")
        })
        .await;
        let upstream = setup(&origin).blob_host(storage.host()).build();
        upstream.get_blob(&repository(), &digest(), None, soon()).await.expect("the second place");
        assert_eq!((origin.seen().len(), storage.seen().len()), (2, 2), "{status}");
    }
}

#[tokio::test]
async fn another_registry_that_manifests_are_redirected_to_speaks_for_the_first() {
    let other = origin(|_| absent()).await;
    let origin = redirecting(other.url()).await;
    let upstream = setup(&origin).blob_host(other.host()).build();
    let error = upstream.get_manifest(&repository(), &tag(), soon()).await.expect_err("absent");
    assert_eq!(error.kind(), &ErrorKind::NotFound);
    let error = upstream.get_blob(&repository(), &digest(), None, soon()).await.expect_err("lost");
    assert_eq!(error.kind(), &ErrorKind::UnconfirmedAbsence);
}

#[tokio::test]
async fn signed_storage_that_refuses_head_is_asked_for_one_byte() {
    let storage = origin(|seen| match seen.method.as_str() {
        "HEAD" => reply(403, &[], ""),
        _ => reply(206, &[("content-range", "bytes 0-0/77")], "b"),
    })
    .await;
    let origin = redirecting(storage.url()).await;
    let upstream = setup(&origin).blob_host(storage.host()).build();
    assert_eq!(
        upstream.head_blob(&repository(), &digest(), soon()).await.expect("a size"),
        Some(77)
    );
    assert_eq!(
        upstream.head_blob(&repository(), &digest(), soon()).await.expect("a size"),
        Some(77)
    );
    let methods: Vec<_> = storage.seen().iter().map(|seen| seen.method.clone()).collect();
    assert_eq!(methods, ["HEAD", "GET", "GET"]);
    assert_eq!(storage.seen()[1].header("range"), Some("bytes=0-0"));
}

#[tokio::test]
async fn requests_carry_only_headers_of_our_own() {
    let origin = origin(|_| manifest()).await;
    Setup::new(&origin.url())
        .build()
        .get_manifest(&repository(), &tag(), soon())
        .await
        .expect("a manifest");
    let seen = origin.seen().remove(0);
    let mut names: Vec<_> = seen.headers.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["accept", "accept-encoding", "host", "user-agent"]);
    assert_eq!(seen.header("user-agent"), Some(concat!("roadstead/", env!("CARGO_PKG_VERSION"))));
    assert!(seen.header("accept").expect("present").ends_with(", */*"));
}
