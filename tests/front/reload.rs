//! What a new configuration changes while requests go on, and what takes a restart (ACCESS §8).

use std::time::Duration;

use crate::support::eventually;
use crate::support::image::Image;
use crate::support::origin::{Auth, Bearer, Kind, Login, Origin};
use crate::support::proxy::{Proxy, Setup, blob, manifest};
use crate::support::tls::Authority;

/// How often an outcome of reading `part` anew was counted.
fn reloads(proxy: &Proxy, part: &str, outcome: &str) -> i64 {
    proxy.metric("roadstead_reloads_total", &[("part", part), ("outcome", outcome)])
}

/// Looks at its files every moment, and not only when it is asked.
fn watchful(text: &str) -> Setup {
    let mut setup = Setup::written(text);
    setup.limits.watch = Duration::from_millis(20);
    setup
}

/// Docker Hub at `hub`, with one credential.
fn with_credential(hub: &Origin, credential: &str) -> String {
    let credentials = format!("credentials: [{{ {credential} }}]");
    text(&[("docker.io", hub)], "").replace("' }", &format!("', {credentials} }}"))
}

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
    // One layer and the records, whose log may have grown to more than 100 KiB.
    assert_eq!(
        proxy.reconfigure(&with("proof_ttl: 24h, tag_ttl: 1m, max_size: 500KiB")).await,
        (2, 0)
    );
    let left = || image.layers.iter().filter(|layer| proxy.has_stored(&layer.digest)).count();
    eventually("what is too much is gone", || left() == 1).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn the_key_in_use_stays_while_the_cache_directory_gives_none() {
    let hub = Origin::with("library/a", "1", &Image::new(1, &[1000])).await;
    for from_the_start in [true, false] {
        let setup = Setup::written(&text(&[("docker.io", &hub)], ""));
        let keys = setup.config.cache.path.join("keys");
        let spoil = || {
            // It may be there, or not, or be spoilt already.
            drop(std::fs::remove_dir_all(&keys));
            std::fs::create_dir_all(keys.parent().expect("the cache")).expect("it is ours");
            std::fs::write(&keys, "no folder").expect("the directory is ours");
        };
        if from_the_start {
            spoil();
        }
        let proxy = setup.start().await;
        let key_of_token = async || {
            let token = proxy.get("/token").await.json()["token"].as_str().map(str::to_owned);
            token.expect("a token").split('.').next().map(str::to_owned)
        };
        let before = key_of_token().await;
        spoil();
        for times in 1..=2 {
            proxy.reload();
            eventually("it is read again", || reloads(&proxy, "key", "loaded") == times).await;
            assert_eq!(key_of_token().await, before, "from the start: {from_the_start}");
        }
    }
}

/// Puts what was missing into the directory.
type Coming = fn(&Setup);

