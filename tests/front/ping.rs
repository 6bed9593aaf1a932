//! `GET /v2/`: answered here, whatever the upstreams do.

use http::Method;

use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, Setup};

#[tokio::test(flavor = "multi_thread")]
async fn the_ping_says_that_this_is_a_registry() {
    let origin = Origin::start().await;
    let proxy = Proxy::of(&origin).await;
    for path in ["/v2/", "/v2", "/v2/?ns=docker.io"] {
        let answer = proxy.get(path).await;
        assert_eq!((answer.status, answer.text()), (200, "{}"), "{path}");
        assert_eq!(
            answer.header("docker-distribution-api-version"),
            Some("registry/2.0"),
            "{path}"
        );
        assert_eq!(answer.header("content-type"), Some("application/json"), "{path}");
        assert_eq!(answer.header("www-authenticate"), None, "an open mirror challenges nobody");
    }
    assert_eq!(origin.connections(), 0, "the ping is answered here");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_ping_has_the_headers_and_no_body() {
    let origin = Origin::start().await;
    let proxy = Proxy::of(&origin).await;
    let answer = proxy.head("/v2/").await;
    assert_eq!(
        (answer.status, answer.header("content-length"), answer.body.len()),
        (200, Some("2"), 0)
    );
    assert_eq!(answer.header("docker-distribution-api-version"), Some("registry/2.0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ping_answers_under_the_prefix_of_an_upstream_and_no_other() {
    let (hub, quay) = (Origin::start().await, Origin::start().await);
    let mut setup = Setup::of(&hub);
    setup.upstream("quay.io", &quay).aliases = vec!["q".into()];
    let proxy = setup.start().await;
    for prefix in ["quay.io", "q", "docker.io"] {
        assert_eq!(proxy.get(&format!("/{prefix}/v2/")).await.status, 200, "{prefix}");
    }
    assert_eq!(proxy.get("/ghcr.io/v2/").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_to_the_ping_is_refused() {
    let origin = Origin::start().await;
    let proxy = Proxy::of(&origin).await;
    let answer = proxy.request(Method::POST, "/v2/", &[]).await;
    assert_eq!(
        (answer.refusal(), answer.header("allow")),
        ((405, "UNSUPPORTED".into()), Some("GET, HEAD"))
    );
}
