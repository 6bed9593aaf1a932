//! A sealed upstream: nobody is asked, what is here is served however old it is, and what is not is
//! told as such at once (SEAL-1 to SEAL-6).

use std::time::Duration;

use http::Method;
use roadstead::clock::Timestamp;
use serde_json::json;

use crate::support::client::Answer;
use crate::support::content::{Blob, Content};
use crate::support::eventually;
use crate::support::image::{Image, Manifest, OCI_INDEX, OCI_MANIFEST};
use crate::support::origin::{Auth, Bearer, Fault, Gate, Kind, On, Origin};
use crate::support::proxy::{Proxy, Setup, blob, manifest};
use crate::support::pulled::{paths, pull};

const DAY: Duration = Duration::from_hours(24);
const MIB: u64 = 1 << 20;

/// A configuration with this upstream, and what else it says of it and at the top.
fn text(origin: &Origin, of_upstream: &str, top: &str) -> String {
    let url = origin.url();
    format!(
        "cache: {{ path: CACHE, min_free: 1MiB }}\ndrain_delay: 0s\n{top}\nupstreams:\n  docker.io: {{ url: '{url}', {of_upstream} }}\n"
    )
}

/// Seals the upstream while the proxy runs, and opens it.
async fn seal(proxy: &Proxy, origin: &Origin, sealed: bool) {
    let (_, refused) = proxy.reconfigure(&text(origin, &format!("sealed: {sealed}"), "")).await;
    assert_eq!(refused, 0);
}

