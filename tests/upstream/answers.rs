//! What upstreams answer, and what of it is believed.

use std::time::Duration;

use bytes::Bytes;
use roadstead::oci::PageQuery;
use roadstead::oci::{Algorithm, ByteSpan, Digest, Extent, Part};
use roadstead::upstream::{Error, ErrorKind, UpstreamClient};

use crate::support::{
    MANIFEST, Reply, Setup, bind, closed_port, digest, origin, raw, raw_then, reply, repository,
    shown, soon, tag,
};

fn span(first: u64, last: u64) -> ByteSpan {
    ByteSpan::new(first, last).expect("in order")
}

async fn body(upstream: &UpstreamClient) -> Result<Vec<u8>, Error> {
    let mut blob = upstream.get_blob(&repository(), &digest(), None, soon()).await?;
    let mut whole = Vec::new();
    while let Some(chunk) = blob.body.chunk().await? {
        whole.extend_from_slice(&chunk);
    }
    Ok(whole)
}

fn query(text: &str) -> PageQuery {
    PageQuery::parse(Some(text)).expect("the test asks rightly")
}

fn at(address: std::net::SocketAddr) -> Setup {
    Setup::new(&format!("http://{address}"))
}

#[tokio::test]
async fn a_blob_arrives_whole_with_its_size() {
    let content = Bytes::from(vec![7; 300_000]);
    let sent = content.clone();
    let origin =
        origin(move |_| reply(200, &[("content-type", "application/octet-stream")], sent.clone()))
            .await;
    let setup = Setup::new(&origin.url());
    let upstream = setup.build();
    let blob = upstream.get_blob(&repository(), &digest(), None, soon()).await.expect("a blob");
    assert_eq!(blob.extent, Extent::Whole { size: Some(300_000) });
    assert_eq!(body(&upstream).await.expect("all of it"), content);
    assert!(
        setup.metric(r#"roadstead_upstream_received_bytes_total{upstream="acme.test"} 300000"#)
    );
    assert!(setup.metric(concat!(
        r#"roadstead_upstream_requests_total{code="200",operation="blob_get","#,
        r#"upstream="acme.test"} 2"#
    )));
}

#[tokio::test]
async fn answers_that_are_no_blob_are_refused() {
    for (status, headers) in [
        (204, vec![]),
        (202, vec![]),
        (206, vec![("content-range", "bytes 0-3/4")]),
        (304, vec![]),
        (416, vec![]),
    ] {
        let origin = origin({
            let headers = headers.clone();
            move |_| {
                reply(status, &headers, if status == 204 || status == 304 { "" } else { "blob" })
            }
        })
        .await;
        let error = body(&Setup::new(&origin.url()).build()).await.expect_err("no blob");
        assert_eq!(error.kind(), &ErrorKind::Protocol, "{status} {headers:?}");
        assert_eq!(origin.seen().len(), 1);
    }
}

#[tokio::test]
async fn a_part_is_the_part_that_was_asked_for_or_the_whole() {
    let origin = origin(|seen| match seen.header("range") {
        Some("bytes=2-3") => reply(206, &[("content-range", "bytes 2-3/4")], "ob"),
        Some("bytes=1-") => reply(206, &[("content-range", "bytes 0-3/4")], "blob"),
        Some("bytes=4-") => reply(416, &[("content-range", "bytes */4")], ""),
        _ => reply(200, &[], "blob"),
    })
    .await;
    let upstream = Setup::new(&origin.url()).build();
    let get = async |part| {
        let blob = upstream.get_blob(&repository(), &digest(), Some(part), soon()).await;
        blob.map(|blob| blob.extent).map_err(|error| error.kind().clone())
    };
    assert_eq!(
        get(Part::Span(span(2, 3))).await,
        Ok(Extent::Part { span: span(2, 3), total: Some(4) })
    );
    assert_eq!(get(Part::From(3)).await, Ok(Extent::Whole { size: Some(4) }));
    assert_eq!(get(Part::From(1)).await, Err(ErrorKind::Protocol));
    assert_eq!(get(Part::From(4)).await, Err(ErrorKind::Protocol));
}

#[tokio::test]
async fn a_body_ends_cleanly_only_where_its_framing_does() {
    for (answer, kind) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nblob", ErrorKind::Unreachable),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nblob\r\n",
            ErrorKind::Unreachable,
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nblob",
            ErrorKind::Protocol,
        ),
        ("220 ready\r\n", ErrorKind::Protocol),
    ] {
        let error = body(&at(raw(answer).await).build()).await.expect_err(answer);
        assert_eq!(error.kind(), &kind, "{answer}: {error}");
    }
    let complete = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nblob\r\n0\r\n\r\n";
    let upstream = at(raw(complete).await).build();
    assert_eq!(body(&upstream).await.expect("a clean end"), b"blob");
}

