//! `roadstead fsck`: everything that is kept is checked, and what is wrong is removed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use roadstead::oci::{Algorithm, Digest};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Serving, directory, roadstead, run, text};

/// A registry that has these blobs, in every repository.
type Blobs = BTreeMap<Digest, Vec<u8>>;

/// The same each time: sizes of 1 byte to 300 KiB, and some of several pieces.
fn blobs(count: usize) -> Blobs {
    let mut state = 0x5eed_u64;
    let blob = |n: usize| {
        let size = if n.is_multiple_of(50) { 2_500_000 } else { random(&mut state) % 300_000 + 1 };
        let content: Vec<u8> = (0..size).map(|_| random(&mut state).to_le_bytes()[3]).collect();
        let algorithm = if n.is_multiple_of(10) { Algorithm::Sha512 } else { Algorithm::Sha256 };
        (Digest::of(algorithm, &content), content)
    };
    (0..count).map(blob).collect()
}

fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

fn registry(blobs: &Arc<Blobs>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let blobs = Arc::clone(blobs);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let blobs = Arc::clone(&blobs);
            std::thread::spawn(move || answer_all(stream, &blobs));
        }
    });
    address
}

fn answer_all(mut stream: TcpStream, blobs: &Blobs) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    while let Some(first) = lines.next() {
        let first = first?;
        for line in lines.by_ref() {
            if line?.is_empty() {
                break;
            }
        }
        let path = first.split(' ').nth(1).unwrap_or_default();
        let digest = path.rsplit('/').next().and_then(|digest| Digest::parse(digest).ok());
        let body = digest.and_then(|digest| blobs.get(&digest)).map_or(&b"{}"[..], Vec::as_slice);
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len())?;
        if first.starts_with("GET") {
            stream.write_all(body)?;
        }
    }
    Ok(())
}

/// A cache that was filled by pulls, and the registry behind it.
struct Cache {
    folder: TempDir,
    config: PathBuf,
    blobs: Arc<Blobs>,
}

impl Cache {
    async fn of(count: usize) -> Self {
        let cache = Self::empty(count);
        cache.pull_all().await;
        cache
    }

    fn empty(count: usize) -> Self {
        let blobs = Arc::new(blobs(count));
        let upstream =
            format!("upstreams: {{ acme.test: {{ url: 'http://{}' }} }}\n", registry(&blobs));
        let (folder, config) = directory(&upstream);
        Self { folder, config, blobs }
    }

    /// Every blob arrives right, from wherever.
    async fn pull_all(&self) {
        let mut serving = Serving::spawn_with(&self.config, &mut roadstead(&["serve"]));
        let line = serving.until("clients=").pop().expect("the line with the address");
        let address = line.split_once("clients=").expect("it was waited for").1;
        let address = address.split_whitespace().next().expect("an address").to_owned();
        serving.read_on();
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        for (digest, content) in self.blobs.iter() {
            let url = format!("http://{address}/v2/acme.test/app/blobs/{digest}");
            let answer = client.get(url).send().await.expect("an answer");
            assert_eq!(answer.status(), 200, "{digest}");
            let body = answer.bytes().await.expect("a body");
            assert!(body == content[..], "{digest}");
        }
        serving.signal(Signal::TERM);
        assert_eq!(serving.end().0, Some(0));
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    fn file(&self, digest: &Digest) -> PathBuf {
        let (folder, hex) = (digest.algorithm().name(), digest.hex());
        self.root().join("blobs").join(folder).join(&hex[..2]).join(hex)
    }

    fn digest(&self, nth: usize) -> &Digest {
        self.blobs.keys().nth(nth).expect("so many")
    }

    fn check(&self, more: &[&str]) -> Checked {
        let mut command = roadstead(&["fsck", "--json"]);
        let output = run(command.args(more).arg("--config").arg(&self.config));
        let said = text(&output.stdout);
        let mut findings = Vec::new();
        let mut totals = Value::Null;
        for line in said.lines() {
            assert!(totals.is_null(), "the totals are last: {said}");
            let line: Value = serde_json::from_str(line).expect("JSON");
            match line.get("totals") {
                Some(found) => totals = found.clone(),
                None => findings.push(line),
            }
        }
        Checked { code: output.status.code(), findings, totals, errors: text(&output.stderr) }
    }
}

#[derive(Debug)]
struct Checked {
    code: Option<i32>,
    findings: Vec<Value>,
    totals: Value,
    errors: String,
}

impl Checked {
    fn assert_clean(&self) {
        assert_eq!((self.code, self.findings.len()), (Some(0), 0), "{self:#?}");
    }

