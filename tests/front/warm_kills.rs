//! kill -9 of `roadstead warm` where no server runs, and of the command beside one, at any moment: it
//! goes on from there, no wrong byte is kept, and the end is the same.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use roadstead::oci::{Algorithm, Digest};
use tokio::time::Instant;

use crate::support::content::Blob;
use crate::support::how_often;
use crate::support::image::Image;
use crate::support::origin::{Fault, Kind, On, Origin};
use crate::support::proxy::{Proxy, Setup};

/// How often it is killed, if `KILLS_WARM` does not say.
const KILLS: u64 = 6;
const TAGS: [&str; 3] = ["v1", "v2", "v3"];
/// Bytes a second of each blob, so that there is something to interrupt.
const RATE: u64 = 8 << 20;

/// Moments, from a seed.
struct Moments(u64);

impl Moments {
    fn within(&mut self, whole: Duration) -> Duration {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        whole * u32::try_from(self.0 >> 48).expect("16 bits") / 65_536
    }
}

fn warm(setup: &Setup, origin: &Origin) -> Command {
    let cache = &setup.config.cache.path;
    let file = cache.with_file_name("warm.yaml");
    let text = format!(
        "cache: {{ path: '{}', min_free: 0 }}\nupstreams: {{ docker.io: {{ url: '{}' }} }}\n\
         access: {{ rules: [{{ who: anonymous, allow: [pull], images: ['**'] }}] }}\n",
        cache.display(),
        origin.url()
    );
    std::fs::write(&file, text).expect("writable");
    let mut command = Command::new(env!("CARGO_BIN_EXE_roadstead"));
    command.arg("warm").args(TAGS.map(|tag| format!("a/b:{tag}"))).arg("--config").arg(file);
    command.env_remove("RUST_LOG").env_remove("ROADSTEAD_CONFIG");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Every stored file by its name, each of which has to hash to it.
fn stored(cache: &Path) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    let Ok(shelves) = std::fs::read_dir(cache.join("blobs/sha256")) else { return found };
    let files = shelves
        .flat_map(|shelf| std::fs::read_dir(shelf.expect("readable").path()).expect("a folder"));
    for file in files {
        let path = file.expect("readable").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let bytes = std::fs::read(&path).expect("readable");
        assert_eq!(Digest::of(Algorithm::Sha256, &bytes).hex(), name, "wrong bytes");
        found.insert(name, bytes.len() as u64);
    }
    found
}

async fn to_the_end(setup: &Setup, origin: &Origin) -> Duration {
    let (begin, mut command) = (Instant::now(), warm(setup, origin));
    let output = tokio::task::spawn_blocking(move || command.output().expect("it runs")).await;
    let output = output.expect("no panic");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    begin.elapsed()
}

/// Whether it was killed before it came to its end.
async fn killed(setup: &Setup, origin: &Origin, moment: Duration) -> bool {
    let mut child = warm(setup, origin).spawn().expect("it runs");
    tokio::time::sleep(moment).await;
    child.kill().expect("it is ours");
    let status = tokio::task::spawn_blocking(move || child.wait().expect("it has ended")).await;
    !status.expect("no panic").success()
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_it_goes_on_and_ends_the_same() {
    let shared = Blob::seeded(7, 2_000_000);
    let origin = Origin::start().await;
    for (tag, seed) in TAGS.iter().zip(1..) {
        let own = [1_500_000, 700_000].map(|len| Blob::seeded(seed * 10 + len % 7, len));
        origin.push(
            "a/b",
            tag,
            &Image::of(seed, own.into_iter().chain([shared.clone()]).collect()),
        );
    }
    origin.fault(On::kind(Kind::Blob), Fault::Rate(RATE));
    let (setup, kills) = (Setup::of(&origin), how_often("KILLS_WARM", KILLS));
    let cache = setup.config.cache.path.clone();
    let whole = to_the_end(&setup, &origin).await;
    let expected = stored(&cache);
    assert_eq!(expected.len(), 3 + 3 + 7, "manifests, configurations, layers");
    let (mut moments, mut hit) = (Moments(kills + 41), 0);
    for nth in 0..kills {
        // Every third goes on where the last one was killed.
        // One that was killed at once has made none.
        if nth % 3 != 2 && cache.exists() {
            std::fs::remove_dir_all(&cache).expect("ours");
        }
        hit += u64::from(killed(&setup, &origin, moments.within(whole * 3 / 4)).await);
        stored(&cache);
        if nth % 3 != 0 {
            to_the_end(&setup, &origin).await;
            assert_eq!(stored(&cache), expected, "after kill {nth}");
        }
    }
    println!(
        "kills of warm alone: {kills}, {hit} before its end; no wrong byte, all ended the same"
    );
    assert!(hit * 3 >= kills, "too few of the kills hit: {hit}");
}

/// The command beside a server: what it had begun ends, and the server serves on.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_killed_beside_a_server_harms_nobody() {
    let origin = Origin::start().await;
    for (tag, seed) in TAGS.iter().zip(1..) {
        origin.push("a/b", tag, &Image::new(seed, &[900_000, 400_000]));
    }
    origin.fault(On::kind(Kind::Blob), Fault::Rate(RATE));
    let beside = Setup::of(&origin);
    let cache = beside.config.cache.path.clone();
    let proxy: Proxy = beside.start().await;
    let mut setup = Setup::of(&origin);
    setup.config.cache.path = cache.clone();
    let mut moments = Moments(5);
    for _ in 0..how_often("KILLS_WARM", KILLS) {
        killed(&setup, &origin, moments.within(Duration::from_millis(400))).await;
    }
    to_the_end(&setup, &origin).await;
    assert_eq!(stored(&cache).len(), 3 + 3 + 6);
    for request in origin.requests().iter().filter(|request| request.is_get(Kind::Blob)) {
        let digest = Digest::parse(&request.reference).expect("a digest");
        assert_eq!(origin.blob_gets(&digest), 1, "joined, or found: {digest}");
    }
    drop(proxy);
}
