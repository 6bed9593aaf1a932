//! kill -9 of `roadstead export` and of `roadstead import` at any moment: each goes on from there, the
//! bundle ends byte for byte as it would have, and no wrong byte is stored or served.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use roadstead::oci::{Algorithm, Digest};
use tokio::time::Instant;

use crate::support::how_often;
use crate::support::image::Image;
use crate::support::origin::Origin;

/// How often each is killed, if `KILLS_BUNDLES` does not say.
const KILLS: u64 = 4;
/// There as long as an export is not done.
const PLAN: &str = ".roadstead-export.json";
const TAGS: [&str; 3] = ["v1", "v2", "v3"];
/// Of each image.
const LAYERS: [u64; 4] = [3_000_000, 1_000_000, 70_000, 1000];

/// Moments, from a seed.
struct Moments(u64);

impl Moments {
    fn within(&mut self, whole: Duration) -> Duration {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        whole * u32::try_from(self.0 >> 48).expect("16 bits") / 65_536
    }
}

/// A folder with a cache of its own, and commands there. No server runs.
struct Place {
    folder: tempfile::TempDir,
    config: PathBuf,
}

impl Place {
    fn of(origin: &Origin) -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let config = folder.path().join("config.yaml");
        let text = format!(
            "cache: {{ path: '{}', min_free: 0 }}\nupstreams: {{ docker.io: {{ url: '{}' }} }}\n\
             access: {{ rules: [{{ who: anonymous, allow: [pull], images: ['**'] }}] }}\n",
            folder.path().join("cache").display(),
            origin.url()
        );
        std::fs::write(&config, text).expect("writable");
        Self { folder, config }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_roadstead"));
        command.args(arguments).arg("--config").arg(&self.config);
        command.env_remove("RUST_LOG").env_remove("ROADSTEAD_CONFIG");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// How long it took.
    async fn to_the_end(&self, arguments: &[&str]) -> Duration {
        let (begin, mut command) = (Instant::now(), self.command(arguments));
        let output = tokio::task::spawn_blocking(move || command.output().expect("it runs")).await;
        let output = output.expect("no panic");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        begin.elapsed()
    }

    /// Whether it was killed before it came to its end.
    async fn killed(&self, arguments: &[&str], moment: Duration) -> bool {
        self.killed_after(arguments, moment, || true).await
    }

    /// As [`Place::killed`], counted from when `begun` holds.
    async fn killed_after(
        &self,
        arguments: &[&str],
        moment: Duration,
        begun: impl Fn() -> bool,
    ) -> bool {
        let mut child = self.command(arguments).spawn().expect("it runs");
        while !begun() && child.try_wait().expect("it is ours").is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(moment).await;
        child.kill().expect("it is ours");
        let status = tokio::task::spawn_blocking(move || child.wait().expect("it ends")).await;
        !status.expect("no panic").success()
    }
}

/// The files below a folder, by their paths. Those that are named by a digest have to hash to it, whoever
/// was killed while writing.
fn files_below(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut files, mut folders) = (BTreeMap::new(), vec![folder.to_path_buf()]);
    while let Some(next) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&next) else { continue };
        for path in entries.map(|entry| entry.expect("readable").path()) {
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = std::fs::read(&path).expect("readable");
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            if name.len() == 64 {
                assert_eq!(Digest::of(Algorithm::Sha256, &bytes).hex(), name, "wrong bytes");
            }
            files.insert(path.strip_prefix(folder).expect("below").to_path_buf(), bytes);
        }
    }
    files
}

async fn registry() -> Origin {
    let origin = Origin::start().await;
    for (tag, seed) in TAGS.iter().zip(1..) {
        origin.push("a/b", tag, &Image::new(seed * 100, &LAYERS));
    }
    origin
}

fn export(out: &str) -> Vec<&str> {
    vec!["export", "a/b:v1", "a/b:v2", "a/b:v3", "--out", out]
}

/// All of a bundle but its statement, which has a number and a time of its own.
fn layout(bundle: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = files_below(bundle);
    files.remove(Path::new("roadstead-bundle.json")).expect("it is there");
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_is_killed_at_any_moment_ends_as_it_would_have() {
    let (origin, kills) = (registry().await, how_often("KILLS_BUNDLES", KILLS));
    let place = Place::of(&origin);
    let whole = place.path("whole");
    place.to_the_end(&export(whole.to_str().expect("text"))).await;
    let expected = layout(&whole);
    let again = place.path("again");
    let usual = place.to_the_end(&export(again.to_str().expect("text"))).await;
    let (mut moments, mut hit, mut planned) = (Moments(kills + 3), 0, 0);
    for nth in 0..kills {
        let out = place.path(&format!("killed-{nth}"));
        let (order, plan) = (export(out.to_str().expect("text")), out.join(PLAN));
        let is_done = || out.join("roadstead-bundle.json").exists() && !plan.exists();
        // Every other one while it writes, and all that are not done are killed a second time.
        for _ in 0..2 {
            if is_done() {
                break;
            }
            let was_hit = if nth % 2 == 0 {
                place.killed(&order, moments.within(usual)).await
            } else {
                let moment = moments.within(usual / 4);
                place.killed_after(&order, moment, || plan.exists()).await
            };
            hit += u64::from(was_hit);
            planned += u64::from(plan.exists());
            files_below(&out);
        }
        if !is_done() {
            place.to_the_end(&order).await;
        }
        assert_eq!(layout(&out), expected, "after kill {nth}");
        std::fs::remove_dir_all(&out).expect("ours");
    }
    println!(
        "exports killed: {kills}, {hit} kills before the end, {planned} of them while it was writing; no \
         wrong byte, all ended the same"
    );
    assert!(hit * 3 >= kills, "too few of the kills hit: {hit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_is_killed_at_any_moment_goes_on() {
    let (origin, kills) = (registry().await, how_often("KILLS_BUNDLES", KILLS));
    let near = Place::of(&origin);
    let bundle = near.path("bundle");
    near.to_the_end(&export(bundle.to_str().expect("text"))).await;
    let order = ["import", bundle.to_str().expect("text"), "--unsigned"];
    let nobody = Origin::start().await;
    let usual = Place::of(&nobody).to_the_end(&order).await;
    let expected =
        layout(&bundle).into_iter().filter(|(path, _)| path.starts_with("blobs")).count();
    let (mut moments, mut hit) = (Moments(kills + 5), 0);
    for nth in 0..kills {
        let far = Place::of(&nobody);
        for _ in 0..2 {
            hit += u64::from(far.killed(&order, moments.within(usual)).await);
            files_below(&far.path("cache/blobs"));
        }
        far.to_the_end(&order).await;
        assert_eq!(files_below(&far.path("cache/blobs")).len(), expected, "after kill {nth}");
        far.to_the_end(&["warm", "a/b:v1", "a/b:v2", "a/b:v3", "--referrers=false"]).await;
    }
    assert_eq!(nobody.requests().len(), 0, "all of it is proven, and the tags are fresh");
    println!("kills of imports: {}, {hit} before the end; no wrong byte, none lost", kills * 2);
    assert!(hit * 3 >= kills, "too few of the kills hit: {hit}");
}