    /// What was found where, and what became of it.
    fn told(&self) -> BTreeSet<(String, String, String)> {
        let text = |finding: &Value, key: &str| finding[key].as_str().expect("text").to_owned();
        let told = |found| (text(found, "path"), text(found, "finding"), text(found, "state"));
        self.findings.iter().map(told).collect()
    }
}

/// Changes one byte, and neither size nor time.
fn flip(path: &Path, at: u64) {
    let file = fs::File::options().read(true).write(true).open(path).expect("it is there");
    let time = file.metadata().and_then(|found| found.modified()).expect("a time");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("it is long enough");
    file.write_all_at(&[byte[0] ^ 1 << (at % 8)], at).expect("writable");
    file.set_modified(time).expect("ours");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_flipped_bytes_of_unchanged_size_and_time_are_all_found_and_no_other() {
    let cache = Cache::of(240).await;
    let sound = cache.check(&[]);
    sound.assert_clean();
    let (mut bytes, mut allocated) = (0, 0);
    for digest in cache.blobs.keys() {
        let found = cache.file(digest).metadata().expect("it is there");
        (bytes, allocated) = (bytes + found.len(), allocated + found.blocks() * 512);
    }
    for (key, figure) in
        [("files", 240), ("bytes", bytes), ("hashed_bytes", bytes), ("allocated_bytes", allocated)]
    {
        assert_eq!(sound.totals[key], figure, "{key}");
    }

    let mut state = 7;
    let mut flipped = BTreeSet::new();
    while flipped.len() < 200 {
        let nth = usize::try_from(random(&mut state) % 240).expect("small");
        let digest = cache.digest(nth);
        if flipped.insert(digest.clone()) {
            flip(&cache.file(digest), random(&mut state) % cache.blobs[digest].len() as u64);
        }
    }
    let checked = cache.check(&[]);
    assert_eq!(checked.code, Some(1), "{:?}", checked.errors);
    let found = |checked: &Checked, state: &str| {
        let of_state = checked.findings.iter().filter(|found| found["state"] == state);
        let of_state = of_state.filter(|found| found["finding"] == "wrong_content");
        let digests = of_state.map(|found| found["digest"].as_str().expect("a digest").to_owned());
        digests.collect::<BTreeSet<_>>()
    };
    let flipped: BTreeSet<String> = flipped.iter().map(Digest::to_string).collect();
    assert_eq!((found(&checked, "wrong"), checked.findings.len()), (flipped.clone(), 200));
    assert_eq!(checked.totals["wrong"], 200);

    let repaired = cache.check(&["--repair"]);
    assert_eq!(repaired.code, Some(0), "{:?}", repaired.errors);
    assert_eq!(found(&repaired, "repaired"), flipped);
    let again = cache.check(&[]);
    again.assert_clean();
    assert_eq!(again.totals["files"], 40);
    cache.pull_all().await;
    let refilled = cache.check(&[]);
    refilled.assert_clean();
    assert_eq!(refilled.totals["files"], 240);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_fault_is_named_and_repaired_and_what_is_not_ours_stays() {
    let cache = Cache::of(12).await;
    let places: Vec<PathBuf> = (0..12).map(|nth| cache.file(cache.digest(nth))).collect();
    let (root, outside) = (cache.root(), cache.folder.path().join("outside"));
    fs::write(&outside, "somebody's").expect("writable");
    // A file that is gone, one that is cut short, a folder and a link in the place of one, one that
    // was written anew with another time.
    fs::remove_file(&places[1]).expect("it is there");
    let cut = fs::File::options().write(true).open(&places[2]).expect("it is there");
    cut.set_len(cut.metadata().expect("a file").len() - 1).expect("writable");
    fs::remove_file(&places[3]).expect("it is there");
    fs::create_dir(&places[3]).expect("writable");
    fs::remove_file(&places[4]).expect("it is there");
    symlink(&outside, &places[4]).expect("writable");
    let content = fs::read(&places[5]).expect("it is there");
    fs::remove_file(&places[5]).expect("it is there");
    fs::write(&places[5], content).expect("writable");
    // Content that nobody has recorded, right and wrong.
    let extra = Digest::of(Algorithm::Sha256, b"extra");
    let wrong = Digest::of(Algorithm::Sha256, b"not that");
    for (digest, content) in [(&extra, "extra"), (&wrong, "something else")] {
        fs::create_dir_all(cache.file(digest).parent().expect("a folder")).expect("writable");
        fs::write(cache.file(digest), content).expect("writable");
    }
    // What is not ours.
    let shelf = places[6].parent().expect("a folder");
    let lost = root.join("blobs/sha256/lost+found");
    let strangers = [shelf.join("notes.txt"), root.join("staging/budget"), lost.join("a")];
    fs::create_dir(&lost).expect("writable");
    for path in &strangers {
        fs::write(path, "theirs").expect("writable");
    }
    let other_shelf = if shelf.ends_with("ff") { "00" } else { "ff" };
    let misplaced = shelf.with_file_name(other_shelf).join(places[6].file_name().expect("a name"));
    fs::create_dir_all(misplaced.parent().expect("a folder")).expect("writable");
    fs::copy(&places[6], &misplaced).expect("writable");

    let below = |path: &Path| {
        path.strip_prefix(&root).expect("below the root").to_str().expect("text").to_owned()
    };
    let told = |of: &[(&Path, &str)], state: &str| {
        let told = |(path, kind): &(&Path, &str)| (below(path), (*kind).into(), state.into());
        of.iter().map(told).collect::<BTreeSet<(String, String, String)>>()
    };
    let ours = [
        (&*places[1], "no_file"),
        (&places[2], "wrong_content"),
        (&places[3], "in_the_way"),
        (&places[4], "in_the_way"),
        (&places[5], "other_record"),
        (&cache.file(&extra), "no_record"),
        (&cache.file(&wrong), "wrong_content"),
    ];
    let theirs: Vec<(&Path, &str)> =
        [&strangers[0], &strangers[1], &lost, &misplaced].map(|path| (&**path, "not_ours")).into();
    let theirs = told(&theirs, "not_ours");

    let checked = cache.check(&[]);
    assert_eq!(checked.told(), &told(&ours, "wrong") | &theirs, "{:#?}", checked.findings);
    assert_eq!((checked.code, &checked.totals["not_ours"]), (Some(1), &4.into()));
    let repaired = cache.check(&["--repair"]);
    assert_eq!(repaired.told(), &told(&ours, "repaired") | &theirs, "{:#?}", repaired.findings);
    assert_eq!(repaired.code, Some(0), "{:?}", repaired.errors);
    let again = cache.check(&["--repair"]);
    assert_eq!((again.told(), again.code), (theirs, Some(0)), "{:#?}", again.findings);
    let extra = cache.file(&extra);
    let kept = strangers.iter().chain([&misplaced, &outside, &extra]);
    for path in kept {
        assert!(path.is_file(), "{}", path.display());
    }
    cache.pull_all().await;
    assert_eq!(cache.check(&[]).totals["files"], 13);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_repaired_is_said_and_is_no_success() {
    let cache = Cache::of(4).await;
    let (full, flipped) = (cache.file(cache.digest(1)), cache.file(cache.digest(2)));
    fs::remove_file(&full).expect("it is there");
    fs::create_dir(&full).expect("writable");
    fs::write(full.join("theirs"), "kept").expect("writable");
    flip(&flipped, 0);
    for _ in 0..2 {
        let output = run(roadstead(&["fsck", "--repair", "--config"]).arg(&cache.config));
        let (said, errors) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(1), "{said}{errors}");
        let line = said.lines().find(|line| line.contains("in the way: a folder lies"));
        assert!(line.is_some_and(|line| line.contains("; not repaired: cannot remove")), "{said}");
        assert!(errors.contains("1 could not be repaired"), "{errors}");
        assert!(!flipped.exists() && full.join("theirs").exists());
    }
}

/// A small disk below a folder, until it is dropped.
struct Disk(PathBuf);

impl Disk {
    /// `None`, said on a line of its own that `./test` counts, without root; in CI that is a
    /// failure.
    fn below(folder: PathBuf) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "cannot be skipped in CI: needs root");
            let test = std::thread::current().name().unwrap_or("a test").to_owned();
            // The raw stream: the test runner swallows what the print macros write.
            let _ = writeln!(std::io::stderr(), "\nskipped: {test}: needs root");
            return None;
        }
        fs::create_dir(&folder).expect("writable");
        let disk = Self(folder);
        disk.command("mount", &["-t", "tmpfs", "-o", "size=24m,mode=0700", "tmpfs"]);
        Some(disk)
    }

