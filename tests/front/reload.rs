//! What a new configuration changes while requests go on, and what takes a restart (ACCESS §8).

use std::time::Duration;

use crate::support::eventually;
use crate::support::image::Image;
use crate::support::origin::{Auth, Bearer, Kind, Login, Origin};
use crate::support::proxy::{Setup, blob, manifest};

/// A configuration in front of these upstreams; `CACHE` stands for the harness's directory.
fn text(upstreams: &[(&str, &Origin)], extra: &str) -> String {
    let upstream =
        |(name, origin): &(&str, &Origin)| format!("  {name}: {{ url: '{}' }}\n", origin.url());
    let upstreams: String = upstreams.iter().map(upstream).collect();
    format!(
        "{}upstreams:\n{upstreams}",
        if extra.contains("cache") { extra.to_owned() } else { cache(extra) }
    )
}

fn cache(extra: &str) -> String {
    format!("cache: {{ path: CACHE }}\n{extra}")
}

#[tokio::test(flavor = "multi_thread")]
async fn upstreams_come_change_and_go() {
    let (first, second) = (Image::new(1, &[1000]), Image::new(2, &[1000]));
    let (hub, moved) = (
        Origin::with("library/a", "1", &first).await,
        Origin::with("library/a", "2", &second).await,
    );
    let quay = Origin::with("acme/b", "1", &first).await;
    let proxy = Setup::written(&text(&[("docker.io", &hub)], "")).start().await;
    let (one, two, other) =
        (manifest("library/a", 1), manifest("library/a", 2), manifest("quay.io/acme/b", 1));
    let statuses = async || {
        (proxy.get(&one).await.status, proxy.get(&two).await.status, proxy.get(&other).await.status)
    };
    assert_eq!(statuses().await, (200, 404, 404));
    assert_eq!(
        proxy.reconfigure(&text(&[("docker.io", &hub), ("quay.io", &quay)], "")).await,
        (1, 0)
    );
    assert_eq!(statuses().await, (200, 404, 200), "one more");
    proxy.clock().advance(Duration::from_mins(1));
    assert_eq!(
        proxy.reconfigure(&text(&[("docker.io", &moved), ("quay.io", &quay)], "")).await,
        (2, 0)
    );
    assert_eq!(statuses().await, (200, 200, 200), "at another address; what is fresh stays fresh");
    assert_eq!(proxy.reconfigure(&text(&[("docker.io", &moved)], "")).await, (3, 0));
    assert_eq!(statuses().await, (200, 200, 404), "and one less");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_stays_the_same_keeps_its_tokens() {
    let hub = Origin::with("library/a", "1", &Image::new(1, &[1000])).await;
    hub.require(Auth::Bearer(Bearer::default()));
    let quay = Origin::start().await;
    let proxy = Setup::written(&text(&[("docker.io", &hub)], "")).start().await;
    assert_eq!(proxy.get(&manifest("library/a", 1)).await.status, 200);
    let tokens = || hub.count(|request| request.kind == Kind::Token);
    let before = tokens();
    assert!(before > 0, "a token was bought");
    assert_eq!(
        proxy.reconfigure(&text(&[("docker.io", &hub), ("quay.io", &quay)], "")).await,
        (1, 0)
    );
    assert_eq!(proxy.get(&manifest("library/a", "none")).await.status, 404);
    assert_eq!(tokens(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_file_that_changes_is_a_changed_configuration() {
    let hub = Origin::with("library/a", "1", &Image::new(1, &[1000])).await;
    hub.require(Auth::Basic(Login { username: "proxy", password: "second" }));
    let setup = Setup::new();
    let secret = setup.file("password", "first");
    let credential = format!("{{ username: proxy, password_file: '{}' }}", secret.display());
    let text = format!(
        "cache: {{ path: CACHE }}\nupstreams: {{ docker.io: {{ url: '{}', credentials: [{credential}] }} }}",
        hub.url()
    );
    let proxy = Setup::written(&text).start().await;
    assert_eq!(proxy.get(&manifest("library/a", 1)).await.status, 502, "the registry rejects it");
    setup.file("password", "second");
    proxy.reload();
    let loaded = || {
        proxy.metric("roadstead_reloads_total", &[("part", "configuration"), ("outcome", "loaded")])
    };
    eventually("the password is read again", || loaded() == 1).await;
    assert_eq!(proxy.get(&manifest("library/a", 1)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn ages_and_sizes_of_the_cache_follow_the_file() {
    let image = Image::new(1, &[300_000, 300_000]);
    let hub = Origin::with("library/a", "1", &image).await;
    let with = |cache: &str| {
        text(&[("docker.io", &hub)], &format!("cache: {{ path: CACHE, min_free: 0, {cache} }}\n"))
    };
    let proxy =
        Setup::written(&with("proof_ttl: 24h, tag_ttl: 1h, max_size: 100MiB")).start().await;
    assert_eq!(proxy.get(&manifest("library/a", 1)).await.status, 200);
    for layer in &image.layers {
        assert_eq!(proxy.get(&blob("library/a", &layer.digest)).await.status, 200);
        eventually("the layer is stored", || proxy.has_stored(&layer.digest)).await;
    }
    let heads = || hub.count(|request| request.is_head(Kind::Manifest));
    let before = heads();
    proxy.clock().advance(Duration::from_mins(10));
    assert_eq!(proxy.get(&manifest("library/a", 1)).await.status, 200);
    assert_eq!(heads(), before, "fresh for an hour");
    assert_eq!(
        proxy.reconfigure(&with("proof_ttl: 24h, tag_ttl: 1m, max_size: 1MiB")).await,
        (1, 0)
    );
    assert_eq!(proxy.get(&manifest("library/a", 1)).await.status, 200);
    assert_eq!(heads(), before + 1, "and now for a minute");
    assert_eq!(proxy.metric("roadstead_store_limit_bytes", &[]), 1 << 20);
    assert_eq!(
        proxy.reconfigure(&with("proof_ttl: 24h, tag_ttl: 1m, max_size: 400KiB")).await,
        (2, 0)
    );
    let left = || image.layers.iter().filter(|layer| proxy.has_stored(&layer.digest)).count();
    assert_eq!(left(), 1, "what is too much is gone at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_under_way_survives_a_changed_upstream() {
    let image = Image::new(1, &[2_000_000]);
    let layer = &image.layers[0];
    let hub = Origin::with("library/a", "1", &image).await;
    let gate = hub.hold_at(&layer.digest, 1_000_000);
    let proxy = Setup::written(&text(&[("docker.io", &hub)], "")).start().await;
    let reading = proxy.open(&blob("library/a", &layer.digest)).await;
    eventually("half of it has come", || gate.reached() > 0).await;
    let changed = text(&[("docker.io", &hub)], "").replace("url:", "page_limit: 7, url:");
    assert_eq!(proxy.reconfigure(&changed).await, (1, 0));
    gate.open();
    assert_eq!(reading.finish().await.body, layer.bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_a_restart_or_is_wrong_changes_nothing_at_all() {
    let hub = Origin::with("library/a", "1", &Image::new(1, &[1000])).await;
    let good = text(&[("docker.io", &hub)], "");
    let proxy = Setup::written(&good).start().await;
    let closed = "access: { rules: [{ who: anonymous, allow: [list], images: ['**'] }] }\n";
    let elsewhere = good.replace("path: CACHE", "path: CACHE-2");
    let tls = "tls: { certificate: a, key: b }\n";
    let broken_ca = text(&[("docker.io", &hub)], closed).replace("url:", "ca: /dev/null, url:");
    for (wrong, times) in [
        format!("{closed}{elsewhere}"),
        format!("{closed}{tls}{good}"),
        format!("{closed}{good}  quay.io: {{ url: ftp }}\n"),
        format!("{closed}{good}  - ["),
        broken_ca,
    ]
    .iter()
    .zip(1..)
    {
        assert_eq!(proxy.reconfigure(wrong).await, (0, times), "{wrong}");
        assert_eq!(proxy.get(&manifest("library/a", 1)).await.status, 200, "{wrong}");
    }
    assert_eq!(proxy.reconfigure(&format!("{closed}{good}")).await.0, 1);
    assert_eq!(proxy.get(&manifest("library/a", 1)).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_a_replaced_key_are_good_until_they_end() {
    let hub = Origin::with("library/a", "1", &Image::new(1, &[1000])).await;
    let setup = Setup::new();
    let users =
        setup.file("users", &format!("ci:{}\n", bcrypt::hash("secret", 4).expect("a hash")));
    let key = setup.file("key", &"k".repeat(43));
    let access = format!(
        "access: {{ users: '{}', key_file: '{}', rules: [{{ who: 'user:ci', allow: [pull], images: ['**'] }}] }}\n",
        users.display(),
        key.display()
    );
    let proxy = Setup::written(&text(&[("docker.io", &hub)], &access)).start().await;
    let token = async || {
        let basic = crate::support::vendor::basic("ci", "secret");
        let answer = proxy.request(http::Method::GET, "/token", &[("authorization", &basic)]).await;
        format!("Bearer {}", answer.json()["token"].as_str().expect("a token"))
    };
    let status = async |token: &str| {
        proxy
            .request(http::Method::GET, &manifest("library/a", 1), &[("authorization", token)])
            .await
            .status
    };
    let old = token().await;
    setup.file("key", &"n".repeat(43));
    proxy.reload();
    let loaded =
        || proxy.metric("roadstead_reloads_total", &[("part", "key"), ("outcome", "loaded")]);
    eventually("the key is read", || loaded() == 1).await;
    let new = token().await;
    assert_ne!(old.split('.').next(), new.split('.').next(), "signed by another key");
    assert_eq!((status(&old).await, status(&new).await), (200, 200));
    proxy.clock().advance(Duration::from_mins(17));
    assert_eq!(status(&old).await, 401);
}
