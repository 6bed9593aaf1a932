//! Something else in the place of a file or folder of the cache: it is told and left alone, and
//! everything is served all the same. Only a link may be meant, and is refused where it would cost
//! everything.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use roadstead::app::{App, Environment};

use crate::support::disk::Disk;
use crate::support::eventually;
use crate::support::image::Image;
use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, Setup, blob, manifest};
use crate::support::pulled::pull_exactly;

const MIB: u64 = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Folder,
    File,
    Pipe,
    Socket,
    Link,
    LinkToNothing,
}

impl Kind {
    const ALL: [Self; 6] =
        [Self::Folder, Self::File, Self::Pipe, Self::Socket, Self::Link, Self::LinkToNothing];

    /// Puts one where something else was.
    fn put(self, path: &Path, elsewhere: &Path) {
        match path.symlink_metadata() {
            Ok(found) if found.is_dir() => fs::remove_dir_all(path).expect("the directory is ours"),
            Ok(_) => fs::remove_file(path).expect("the directory is ours"),
            Err(_) => {}
        }
        match self {
            Self::Folder => {
                fs::create_dir(path).expect("the directory is ours");
                fs::write(path.join("something"), "in it").expect("the directory is ours");
            }
            Self::File => fs::write(path, "something else").expect("the directory is ours"),
            Self::Pipe => {
                let made = Command::new("mkfifo").arg(path).status().expect("coreutils are there");
                assert!(made.success());
            }
            Self::Socket => drop(UnixListener::bind(path).expect("a short enough path")),
            Self::Link => symlink(elsewhere, path).expect("the directory is ours"),
            Self::LinkToNothing => symlink("nowhere", path).expect("the directory is ours"),
        }
    }
}

/// Every file below, with its content.
fn everything_in(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder").filter_map(Result::ok) {
        if entry.path().is_dir() {
            found.extend(everything_in(&entry.path()));
        } else {
            found.push((entry.path(), fs::read(entry.path()).expect("a file")));
        }
    }
    found.sort();
    found
}

async fn stored() -> (Origin, Image, Proxy) {
    let image = Image::new(1, &[300_000, 200_000]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let proxy = Setup::of(&origin).start().await;
    store_all(&image, &proxy).await;
    (origin, image, proxy)
}

async fn store_all(image: &Image, proxy: &Proxy) {
    pull_exactly(proxy, image).await;
    for layer in image.layers.iter().chain([&image.config]) {
        eventually("the blob is stored", || proxy.has_stored(&layer.digest)).await;
    }
}

/// What is cached, and what is not yet.
async fn serves_all(origin: &Origin, image: &Image, proxy: &Proxy, case: &str) {
    pull_exactly(proxy, image).await;
    let other = origin.blob("a/b", 77, MIB);
    assert_eq!(proxy.get(&blob("a/b", &other.digest)).await.digest(), other.digest, "{case}");
}

#[tokio::test(flavor = "multi_thread")]
async fn something_else_in_a_place_of_ours_keeps_nothing_from_being_served() {
    let (origin, image, mut proxy) = stored().await;
    let cache = proxy.directory().join("cache");
    let layer = proxy.blob_path(&image.layers[0].digest);
    let shelf = layer.parent().expect("a shelf").to_path_buf();
    let manifest = proxy.blob_path(&image.manifest.digest);
    let folders = ["staging", "blobs", "blobs/sha256", "keys"];
    let folders = folders.iter().map(|name| cache.join(name)).chain([shelf]);
    let files = ["LOCK", "keys/access", "keys/revoked", "records.sqlite"];
    let files = files.map(|name| cache.join(name));
    let files = files.into_iter().chain([layer, manifest]);
    let of_folders = [Kind::File, Kind::Pipe, Kind::Link];
    let of_files = [Kind::Folder, Kind::Pipe, Kind::Link];
    let cases = folders.map(|place| (place, of_folders)).chain(files.map(|file| (file, of_files)));
    proxy.stop().await;
    let copy = proxy.directory().join("copy");
    copy_folder(&cache, &copy);
    for (place, kinds) in cases {
        for kind in kinds {
            let elsewhere = tempfile::tempdir().expect("a temporary directory");
            // Even what is named as ours: half of a download, and a blob.
            for name in [format!("{}-1", image.layers[1].digest.hex()), "ab".repeat(32)] {
                fs::write(elsewhere.path().join(name), "valuable").expect("the directory is ours");
            }
            let before = everything_in(elsewhere.path());
            kind.put(&place, elsewhere.path());
            let case = format!("{kind:?} as {}", place.display());
            if let Some(key) = key_to_set(&cache, &place).filter(|_| kind == Kind::Link) {
                let started = App::start(&proxy.setup().config, Environment::default());
                let said = format!("{:#}", started.expect_err(&case));
                let sentence = format!("{} is a link", place.display());
                assert!(said.contains(&sentence) && said.contains(key), "{case}: {said}");
            } else {
                proxy.start().await;
                serves_all(&origin, &image, &proxy, &case).await;
                proxy.stop().await;
            }
            assert_eq!(everything_in(elsewhere.path()), before, "{case}");
            fs::remove_dir_all(&cache).expect("the directory is ours");
            copy_folder(&copy, &cache);
        }
    }
}

/// The key of the configuration that whoever has put a link there should have set: without what it
/// leads to nothing would be kept, or every process would have a key of its own.
fn key_to_set(cache: &Path, place: &Path) -> Option<&'static str> {
    match place.strip_prefix(cache).ok()?.to_str()? {
        "blobs" | "blobs/sha256" => Some("`cache.path`"),
        "keys" | "keys/access" => Some("`access.key_file`"),
        _ => None,
    }
}

