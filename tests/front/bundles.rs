//! Images that are carried to where no registry is: `roadstead export`, `inventory` and `import`, the
//! real commands, beside servers and without (docs/bundles.md).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::content::{Blob, Content};
use crate::support::image::{Image, Manifest, OCI_INDEX, OCI_MANIFEST};
use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, Setup, blob, manifest};
use crate::support::pulled::{paths, pull_exactly};

/// One side of the gap.
struct Side {
    origin: Origin,
    proxy: Proxy,
}

impl Side {
    async fn with(origin: Origin) -> Self {
        let proxy = Proxy::of(&origin).await;
        Self { origin, proxy }
    }

    /// Where everything is sealed: whatever is asked of the registry would be seen.
    async fn sealed() -> Self {
        let origin = Origin::start().await;
        let text = format!(
            "cache: {{ path: CACHE }}\ndrain_delay: 0s\nsealed: true\nupstreams:\n  docker.io: {{ url: '{}' }}\n",
            origin.url()
        );
        let proxy = Setup::written(&text).start().await;
        Self { origin, proxy }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.proxy.directory().join(name)
    }

    /// Exit code, stdout and stderr.
    fn run(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let (config, cache) = (self.path("command.yaml"), self.path("cache"));
        let text = format!(
            "cache: {{ path: '{}', min_free: 0 }}\nupstreams: {{ docker.io: {{ url: '{}' }} }}\n\
             access: {{ rules: [{{ who: anonymous, allow: [pull], images: ['**'] }}] }}\n",
            cache.display(),
            self.origin.url()
        );
        fs::write(&config, text).expect("writable");
        let mut command = Command::new(env!("CARGO_BIN_EXE_roadstead"));
        command.args(arguments).arg("--config").arg(config).stdin(Stdio::null());
        command.env_remove("RUST_LOG").env_remove("ROADSTEAD_CONFIG");
        let output = tokio::task::block_in_place(|| command.output().expect("it runs"));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    }

    fn done(&self, arguments: &[&str]) -> String {
        let (code, out, errors) = self.run(arguments);
        assert_eq!((code, errors.as_str()), (Some(0), ""), "{out}");
        out
    }

    /// The sentence of a command that has failed.
    fn refused(&self, arguments: &[&str]) -> String {
        let (code, out, errors) = self.run(arguments);
        assert_eq!(code, Some(1), "{out}{errors}");
        errors
    }

    fn export(&self, images: &[&str], more: &[&str]) -> PathBuf {
        let out =
            self.path(&format!("bundle-{}", fs::read_dir(self.path("")).expect("ours").count()));
        let place = ["--out", out.to_str().expect("text")];
        self.done(&[&["export"], images, &place, more].concat());
        out
    }