/// A proxy that has pulled `a/b:v1` and is sealed since.
async fn pulled_and_sealed() -> (Origin, Image, Proxy) {
    let image = Image::new(1, &[300_000]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let proxy = Setup::written(&text(&origin, "", "")).start().await;
    pull(&proxy, &image).await;
    seal(&proxy, &origin, true).await;
    (origin, image, proxy)
}

/// What was asked of the registry, how often it was dialled, and which names were looked up.
fn asked(origin: &Origin, proxy: &Proxy) -> (usize, usize, usize) {
    (origin.requests().len(), origin.connections(), proxy.lookups().len())
}

/// A miss of a sealed upstream, with a sentence that says so.
fn assert_sealed(answer: &Answer, code: &str, what: &str) {
    assert_eq!(answer.refusal(), (404, code.to_owned()), "{what}");
    let message = answer.message();
    assert!(message.contains("sealed") && message.contains("misses"), "{what}: {message}");
}

async fn assert_whole(proxy: &Proxy, image: &Image, when: &str) {
    for path in paths(image) {
        let answer = proxy.get(&path).await;
        assert_eq!((answer.status, answer.complete), (200, true), "{when}: {path}");
        assert_eq!(answer.header("warning"), None, "{when}: {path}");
        let head = proxy.head(&path).await;
        let length = head.header("content-length").map(str::to_owned);
        assert_eq!((head.status, length), (200, Some(answer.body.len().to_string())), "{path}");
    }
    let layer = &image.layers[0];
    let part = proxy.get_range(&blob("a/b", &layer.digest), "bytes=1000-1999").await;
    assert_eq!((part.status, part.body.len()), (206, 1000), "{when}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_here_is_served_however_old_it_is_and_nobody_is_asked() {
    let (origin, image, mut proxy) = pulled_and_sealed().await;
    origin.untag("a/b", "v1");
    let before = asked(&origin, &proxy);
    assert_whole(&proxy, &image, "at once").await;
    proxy.clock().advance(800 * DAY);
    assert_whole(&proxy, &image, "two years later").await;
    let now = proxy.clock().now().unix();
    proxy.clock().set(Timestamp::from_unix(now.checked_sub(2000 * DAY).expect("late enough")));
    assert_whole(&proxy, &image, "by a clock from before").await;
    proxy.restart().await;
    // It starts as its file says.
    proxy.setup().config.upstreams[0].sealed = true;
    proxy.restart().await;
    assert_whole(&proxy, &image, "after a restart").await;
    assert_eq!(asked(&origin, &proxy), before);
}

/// What somebody may ask for that is not here, and the code of the answer.
fn absent(image: &Image) -> [(String, &'static str); 7] {
    let digest = &image.manifest.digest;
    [
        (manifest("a/b", "v2"), "MANIFEST_UNKNOWN"),
        (manifest("a/b", digest), "MANIFEST_UNKNOWN"),
        (manifest("c/d", "v1"), "MANIFEST_UNKNOWN"),
        (blob("a/b", &image.config.digest), "BLOB_UNKNOWN"),
        (blob("c/d", &image.layers[0].digest), "BLOB_UNKNOWN"),
        ("/v2/c/d/tags/list".to_owned(), "NAME_UNKNOWN"),
        ("/v2/c/d/tags/list?n=5&last=x".to_owned(), "NAME_UNKNOWN"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_miss_is_told_at_once_whatever_the_upstream_did_before() {
    let faults: [(&str, Option<Fault>); 4] = [
        ("nothing", None),
        ("it was throttled", Some(Fault::Status(429))),
        ("it failed", Some(Fault::Status(503))),
        ("it is gone", None),
    ];
    for (what, fault) in faults {
        let (origin, kept, proxy) = pulled_and_sealed().await;
        let other = Image::new(2, &[1000]);
        seal(&proxy, &origin, false).await;
        if what == "it is gone" {
            origin.stop().await;
        } else if let Some(fault) = fault {
            origin.fault(On::any(), fault);
        }
        // A pause is asked for by then, a failure remembered, or the breaker open.
        for (path, _) in absent(&other).iter().take(4) {
            proxy.get(path).await;
        }
        seal(&proxy, &origin, true).await;
        let before = asked(&origin, &proxy);
        for (path, code) in absent(&other) {
            // What it has said itself counts for its ten seconds.
            if what == "nothing" {
                proxy.clock().advance(Duration::from_secs(11));
            }
            assert_sealed(&proxy.get(&path).await, code, &format!("{what}: {path}"));
            assert_eq!(proxy.head(&path).await.status, 404, "{what}: {path}");
            let part = proxy.get_range(&path, "bytes=0-9").await;
            assert_eq!(part.status, 404, "{what}: {path}");
        }
        assert_whole(&proxy, &kept, what).await;
        assert_eq!(asked(&origin, &proxy), before, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_is_that_of_its_repository_and_no_other() {
    let (_origin, image, proxy) = pulled_and_sealed().await;
    let [_, by_digest, config, layer] = paths(&image).map(|path| path.replace("a/b", "c/d"));
    assert_sealed(&proxy.get(&by_digest).await, "MANIFEST_UNKNOWN", "a manifest");
    assert_sealed(&proxy.get(&config).await, "BLOB_UNKNOWN", "a configuration");
    assert_sealed(&proxy.get(&layer).await, "BLOB_UNKNOWN", "a layer");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_miss_is_left_when_the_seal_is_taken_off() {
    let (origin, _, proxy) = pulled_and_sealed().await;
    let other = Image::new(2, &[1000]);
    origin.push("a/b", "v2", &other);
    let wanted = [
        manifest("a/b", "v2"),
        manifest("a/b", &other.manifest.digest),
        blob("a/b", &other.config.digest),
        blob("a/b", &other.layers[0].digest),
    ];
    for path in &wanted {
        assert_eq!(proxy.get(path).await.status, 404, "{path}");
    }
    let listed = |answer: &Answer| answer.json()["tags"].clone();
    assert_eq!(listed(&proxy.get("/v2/a/b/tags/list").await), json!(["v1"]));
    seal(&proxy, &origin, false).await;
    for path in &wanted {
        assert_eq!(proxy.get(path).await.status, 200, "{path}");
    }
    assert_eq!(listed(&proxy.get("/v2/a/b/tags/list").await), json!(["v1", "v2"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_upstream_is_sealed_at_the_top_and_one_may_say_otherwise() {
    let origin = Origin::with("a/b", "v1", &Image::new(1, &[1000])).await;
    let proxy = Setup::written(&text(&origin, "", "sealed: true")).start().await;
    let path = manifest("a/b", "v1");
    assert_sealed(&proxy.get(&path).await, "MANIFEST_UNKNOWN", "from the start");
    let sealed = || proxy.metric("roadstead_upstream_sealed", &[("upstream", "docker.io")]);
    assert_eq!((sealed(), origin.connections()), (1, 0));
    proxy.reconfigure(&text(&origin, "sealed: false", "sealed: true")).await;
    assert_eq!((proxy.get(&path).await.status, sealed()), (200, 0));
    proxy.reconfigure(&text(&origin, "", "sealed: true")).await;
    assert_sealed(&proxy.get(&manifest("a/b", "v2")).await, "MANIFEST_UNKNOWN", "again");
    proxy.reconfigure(&text(&origin, "", "")).await;
    assert_eq!(
        (proxy.get(&manifest("a/b", "v2")).await.message(), sealed()),
        ("no such manifest".into(), 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_under_way_is_cut_and_no_connection_stays() {
    let layer = Blob::new(Content::seeded(9, 8 * MIB));
    let image = Image::of(1, vec![layer.clone()]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let proxy = Setup::written(&text(&origin, "", "")).start().await;
    assert_eq!(proxy.get(&manifest("a/b", "v1")).await.status, 200);
    let held = origin.hold_at(&layer.digest, 5 * MIB);
    let path = blob("a/b", &layer.digest);
    let mut reading = proxy.open(&path).await;
    reading.read(1 << 20).await;
    // Others wait for an answer: one of them for what is too small to begin before it is whole.
    origin.fault(On::path(image.config.digest.as_str()), Fault::HoldAt(0, Gate::new()));
    origin.fault(On::path("/v2/"), Fault::HoldAt(0, Gate::new()));
    let waiting = [blob("a/b", &image.config.digest), manifest("a/b", "v9")];
    let waiting = waiting.map(|path| {
        let url = format!("http://{}{path}", proxy.authority());
        tokio::spawn(async move { reqwest::get(url).await.expect("an answer").status().as_u16() })
    });
    eventually("they are asked for", || origin.requests().len() >= 4).await;
    seal(&proxy, &origin, true).await;
    let cut = reading.finish().await;
    assert_eq!((cut.status, cut.complete), (200, false));
    for waiting in waiting {
        assert_eq!(waiting.await.expect("it ends"), 404);
    }
    eventually("nothing of it is left", || {
        proxy.staged_files() == 0 && proxy.metric("roadstead_fills_in_flight", &[]) == 0
    })
    .await;
    let before = asked(&origin, &proxy);
    assert_sealed(&proxy.get(&path).await, "BLOB_UNKNOWN", "afterwards");
    assert_eq!(asked(&origin, &proxy), before);
    // A connection that had been kept is a new one afterwards.
    origin.repair();
    held.open();
    seal(&proxy, &origin, false).await;
    assert_eq!(proxy.get(&path).await.digest(), layer.digest);
    assert!(origin.connections() > before.1, "no connection outlives the seal");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_token_is_fetched_and_no_helper_run() {
    let image = Image::new(1, &[1000]);
    let origin = Origin::with("a/b", "v1", &image).await;
    origin.require(Auth::Bearer(Bearer::default()));
    let mut setup = Setup::new();
    let script = "echo run >> runs; echo '{\"Username\":\"u\",\"Secret\":\"p\"}'";
    let helper = setup.helper("**", script);
    let upstream = setup.upstream("docker.io", &origin);
    (upstream.sealed, upstream.credentials) = (true, vec![helper]);
    let proxy = setup.start().await;
    for path in paths(&image) {
        assert_eq!(proxy.get(&path).await.status, 404, "{path}");
        assert_eq!(proxy.head(&path).await.status, 404, "{path}");
    }
    let runs = proxy.directory().join("runs");
    assert_eq!((runs.exists(), asked(&origin, &proxy)), (false, (0, 0, 0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_are_listed_that_can_be_pulled() {
    let (origin, _, proxy) = pulled_and_sealed().await;
    seal(&proxy, &origin, false).await;
    for n in 2..=5 {
        let image = Image::new(n, &[]);
        origin.push("a/b", &format!("v{n}"), &image);
        if n != 4 {
            assert_eq!(proxy.get(&manifest("a/b", format!("v{n}"))).await.status, 200);
        }
    }
    assert_eq!(
        proxy.get("/v2/a/b/tags/list").await.json()["tags"].as_array().map(Vec::len),
        Some(5)
    );
    seal(&proxy, &origin, true).await;
    let (mut path, mut listed) = ("/v2/a/b/tags/list?n=2".to_owned(), Vec::new());
    for _ in 0..2 {
        let answer = proxy.get(&path).await;
        assert_eq!((answer.status, answer.json()["name"].as_str()), (200, Some("a/b")));
        listed.push(answer.json()["tags"].clone());
        let Some(next) = answer.header("link") else { break };
        path = next.split(['<', '>']).nth(1).expect("a target").to_owned();
    }
    assert_eq!(listed, [json!(["v1", "v2"]), json!(["v3", "v5"])]);
    assert_eq!(proxy.get("/v2/a/b/tags/list?n=0").await.json()["tags"], json!([]));
    assert_eq!(proxy.get("/v2/a/b/tags/list?last=v3").await.json()["tags"], json!(["v5"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn referrers_are_those_that_are_here() {
    let (origin, image, mut proxy) = pulled_and_sealed().await;
    seal(&proxy, &origin, false).await;
    let subject = &image.manifest.digest;
    let artifact = |kind: &str| {
        let config = json!({ "mediaType": "application/vnd.oci.empty.v1+json", "digest": image.config.digest.as_str(), "size": 2 });
        let subject = json!({ "mediaType": OCI_MANIFEST, "digest": subject.as_str(), "size": 1 });
        let document = json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": kind,
            "config": config, "layers": [], "subject": subject, "annotations": { "of": kind } });
        Manifest::new(OCI_MANIFEST, document.to_string())
    };
    let (signature, sbom) = (artifact("application/x.signature"), artifact("application/x.sbom"));
    for artifact in [&signature, &sbom] {
        origin.put_manifest("a/b", artifact);
    }
    assert_eq!(proxy.get(&manifest("a/b", &signature.digest)).await.status, 200);
    proxy.setup().config.upstreams[0].sealed = true;
    proxy.restart().await;
    let path = format!("/v2/a/b/referrers/{subject}");
    let answer = proxy.get(&path).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some(OCI_INDEX)));
    let entry = json!({ "mediaType": OCI_MANIFEST, "digest": signature.digest.as_str(),
        "size": signature.bytes.len(), "artifactType": "application/x.signature",
        "annotations": { "of": "application/x.signature" } });
    assert_eq!(answer.json()["manifests"], json!([entry]));
    let filtered = proxy.get(&format!("{path}?artifactType=application/x.sbom")).await;
    assert_eq!(filtered.json()["manifests"], json!([]));
    assert_eq!(filtered.header("oci-filters-applied"), Some("artifactType"));
    let nobody = proxy.get(&format!("/v2/c/d/referrers/{subject}")).await;
    assert_eq!((nobody.status, nobody.json()["manifests"].clone()), (200, json!([])));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_served_while_sealed_stands_in_when_it_is_open_and_nobody_answers() {
    let (origin, image, proxy) = pulled_and_sealed().await;
    proxy.clock().advance(90 * DAY);
    origin.stop().await;
    seal(&proxy, &origin, false).await;
    for path in paths(&image) {
        assert_eq!(proxy.get(&path).await.status, 200, "{path}");
    }
    // From then on time counts as ever.
    proxy.clock().advance(2 * DAY);
    assert_eq!(proxy.get(&manifest("a/b", "v1")).await.status, 502);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_upstream_has_refused_is_not_brought_back_by_a_seal() {
    let (origin, image, proxy) = pulled_and_sealed().await;
    seal(&proxy, &origin, false).await;
    proxy.clock().advance(DAY);
    origin.fault(On::kind(Kind::Manifest), Fault::Status(403));
    assert_eq!(proxy.get(&manifest("a/b", "v1")).await.status, 404);
    seal(&proxy, &origin, true).await;
    assert_sealed(&proxy.get(&manifest("a/b", "v1")).await, "MANIFEST_UNKNOWN", "the tag");
    proxy.clock().advance(2 * DAY);
    for path in &paths(&image)[2..] {
        assert_sealed(&proxy.get(path).await, "BLOB_UNKNOWN", "what its refusal put in doubt");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ping_and_methods_that_do_not_exist_are_answered_as_ever() {
    let (origin, _, proxy) = pulled_and_sealed().await;
    let before = asked(&origin, &proxy);
    assert_eq!(proxy.get("/v2/").await.status, 200);
    assert_eq!(proxy.request(Method::PUT, &manifest("a/b", "v1"), &[]).await.status, 405);
    assert_eq!(asked(&origin, &proxy), before);
}