#[tokio::test(flavor = "multi_thread")]
async fn what_a_refused_configuration_misses_may_come_later() {
    let hub = Origin::with("library/a", "1", &Image::new(1, &[1000])).await;
    hub.require(Auth::Basic(Login { username: "robot", password: "hush" }));
    let plain = text(&[("docker.io", &hub)], "");
    let mut proxy = watchful(&plain).start().await;
    let come: [(&str, &str, Coming); 3] = [
        ("password_file", "username: robot, ", |setup| {
            setup.file("password_file", "hush\n");
        }),
        ("docker_config", "", |setup| {
            let json = r#"{"auths": {"docker.io": {"auth": "cm9ib3Q6aHVzaA"}}}"#;
            setup.file("docker_config", json);
        }),
        ("helper", "", |setup| {
            setup.helper("**", r#"printf '%s' '{"Username":"robot","Secret":"hush\r\n"}'"#);
        }),
    ];
    for (n, (source, user, come)) in come.into_iter().enumerate() {
        let name = if source == "helper" { "docker-credential-test" } else { source };
        let path = proxy.directory().join(name);
        let credential = format!("{user}{source}: '{}'", path.display());
        let refused = reloads(&proxy, "configuration", "refused");
        proxy.setup().write(&with_credential(&hub, &credential));
        let is_refused = || reloads(&proxy, "configuration", "refused") == refused + 1;
        eventually("it is refused", is_refused).await;
        assert_ne!(proxy.get(&manifest("library/a", n)).await.status, 200, "{source}: not yet");
        let before = reloads(&proxy, "configuration", "loaded");
        come(proxy.setup());
        eventually(source, || reloads(&proxy, "configuration", "loaded") == before + 1).await;
        let pulled = proxy.get(&manifest("library/a", 1)).await;
        assert_eq!(pulled.status, 200, "{source}: {:?}", pulled.body);
        proxy.setup().write(&plain);
        eventually("back", || reloads(&proxy, "configuration", "loaded") == before + 2).await;
        proxy.clock().advance(Duration::from_hours(1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_may_come_later_as_well() {
    let hub = Origin::with("library/a", "1", &Image::new(1, &[1000])).await;
    let plain = text(&[("docker.io", &hub)], "");
    let mut proxy = watchful(&plain).start().await;
    let path = proxy.directory().join("ca.pem");
    proxy.setup().write(&plain.replace("url:", &format!("ca: '{}', url:", path.display())));
    eventually("it is refused", || reloads(&proxy, "configuration", "refused") == 1).await;
    let pem = format!("\u{feff}{}", Authority::new().pem());
    proxy.setup().file("ca.pem", &pem);
    eventually("it is here", || reloads(&proxy, "configuration", "loaded") == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_between_reading_and_watching_is_seen() {
    let hub = Origin::with("library/a", "1", &Image::new(1, &[1000])).await;
    hub.require(Auth::Basic(Login { username: "robot", password: "second" }));
    let setup = Setup::new();
    let secret = setup.file("password", "first");
    let credential = format!("username: robot, password_file: '{}'", secret.display());
    let read = watchful(&with_credential(&hub, &credential));
    setup.file("password", "second");
    let proxy = read.start().await;
    eventually("it is read again", || reloads(&proxy, "configuration", "loaded") == 1).await;
    assert_eq!(proxy.get(&manifest("library/a", 1)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_has_everything_read_and_hears_what_is_wrong_again() {
    let hub = Origin::with("library/a", "1", &Image::new(1, &[1000])).await;
    let setup = Setup::new();
    let users = setup.file("users", &format!("ci:{}\n", bcrypt::hash("hush", 4).expect("a hash")));
    let access = format!(
        "access: {{ users: '{}', rules: [{{ who: anonymous, allow: [pull], images: ['**'] }}] }}\n",
        users.display()
    );
    let good = text(&[("docker.io", &hub)], &access);
    let proxy = Setup::written(&good).start().await;
    assert_eq!(proxy.reconfigure(&good).await, (1, 0), "nothing has changed");
    eventually("users as well", || reloads(&proxy, "users", "loaded") == 1).await;
    setup.file("users", "ci:plain\n");
    for times in 1..3 {
        proxy.reload();
        eventually("told each time", || reloads(&proxy, "users", "refused") == times).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_has_lost_its_rules_opens_nothing() {
    let hub = Origin::with("library/a", "1", &Image::new(1, &[1000])).await;
    let rules =
        "access:\n  rules:\n    - who: anonymous\n      allow: [list]\n      images: ['**']\n";
    let whole = text(&[("docker.io", &hub)], "") + rules;
    let proxy = Setup::written(&whole).start().await;
    for end in (0..whole.len()).filter(|end| whole[..*end].ends_with('\n')) {
        proxy.reconfigure(&whole[..end]).await;
        assert_eq!(proxy.get(&manifest("library/a", 1)).await.status, 404, "{}", &whole[..end]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_order_mark_is_no_part_of_any_file() {
    let hub = Origin::with("library/a", "1", &Image::new(1, &[1000])).await;
    hub.require(Auth::Basic(Login { username: "robot", password: "hush" }));
    let setup = Setup::new();
    let marked = |name: &str, text: &str| setup.file(name, &format!("\u{feff}{text}"));
    let hash = bcrypt::hash("secret", 4).expect("a hash");
    let users = marked("users", &format!("ci:{hash}\r\n"));
    let password = marked("password", "hush\r\n");
    let key = marked("key", &format!("{}\r\n", "k".repeat(43)));
    let credential = format!("username: robot, password_file: '{}'", password.display());
    let access = format!(
        "\naccess: {{ users: '{}', key_file: '{}', rules: [{{ who: 'user:ci', allow: [pull], images: ['**'] }}] }}\n",
        users.display(),
        key.display()
    );
    let proxy = Setup::written(&(with_credential(&hub, &credential) + &access)).start().await;
    let basic = crate::support::vendor::basic("ci", "secret");
    let path = manifest("library/a", 1);
    let answer = proxy.request(http::Method::GET, &path, &[("authorization", &basic)]).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
}
