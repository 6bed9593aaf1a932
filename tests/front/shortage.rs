//! What this machine lacks is not the registry's fault (DESIGN §14.4).

use std::net::IpAddr;
use std::time::Duration;

use crate::support::image::Image;
use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, Setup, blob, manifest};

const LOOPBACK: Result<IpAddr, i32> = Ok(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));

const SHORTAGES: [i32; 5] =
    [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::EADDRNOTAVAIL];

/// A registry with `a/b:v1` that is reached by its name.
async fn by_name() -> (Origin, Image, Proxy) {
    let image = Image::new(1, &[1000]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let mut setup = Setup::of(&origin);
    setup.config.upstreams[0].url.set_host(Some("registry.test")).expect("a host");
    let proxy = setup.start().await;
    proxy.look_up(LOOPBACK);
    (origin, image, proxy)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shortage_is_told_as_ours_shuts_nobody_out_and_is_over_at_once() {
    for shortage in SHORTAGES {
        let (origin, image, proxy) = by_name().await;
        proxy.look_up(Err(shortage));
        let layer = blob("a/b", &image.layers[0].digest);
        for _ in 0..4 {
            for path in [manifest("a/b", "v1"), layer.clone()] {
                let answer = proxy.get(&path).await;
                assert_eq!(answer.refusal(), (503, "UNAVAILABLE".into()), "{shortage}");
                assert_eq!(answer.header("retry-after"), Some("1"));
                let text = String::from_utf8_lossy(&answer.body);
                assert!(text.contains("this proxy has run out of descriptors"), "{text}");
            }
        }
        assert_eq!(origin.connections(), 0);
        assert_eq!(proxy.metric("roadstead_upstream_breaker_open", &[]), 0, "{shortage}");
        proxy.look_up(LOOPBACK);
        assert_eq!(proxy.get(&manifest("a/b", "v1")).await.status, 200, "{shortage}");
        assert_eq!(proxy.get(&layer).await.status, 200, "{shortage}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cached_is_served_through_a_shortage() {
    let (origin, image, proxy) = by_name().await;
    assert_eq!(proxy.get(&manifest("a/b", "v1")).await.status, 200);
    origin.stop().await;
    origin.resume();
    proxy.look_up(Err(libc::EMFILE));
    proxy.clock().advance(Duration::from_hours(1));
    let stale = proxy.get(&manifest("a/b", "v1")).await;
    assert_eq!((stale.status, &stale.body), (200, &image.manifest.bytes));
    assert!(stale.headers.contains_key("warning"));
}