fn copy_folder(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(copied.expect("coreutils are there").success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_the_place_of_a_stored_blob_holds_nobody_up() {
    for kind in Kind::ALL {
        let (origin, image, proxy) = stored().await;
        let layer = &image.layers[0];
        kind.put(&proxy.blob_path(&layer.digest), Path::new("/etc/passwd"));
        // More of them than there are threads that may wait for the disk.
        let gets = (0..20).map(|_| async { proxy.get(&blob("a/b", &layer.digest)).await });
        for answer in futures_util::future::join_all(gets).await {
            assert!(!answer.complete || answer.digest() == layer.digest, "{kind:?}");
        }
        pull_exactly(&proxy, &image).await;
        assert!(origin.blob_gets(&layer.digest) > 1, "{kind:?}");
        if kind != Kind::Folder {
            let is_file = || {
                let found = proxy.blob_path(&layer.digest).symlink_metadata();
                found.is_ok_and(|found| found.is_file() && found.len() == layer.len())
            };
            eventually("it is in its place again", is_file).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_another_user_could_have_changed_is_not_believed() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let (origin, image, mut proxy) = stored().await;
    proxy.stop().await;
    let layer = &image.layers[0];
    let path = proxy.blob_path(&layer.digest);
    let modified = path.metadata().expect("stored").modified().expect("a time");
    let mut bytes = layer.bytes().to_vec();
    bytes[1000] ^= 1;
    fs::write(&path, bytes).expect("the directory is ours");
    let file = fs::File::options().write(true).open(&path).expect("stored");
    file.set_modified(modified).expect("the directory is ours");
    chown(&path, Some(1000), Some(1000)).expect("root may");
    proxy.start().await;
    pull_exactly(&proxy, &image).await;
    assert_eq!(origin.blob_gets(&layer.digest), 2);
    eventually("it is ours again", || path.metadata().is_ok_and(|found| found.uid() == 0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_changed_is_served_and_told() {
    let Some(disk) = Disk::of(32) else { return };
    let image = Image::new(1, &[300_000, 200_000]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let mut setup = Setup::of(&origin);
    setup.config.cache.path = disk.path("cache");
    let mut proxy = setup.start().await;
    store_all(&image, &proxy).await;
    proxy.stop().await;
    let layer = proxy.blob_path(&image.layers[0].digest);
    let shelf = layer.parent().expect("a shelf").to_path_buf();
    let names = ["", "LOCK", "staging", "blobs", "blobs/sha256", "keys", "keys/access"];
    let places = names.map(|name| disk.path("cache").join(name));
    for place in places.into_iter().chain([disk.path("cache/records.sqlite"), layer, shelf]) {
        let set = |how: &str| {
            let set = Command::new("chattr").arg(how).arg(&place).status();
            assert!(set.expect("e2fsprogs are there").success(), "{how} {}", place.display());
        };
        set("+i");
        proxy.start().await;
        serves_all(&origin, &image, &proxy, &place.display().to_string()).await;
        proxy.stop().await;
        set("-i");
    }
    proxy.start().await;
    assert_eq!(proxy.get(&manifest("a/b", "v1")).await.status, 200);
}