#[tokio::test]
async fn a_body_that_stalls_times_out() {
    let mut setup = at(raw_then("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nblob", true).await);
    setup.limits.upstream_idle = Duration::from_millis(50);
    let error = body(&setup.build()).await.expect_err("it stalls");
    assert_eq!(error.kind(), &ErrorKind::Timeout);
}

#[tokio::test]
async fn cut_bodies_close_no_gate() {
    let upstream = at(raw("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nblob").await).build();
    for _ in 0..5 {
        assert_eq!(body(&upstream).await.expect_err("cut").kind(), &ErrorKind::Unreachable);
    }
    upstream.get_blob(&repository(), &digest(), None, soon()).await.expect("still asked");
}

#[tokio::test]
async fn a_manifest_keeps_its_bytes_type_and_digest() {
    let text = digest().to_string();
    let origin = origin(move |_| {
        let type_ = format!("{MANIFEST}; charset=utf-8");
        reply(
            200,
            &[
                ("content-type", &type_),
                ("docker-content-digest", &text),
                ("ratelimit-remaining", "76;w=21600"),
            ],
            "{ }\n",
        )
    })
    .await;
    let setup = Setup::new(&origin.url());
    let fetched =
        setup.build().get_manifest(&repository(), &tag(), soon()).await.expect("a manifest");
    assert_eq!(fetched.bytes, "{ }\n");
    assert_eq!(fetched.media_type.as_str(), MANIFEST);
    assert_eq!(fetched.digest, Some(digest()));
    assert!(setup.metric(r#"roadstead_upstream_rate_limit_remaining{upstream="acme.test"} 76"#));
}

#[tokio::test]
async fn what_cannot_be_a_manifest_is_refused() {
    let five_mib = Bytes::from(vec![b' '; 5 << 20]);
    for (headers, content) in [
        (vec![("content-type", "text/html")], Bytes::from("<html>")),
        (vec![("content-type", "text/plain")], "{}".into()),
        (vec![("content-type", "application/octet-stream")], "{}".into()),
        (vec![], "{}".into()),
        (vec![("content-type", MANIFEST), ("content-encoding", "gzip")], "{}".into()),
    ] {
        let origin = origin({
            let headers = headers.clone();
            move |_| reply(200, &headers, content.clone())
        })
        .await;
        let error =
            Setup::new(&origin.url()).build().get_manifest(&repository(), &tag(), soon()).await;
        assert_eq!(error.expect_err("no manifest").kind(), &ErrorKind::Protocol, "{headers:?}");
    }
    let announced = {
        let five_mib = five_mib.clone();
        origin(move |_| reply(200, &[("content-type", MANIFEST)], five_mib.clone())).await
    };
    let error =
        Setup::new(&announced.url()).build().get_manifest(&repository(), &tag(), soon()).await;
    assert_eq!(error.expect_err("too large").kind(), &ErrorKind::TooLarge);
    let mut chunked = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {MANIFEST}\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    .into_bytes();
    chunked.extend_from_slice(b"500000\r\n");
    chunked.extend_from_slice(&five_mib);
    chunked.extend_from_slice(b"\r\n0\r\n\r\n");
    let error = at(raw(chunked).await).build().get_manifest(&repository(), &tag(), soon()).await;
    assert_eq!(error.expect_err("too large").kind(), &ErrorKind::TooLarge);
}

#[tokio::test]
async fn head_tells_what_the_headers_do_and_becomes_get_where_it_is_unknown() {
    let text = digest().to_string();
    let known = origin(move |seen| {
        assert_eq!(seen.method, "HEAD");
        reply(
            200,
            &[
                ("content-type", MANIFEST),
                ("docker-content-digest", &text),
                ("content-length", "1234"),
            ],
            "",
        )
    })
    .await;
    let head = Setup::new(&known.url())
        .build()
        .head_manifest(&repository(), &tag(), soon())
        .await
        .expect("a head");
    assert_eq!((head.digest, head.size), (Some(digest()), Some(1234)));
    assert_eq!(head.media_type.expect("a type").as_str(), MANIFEST);

    let unknown = origin(|seen| {
        if seen.method == "HEAD" {
            reply(405, &[], "")
        } else {
            reply(200, &[("content-type", MANIFEST)], "blob")
        }
    })
    .await;
    let head = Setup::new(&unknown.url())
        .build()
        .head_manifest(&repository(), &tag(), soon())
        .await
        .expect("a head");
    assert_eq!((head.digest, head.size), (Some(digest()), Some(4)));
}

#[tokio::test]
async fn a_blob_head_tells_the_size_by_one_byte_if_head_is_refused() {
    let empty = Digest::of(Algorithm::Sha256, b"");
    for (status, answer, digest, size) in [
        (405, (206, "bytes 0-0/77", "b"), digest(), Some(77)),
        (401, (206, "bytes 0-0/*", "b"), digest(), None),
        (403, (416, "bytes */0", ""), empty, Some(0)),
        (405, (200, "", "blob"), digest(), Some(4)),
        (501, (206, "bytes 0-0/77", "b"), digest(), Some(77)),
        (503, (206, "bytes 0-0/77", "b"), digest(), Some(77)),
    ] {
        let origin = origin(move |seen| match seen.method.as_str() {
            "HEAD" => reply(status, &[], ""),
            _ => reply(answer.0, &[("content-range", answer.1)], answer.2),
        })
        .await;
        let upstream = Setup::new(&origin.url()).build();
        assert_eq!(
            upstream.head_blob(&repository(), &digest, soon()).await.expect("it exists"),
            size
        );
    }
}

#[tokio::test]
async fn a_blob_head_labelled_as_a_page_is_believed_with_the_digest_or_by_the_first_byte() {
    let html = ("content-type", "text/html");
    for (head, first_byte, size) in [
        // The registry names the digest.
        (vec![html, ("docker-content-digest", digest().as_str())], None, Some(4)),
        // Storage has parts, which no page has.
        (vec![html], Some((206, "bytes 0-0/77", "b")), Some(77)),
        (vec![html], Some((200, "", "page")), None),
    ] {
        let head: Vec<_> = head.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let origin = origin(move |seen| {
            let head: Vec<_> = head.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            match (seen.method.as_str(), first_byte) {
                ("GET", Some((status, range, body))) => {
                    reply(status, &[html, ("content-range", range)], body)
                }
                _ => reply(200, &head, "blob"),
            }
        })
        .await;
        let upstream = Setup::new(&origin.url()).build();
        for round in 1..=2 {
            let told = upstream.head_blob(&repository(), &digest(), soon()).await;
            match size {
                Some(size) => assert_eq!(told.expect("a blob"), Some(size)),
                None => assert_eq!(told.expect_err("a page").kind(), &ErrorKind::Protocol),
            }
            let heads = origin.seen().iter().filter(|seen| seen.method == "HEAD").count();
            assert_eq!(heads, round, "HEAD is not given up");
        }
    }
}

#[tokio::test]
async fn pages_carry_the_query_of_the_next_one_and_nothing_of_its_host() {
    let origin = origin(|_| {
        let link = r#"<https://evil.example/elsewhere?next_page=abc%3D&n=2>; rel="next""#;
        reply(
            200,
            &[
                ("content-type", "application/json"),
                ("link", link),
                ("oci-filters-applied", "artifactType"),
            ],
            "{}",
        )
    })
    .await;
    let mut setup = Setup::new(&origin.url());
    setup.config.page_limit = Some(100);
    let upstream = setup.build();
    let page =
        upstream.list_tags(&repository(), &query("n=5000&last=v1"), soon()).await.expect("a page");
    assert_eq!(page.next.as_deref(), Some("next_page=abc%3D&n=2"));
    let page = upstream
        .referrers(&repository(), &digest(), &query("artifactType=a%2Fb"), soon())
        .await
        .expect("an answer")
        .expect("a page");
    assert_eq!(page.filters_applied.as_deref(), Some("artifactType"));
    let seen = origin.seen();
    assert_eq!(seen[0].target, "/v2/team/app/tags/list?n=100&last=v1");
    assert_eq!(seen[1].target, format!("/v2/team/app/referrers/{}?artifactType=a%2Fb", digest()));
}

#[tokio::test]
async fn a_page_is_bounded() {
    let origin = origin(|_| reply(200, &[], vec![b' '; (16 << 20) + 1])).await;
    let error = Setup::new(&origin.url())
        .build()
        .list_tags(&repository(), &PageQuery::default(), soon())
        .await
        .expect_err("too large");
    assert_eq!(error.kind(), &ErrorKind::TooLarge);
}

#[tokio::test]
async fn no_error_shows_a_secret_a_query_or_a_repository() {
    let storage = origin(|seen| match seen.query("what").as_deref() {
        Some("500") => reply(500, &[], ""),
        Some("gone") => reply(403, &[], ""),
        _ => Reply::Break,
    })
    .await;
    let closed = closed_port().await;
    let (home, at) = (bind().await, storage.url());
    let realm = format!(r#"Bearer realm="{}/token?account=hush""#, home.url());
    let origin = home.serve(move |seen| {
        let to = |url: String| reply(307, &[("location", &url)], "");
        match (seen.path(), seen.header("authorization")) {
            ("/token", _) => reply(200, &[], r#"{"token":"tok-secret"}"#),
            (_, None) => reply(401, &[("www-authenticate", &realm)], ""),
            (path, _) if path.contains("/literal/") => to("https://10.0.0.1/?X-Sig=hush".into()),
            (path, _) if path.contains("/user/") => {
                to("https://u:hush@cdn.example/?X-Sig=hush".into())
            }
            (path, _) if path.contains("/closed/") => to(format!("http://{closed}/?X-Sig=hush")),
            (path, _) if path.contains("/denied/") => reply(403, &[], "hush"),
            (path, _) => {
                to(format!("{at}/?what={}&X-Sig=hush", path.split('/').nth(2).expect("a name")))
            }
        }
    });
    let setup = Setup::new(&origin.url()).credential("**", "robot", "hunter2");
    let setup = setup.blob_host(storage.host()).blob_host(closed.to_string());
    for name in ["literal", "user", "closed", "denied", "500", "gone", "broken"] {
        let upstream = setup.build();
        let repository =
            roadstead::oci::Repository::parse(&format!("{name}/confidential")).expect("valid");
        let error = upstream.get_blob(&repository, &digest(), None, soon()).await.expect_err(name);
        let text = shown(&error) + &format!("{upstream:?}");
        for secret in
            ["hunter2", "tok-secret", "hush", "cm9ib3Q6aHVudGVyMg", "X-Sig", "confidential"]
        {
            assert!(!text.contains(secret), "{name} shows {secret}: {text}");
        }
        assert!(error.to_string().starts_with("acme.test: blob_get: "), "{error}");
    }
}

#[tokio::test]
async fn a_status_that_a_registry_made_up_is_counted_by_its_class() {
    for (status, label) in [(418, "418"), (419, "4xx"), (599, "5xx"), (799, "other")] {
        let origin = origin(move |_| reply(status, &[], "")).await;
        let setup = Setup::new(&origin.url());
        let _ = setup.build().get_manifest(&repository(), &tag(), soon()).await;
        let of_it = format!("roadstead_upstream_requests_total{{code=\"{label}\"");
        assert!(setup.metrics.render().expect("it renders").contains(&of_it), "{status}");
    }
}
