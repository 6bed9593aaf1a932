//! What somebody has in flight by pushing takes a share of the cache, and no more.

use bytes::Bytes;
use http::Method;
use roadstead::config::Writes;

use crate::support::client::Answer;
use crate::support::content::Blob;
use crate::support::eventually;
use crate::support::origin::{Fault, Gate, On, Origin};
use crate::support::proxy::{Proxy, blob};
use crate::support::push::{ending, location, open_to_all, streamed, uploads};

const MIB: u64 = 1 << 20;

const ONE: &str = "192.0.2.1";
const OTHER: &str = "192.0.2.2";

/// Whether the room for an upload is known when it begins, or taken as its bytes come.
#[derive(Clone, Copy, Debug)]
enum Size {
    Told,
    Unknown,
}

async fn send(
    proxy: &Proxy,
    (method, address): (Method, &str),
    path: &str,
    body: impl Into<reqwest::Body>,
) -> Answer {
    proxy.send(method, path, &[("x-forwarded-for", address)], body).await
}

async fn push(proxy: &Proxy, address: &str, layer: &Blob, size: Size) -> u16 {
    let begun =
        location(&send(proxy, (Method::POST, address), &uploads("c/d"), Bytes::new()).await);
    let (at, body) = match size {
        Size::Told => (begun, layer.bytes()),
        Size::Unknown => {
            let content = streamed(&layer.content);
            let sent = send(proxy, (Method::PATCH, address), &begun, content).await;
            (location(&sent), Bytes::new())
        }
    };
    send(proxy, (Method::PUT, address), &ending(&at, &layer.digest), body).await.status
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_pushes_at_once_leaves_half_of_the_cache_to_others() {
    for size in [Size::Told, Size::Unknown] {
        let origin = Origin::start().await;
        let mut setup = open_to_all(&origin, Writes::Kept);
        setup.config.cache.max_size = 12 * MIB;
        setup.config.access.trusted_proxies = vec!["127.0.0.1/32".parse().expect("valid")];
        let proxy = setup.start().await;
        for seed in 0..5 {
            let layer = origin.blob("a/b", seed, 2 * MIB);
            assert_eq!(proxy.get(&blob("a/b", &layer.digest)).await.digest(), layer.digest);
            eventually("it is stored", || proxy.has_stored(&layer.digest)).await;
        }
        let [first, second, others, alone] =
            [10, 11, 12, 13].map(|seed| Blob::seeded(seed, 5 * MIB));
        let gate = Gate::new();
        let method = if matches!(size, Size::Told) { "PUT" } else { "PATCH" };
        let held = On::path("/uploads/").method(method).once();
        origin.fault(held, Fault::TakeUpTo(5 * MIB - 1, gate.clone()));
        let (pushed, ()) = tokio::join!(push(&proxy, ONE, &first, size), async {
            eventually("all but a byte of it is here", || gate.reached() == 1).await;
            assert_eq!(push(&proxy, ONE, &second, size).await, 201, "{size:?}");
            assert!(!proxy.has_stored(&second.digest), "more than its share: {size:?}");
            assert_eq!(push(&proxy, OTHER, &others, size).await, 201, "{size:?}");
            assert!(proxy.has_stored(&others.digest), "another's share: {size:?}");
            gate.open();
        });
        assert_eq!(pushed, 201, "{size:?}");
        assert!(proxy.has_stored(&first.digest), "its share: {size:?}");
        assert_eq!(push(&proxy, ONE, &alone, size).await, 201, "{size:?}");
        assert!(proxy.has_stored(&alone.digest), "nothing else is in flight: {size:?}");
    }
}