    fn command(&self, program: &str, how: &[&str]) {
        let done = Command::new(program).args(how).arg(&self.0).status();
        assert!(done.expect("the program is there").success(), "{program} {how:?}");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.command("umount", &["--lazy"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_read_only_disk_everything_is_found_and_on_a_full_one_removed() {
    let cache = Cache::empty(8);
    let Some(disk) = Disk::below(cache.root()) else { return };
    cache.pull_all().await;
    let (flipped, gone) = (cache.file(cache.digest(3)), cache.file(cache.digest(4)));
    flip(&flipped, 0);
    fs::remove_file(gone).expect("it is there");
    let states = |checked: &Checked| {
        let state = |(_, finding, state): (String, String, String)| (finding, state);
        checked.told().into_iter().map(state).collect::<BTreeMap<_, _>>()
    };
    let both = |state: &str| {
        let told = |finding: &str| (finding.to_owned(), state.to_owned());
        BTreeMap::from(["wrong_content", "no_file"].map(told))
    };
    disk.command("mount", &["-o", "remount,ro"]);
    for (how, state) in [(&[][..], "wrong"), (&["--repair"], "failed")] {
        let checked = cache.check(how);
        assert_eq!((states(&checked), checked.code), (both(state), Some(1)), "{checked:#?}");
        let why = |found: &Value| found["remedy"].as_str().is_some_and(|why| !why.is_empty());
        assert!(how.is_empty() || checked.findings.iter().all(why), "{checked:#?}");
    }
    assert!(flipped.exists());
    disk.command("mount", &["-o", "remount,rw"]);
    let mut ballast = fs::File::create(cache.root().join("ballast")).expect("a file");
    while ballast.write_all(&[0; 4096]).is_ok() {}
    assert_eq!(states(&cache.check(&[])), both("wrong"));
    let repaired = cache.check(&["--repair"]);
    let content = states(&repaired).remove("wrong_content");
    assert_eq!(content.as_deref(), Some("repaired"), "{repaired:#?}");
    assert!(!flipped.exists());
    drop(ballast);
    fs::remove_file(cache.root().join("ballast")).expect("it was full");
    let repaired = cache.check(&["--repair"]);
    assert_eq!(repaired.code, Some(0), "{repaired:#?}");
    cache.check(&[]).assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_evicts_nothing_and_a_running_server_does_it_itself() {
    let cache = Cache::of(12).await;
    let before = cache.check(&[]).totals;
    let config = fs::read_to_string(&cache.config).expect("it was written");
    let smaller = config.replace("/cache }", "/cache, max_size: 1MiB, min_free: 99% }");
    assert_ne!(smaller, config);
    fs::write(&cache.config, smaller).expect("writable");
    assert!(before["bytes"].as_u64().expect("a number") > 1 << 20);
    for how in [&[][..], &["--repair"]] {
        let checked = cache.check(how);
        checked.assert_clean();
        assert_eq!(checked.totals["bytes"], before["bytes"]);
    }
    fs::write(&cache.config, config).expect("writable");
    let mut serving = Serving::spawn_with(&cache.config, &mut roadstead(&["serve"]));
    serving.until("clients=");
    let checked = cache.check(&["--repair"]);
    checked.assert_clean();
    assert_eq!(checked.totals["bytes"], before["bytes"], "{}", checked.errors);
}

#[test]
fn where_nothing_is_cached_nothing_is_made() {
    let (folder, config) = directory("");
    for is_there in [false, true] {
        if is_there {
            fs::create_dir(folder.path().join("cache")).expect("writable");
        }
        let output = run(roadstead(&["fsck", "--repair", "--config"]).arg(&config));
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(errors.contains("there is no cache in "), "{errors}");
        let made = fs::read_dir(folder.path().join("cache")).map_or(0, Iterator::count);
        assert_eq!((folder.path().join("cache").exists(), made), (is_there, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_check_ends_at_once_and_can_be_repeated() {
    let cache = Cache::of(6).await;
    let flipped = cache.file(cache.digest(3));
    flip(&flipped, 0);
    // What would take minutes, and comes after the first line.
    let huge = Digest::of(Algorithm::Sha512, b"huge");
    fs::create_dir_all(cache.file(&huge).parent().expect("a folder")).expect("writable");
    let file = fs::File::create(cache.file(&huge)).expect("writable");
    file.set_len(1 << 40).expect("a sparse file");
    fs::write(cache.root().join("blobs/first"), "").expect("writable");
    let mut command = roadstead(&["fsck", "--repair", "--config"]);
    let mut child = command.arg(&cache.config).stdout(Stdio::piped()).spawn().expect("it runs");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut next = || lines.next().expect("a line").expect("text");
    assert!(next().contains("not ours"));
    assert!(next().contains("wrong content"));
    kill_process(Pid::from_child(&child), Signal::INT).expect("it runs");
    assert_eq!(child.wait().expect("it ends").signal(), Some(Signal::INT.as_raw()));
    file.set_len(0).expect("writable");
    let checked = cache.check(&["--repair"]);
    assert_eq!((checked.code, checked.findings.len()), (Some(0), 2), "{checked:#?}");
    assert!(!flipped.exists() && !cache.file(&huge).exists());
    cache.pull_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_leaves_ends_the_check() {
    let cache = Cache::of(2).await;
    let huge = Digest::of(Algorithm::Sha512, b"huge");
    fs::create_dir_all(cache.file(&huge).parent().expect("a folder")).expect("writable");
    let file = fs::File::create(cache.file(&huge)).expect("writable");
    file.set_len(1 << 40).expect("a sparse file");
    fs::write(cache.root().join("blobs/first"), "").expect("writable");
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = run(roadstead(&["fsck", "--config"]).arg(&cache.config).stdout(writer));
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
}