    fn asks_nothing(&self) {
        assert_eq!((self.origin.requests().len(), self.proxy.lookups().len()), (0, 0));
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

/// A side that has `a/b:v1`, and a bundle of it.
async fn exported() -> (Side, Image, PathBuf) {
    let image = Image::new(1, &[300_000, 5000]);
    let side = Side::with(Origin::with("a/b", "v1", &image).await).await;
    let bundle = side.export(&["a/b:v1"], &[]);
    (side, image, bundle)
}

/// Nothing of the image can be pulled.
async fn sees_nothing(side: &Side, image: &Image) {
    for path in paths(image) {
        assert_eq!(side.proxy.get(&path).await.status, 404, "{path}");
    }
}

/// Keys as `roadstead licence keygen` makes them: private, public.
fn keys(side: &Side, name: &str) -> [PathBuf; 2] {
    let base = side.path(name);
    let mut keygen = Command::new(env!("CARGO_BIN_EXE_roadstead"));
    let made = keygen.args(["licence", "keygen"]).arg(&base).output().expect("it runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    ["key", "pub"].map(|end| base.with_extension(end))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_exported_is_served_where_no_registry_is() {
    let (near, image, bundle) = exported().await;
    let far = Side::sealed().await;
    let out = far.done(&["import", text(&bundle), "--unsigned"]);
    assert_eq!(out, "new       docker.io/a/b:v1\n");
    pull_exactly(&far.proxy, &image).await;
    far.asks_nothing();
    assert_eq!(near.origin.blob_gets(&image.layers[0].digest), 1);
    let out = far.done(&["import", text(&bundle), "--unsigned"]);
    assert_eq!(out, "present   docker.io/a/b:v1\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_imported_is_pinned_unless_somebody_says_otherwise() {
    let (_near, _, bundle) = exported().await;
    for (more, pinned) in [(&["--no-pin"][..], false), (&[], true)] {
        let far = Side::sealed().await;
        far.done(&[&["import", text(&bundle), "--unsigned"], more].concat());
        let listed: Value = serde_json::from_str(&far.done(&["images", "--json"])).expect("JSON");
        assert_eq!(listed["images"][0]["pinned"], pinned, "{more:?}: {listed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_the_same_without_servers() {
    let (mut near, image, with) = exported().await;
    near.proxy.stop().await;
    let without = near.export(&["a/b:v1"], &[]);
    assert_eq!(contents(&with), contents(&without));
    let mut far = Side::sealed().await;
    far.proxy.stop().await;
    let out = far.done(&["import", text(&without), "--unsigned"]);
    assert_eq!(out, "new       docker.io/a/b:v1\n");
    far.proxy.start().await;
    pull_exactly(&far.proxy, &image).await;
    far.asks_nothing();
}

/// The files of a bundle but for its statement.
fn contents(bundle: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for name in ["index.json", "oci-layout"] {
        files.insert(name.into(), fs::read(bundle.join(name)).expect("it is there"));
    }
    for entry in fs::read_dir(bundle.join("blobs/sha256")).expect("it is there").flatten() {
        files.insert(
            entry.path().file_name().expect("a name").into(),
            fs::read(entry.path()).expect("readable"),
        );
    }
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_a_trusted_key_has_signed_is_taken() {
    let (near, image, unsigned) = exported().await;
    let [[ours, ours_public], [theirs, _]] = ["ours", "theirs"].map(|name| keys(&near, name));
    let signed = near.export(&["a/b:v1"], &["--sign", text(&ours)]);
    let stranger = near.export(&["a/b:v1"], &["--sign", text(&theirs)]);
    let far = Side::sealed().await;
    let trust = ["--trust", text(&ours_public)];
    let import = |bundle| [&["import", bundle], trust.as_slice()].concat();
    assert!(far.refused(&import(text(&unsigned))).contains("it is not signed"));
    assert!(far.refused(&import(text(&stranger))).contains("only"));
    let statement = signed.join("roadstead-bundle.json");
    let written = fs::read_to_string(&statement).expect("text");
    let other = fs::read_to_string(unsigned.join("roadstead-bundle.json")).expect("text");
    let payload =
        |text: &str| serde_json::from_str::<Value>(text).expect("JSON")["payload"].clone();
    let mut swapped: Value = serde_json::from_str(&written).expect("JSON");
    swapped["payload"] = payload(&other);
    fs::write(&statement, swapped.to_string()).expect("writable");
    assert!(far.refused(&import(text(&signed))).contains("was changed"));
    sees_nothing(&far, &image).await;
    assert!(!far.proxy.has_stored(&image.config.digest), "not one byte has come");
    fs::write(&statement, written).expect("writable");
    far.done(&import(text(&signed)));
    pull_exactly(&far.proxy, &image).await;
    let (code, ..) = far.run(&["import", text(&signed)]);
    assert_eq!(code, Some(2), "somebody has to be trusted");
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_was_changed_is_refused_and_nothing_of_the_image_is_visible() {
    let (_near, image, bundle) = exported().await;
    let layer = bundle.join("blobs/sha256").join(image.layers[0].digest.hex());
    let right = fs::read(&layer).expect("readable");
    let mut wrong = right.clone();
    wrong[299_999] ^= 1;
    for changed in [wrong, right[..299_999].to_vec(), [right.as_slice(), b"x"].concat()] {
        let far = Side::sealed().await;
        fs::write(&layer, changed).expect("writable");
        let errors = far.refused(&["import", text(&bundle), "--unsigned"]);
        assert!(errors.contains(image.layers[0].digest.hex()), "{errors}");
        sees_nothing(&far, &image).await;
        fs::write(&layer, &right).expect("writable");
        far.done(&["import", text(&bundle), "--unsigned"]);
        pull_exactly(&far.proxy, &image).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delta_has_what_the_other_side_lacks_and_a_lost_one_blocks_nothing() {
    let (near, _, first) = exported().await;
    let far = Side::sealed().await;
    far.done(&["import", text(&first), "--unsigned"]);
    let inventory = far.path("inventory.json");
    fs::write(&inventory, far.done(&["inventory"])).expect("writable");
    // One layer is new.
    let image = Image::of(2, vec![Blob::seeded(1_000_000, 300_000), Blob::seeded(77, 40_000)]);
    near.origin.push("a/b", "v1", &image);
    near.origin.push("a/b", "v2", &image);
    let lost = near.export(&["a/b:v2"], &["--against", text(&inventory)]);
    let size = |bundle: &Path| contents(bundle).values().map(Vec::len).sum::<usize>();
    let shared = Image::of(3, vec![image.layers[0].clone(), Blob::seeded(78, 900)]);
    near.origin.push("a/b", "v3", &shared);
    let later = near.export(&["a/b:v2", "a/b:v3"], &["--against", text(&inventory)]);
    assert!(size(&later) > size(&lost), "what was lost is in the next one");
    far.done(&["import", text(&later), "--unsigned"]);
    let inventory_now = far.path("later.json");
    fs::write(&inventory_now, far.done(&["inventory"])).expect("writable");
    let nothing = near.export(&["a/b:v2", "a/b:v3"], &["--against", text(&inventory_now)]);
    let against_bundle = near.export(&["a/b:v2", "a/b:v3"], &["--against", text(&later)]);
    let names = |bundle: &Path| contents(bundle).into_keys().collect::<Vec<_>>();
    assert_eq!(names(&nothing), names(&against_bundle));
    let manifests = 2;
    assert_eq!(names(&nothing).len(), 2 + manifests, "manifests alone");
    for (tag, image) in [("v2", &image), ("v3", &shared)] {
        assert_eq!(far.proxy.get(&manifest("a/b", tag)).await.body, image.manifest.bytes);
        for layer in &image.layers {
            assert_eq!(far.proxy.get(&blob("a/b", &layer.digest)).await.digest(), layer.digest);
        }
    }
    far.asks_nothing();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_which_something_is_missing_is_refused_and_named() {
    let (near, image, first) = exported().await;
    let update = near.export(&["a/b:v1"], &["--against", text(&first)]);
    let far = Side::sealed().await;
    let errors = far.refused(&["import", text(&update), "--unsigned"]);
    assert!(errors.contains("docker.io/a/b:v1: not all of it is here"), "{errors}");
    sees_nothing(&far, &image).await;
    // In whatever order.
    far.done(&["import", text(&first), "--unsigned"]);
    pull_exactly(&far.proxy, &image).await;
    far.done(&["import", text(&update), text(&first), "--unsigned"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_move_forward_in_time_only() {
    let (near, old, first) = exported().await;
    let new = Image::new(2, &[1000]);
    near.origin.push("a/b", "v1", &new);
    // What the registry said of the tag a day ago is asked for again.
    near.proxy.clock().advance(std::time::Duration::from_hours(24));
    near.proxy.get(&manifest("a/b", "v1")).await;
    let second = near.export(&["a/b:v1"], &[]);
    let far = Side::sealed().await;
    far.done(&["import", text(&first), "--unsigned"]);
    let out = far.done(&["import", text(&second), "--unsigned"]);
    assert_eq!(out, "moved     docker.io/a/b:v1\n");
    let errors = far.refused(&["import", text(&first), "--unsigned"]);
    assert!(errors.contains("newer"), "{errors}");
    pull_exactly(&far.proxy, &new).await;
    let by_digest = far.proxy.get(&manifest("a/b", &old.manifest.digest)).await;
    assert_eq!(by_digest.body, old.manifest.bytes);
    far.done(&["import", text(&first), "--unsigned", "--force"]);
    pull_exactly(&far.proxy, &old).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_is_a_bundle_too() {
    let (near, image, _) = exported().await;
    let (config, archive) = (near.path("command.yaml"), near.path("bundle.tar"));
    let mut export = Command::new(env!("CARGO_BIN_EXE_roadstead"));
    export.args(["export", "a/b:v1", "--out", "-", "--config"]).arg(config);
    export.stdout(fs::File::create(&archive).expect("writable"));
    let status = tokio::task::block_in_place(|| export.status().expect("it runs"));
    assert!(status.success());
    let far = Side::sealed().await;
    far.done(&["import", text(&archive), "--unsigned"]);
    pull_exactly(&far.proxy, &image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn platforms_that_nobody_wanted_are_left_out_and_what_is_attached_comes_along() {
    let [amd64, arm64] = [1, 2].map(|seed| Image::new(seed, &[1000 * seed]));
    let origin = Origin::with("a/b", "amd64", &amd64).await;
    origin.push("a/b", "arm64", &arm64);
    let entry = |image: &Image, architecture: &str| {
        json!({
            "mediaType": OCI_MANIFEST, "digest": image.manifest.digest.as_str(),
            "size": image.manifest.bytes.len(),
            "platform": { "os": "linux", "architecture": architecture },
        })
    };
    let entries = [entry(&amd64, "amd64"), entry(&arm64, "arm64")];
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries });
    let index = Manifest::new(OCI_INDEX, index.to_string());
    origin.put_manifest("a/b", &index);
    origin.tag("a/b", "v1", &index.digest);
    let signature = Image::new(9, &[100]);
    let signed = format!("{}.sig", index.digest.as_str().replace(':', "-"));
    origin.push("a/b", &signed, &signature);
    // An SBOM that only the referrers API tells of.
    let empty = Blob::new(Content::given(&b"{}"[..]));
    origin.put_blob("a/b", &empty);
    let listed = |manifest: &Manifest| {
        json!({
            "mediaType": OCI_MANIFEST, "digest": manifest.digest.as_str(),
            "size": manifest.bytes.len(), "artifactType": "application/spdx+json",
        })
    };
    let part = json!({
        "mediaType": "application/vnd.oci.empty.v1+json", "digest": empty.digest.as_str(), "size": 2,
    });
    let sbom = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": "application/spdx+json",
        "config": part, "layers": [part], "subject": {
            "mediaType": OCI_INDEX, "digest": index.digest.as_str(), "size": index.bytes.len(),
        },
    });
    let sbom = Manifest::new(OCI_MANIFEST, sbom.to_string());
    origin.put_manifest("a/b", &sbom);
    let referrers =
        json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [listed(&sbom)] });
    origin.put_referrers(&index.digest, referrers.to_string());
    let near = Side::with(origin).await;
    let bundle = near.export(&["a/b:v1 platform=linux/amd64"], &[]);
    let far = Side::sealed().await;
    let out = far.done(&["import", text(&bundle), "--unsigned"]);
    assert_eq!(out.lines().count(), 3, "{out}");
    assert_eq!(far.proxy.get(&manifest("a/b", &sbom.digest)).await.body, sbom.bytes);
    let found = far.proxy.get(&format!("/v2/a/b/referrers/{}", index.digest)).await.body;
    let found: Value = serde_json::from_slice(&found).expect("JSON");
    assert_eq!(found["manifests"][0]["digest"], sbom.digest.as_str(), "{found}");
    assert_eq!(far.proxy.get(&manifest("a/b", "v1")).await.body, index.bytes);
    let by_digest = |image: &Image| manifest("a/b", &image.manifest.digest);
    assert_eq!(far.proxy.get(&by_digest(&amd64)).await.body, amd64.manifest.bytes);
    assert_eq!(far.proxy.get(&by_digest(&arm64)).await.status, 404);
    assert_eq!(far.proxy.get(&manifest("a/b", &signed)).await.body, signature.manifest.bytes);
    let layer = &signature.layers[0].digest;
    assert_eq!(far.proxy.get(&blob("a/b", layer)).await.digest(), *layer);
    far.asks_nothing();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_imported_stays_what_access_rules_let_see() {
    let (_near, image, bundle) = exported().await;
    let origin = Origin::start().await;
    let rules = format!(
        "cache: {{ path: CACHE }}\ndrain_delay: 0s\nsealed: true\nupstreams:\n  docker.io: {{ url: '{}' }}\n\
         access: {{ rules: [{{ who: anonymous, allow: [pull], images: ['docker.io/x/**'] }}] }}\n",
        origin.url()
    );
    let proxy = Setup::written(&rules).start().await;
    let far = Side { origin, proxy };
    far.done(&["import", text(&bundle), "--unsigned"]);
    for path in paths(&image) {
        assert_ne!(far.proxy.get(&path).await.status, 200, "{path}");
        let elsewhere = path.replace("a/b", "x/y");
        assert_eq!(far.proxy.get(&elsewhere).await.status, 404, "{elsewhere}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_an_upstream_that_is_not_here_is_refused_with_a_sentence() {
    let (_near, _, bundle) = exported().await;
    let origin = Origin::start().await;
    let mut far = Side { proxy: Proxy::of(&origin).await, origin };
    far.proxy.stop().await;
    let config = far.path("other.yaml");
    let cache = far.path("cache");
    let yaml = format!(
        "cache: {{ path: '{}', min_free: 0 }}\nupstreams: {{ quay.io: {{ url: '{}' }} }}\n",
        cache.display(),
        far.origin.url()
    );
    fs::write(&config, yaml).expect("writable");
    let mut import = Command::new(env!("CARGO_BIN_EXE_roadstead"));
    import.args(["import", text(&bundle), "--unsigned", "--config"]).arg(&config);
    let output = tokio::task::block_in_place(|| import.output().expect("it runs"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("docker.io/a/b:v1: no upstream docker.io is configured"), "{errors}");
    assert_eq!(output.status.code(), Some(1));
}
