//! `roadstead warm`, the real command: beside a server, and where none runs.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use crate::support::content::Blob;
use crate::support::eventually;
use crate::support::image::Image;
use crate::support::origin::Origin;
use crate::support::proxy::Proxy;
use crate::support::pulled::pull_exactly;

const MIB: u64 = 1 << 20;

/// A configuration of this cache with the origin as Docker Hub.
fn configuration(proxy: &Proxy, origin: &Origin) -> PathBuf {
    let file = proxy.directory().join("command.yaml");
    let cache = proxy.directory().join("cache");
    let text = format!(
        "cache: {{ path: '{}', min_free: 0 }}\nupstreams: {{ docker.io: {{ url: '{}' }} }}\n\
         access: {{ rules: [{{ who: anonymous, allow: [pull], images: ['**'] }}] }}\n",
        cache.display(),
        origin.url()
    );
    std::fs::write(&file, text).expect("writable");
    file
}

fn command(proxy: &Proxy, origin: &Origin, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_roadstead"));
    command.arg("warm").args(arguments).arg("--config").arg(configuration(proxy, origin));
    command.env_remove("RUST_LOG").env_remove("ROADSTEAD_CONFIG");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Exit code, stdout and stderr.
fn told(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn run(proxy: &Proxy, origin: &Origin, arguments: &[&str]) -> (Option<i32>, String, String) {
    tokio::task::block_in_place(|| {
        told(&command(proxy, origin, arguments).output().expect("it runs"))
    })
}

fn begun(proxy: &Proxy, origin: &Origin, arguments: &[&str]) -> Child {
    command(proxy, origin, arguments).spawn().expect("it runs")
}

fn ended(child: Child) -> (Option<i32>, String, String) {
    tokio::task::block_in_place(|| told(&child.wait_with_output().expect("it runs")))
}

#[tokio::test(flavor = "multi_thread")]
async fn it_does_the_same_with_a_server_and_without_and_makes_the_cache() {
    let image = Image::new(1, &[300_000]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let mut proxy = Proxy::of(&origin).await;
    let (code, with, errors) = run(&proxy, &origin, &["a/b:v1"]);
    assert_eq!((code, errors.as_str()), (Some(0), ""), "{with}");
    assert!(with.starts_with("docker.io/a/b:v1: 300 kB\n"), "{with}");
    proxy.stop().await;
    std::fs::remove_dir_all(proxy.directory().join("cache")).expect("ours");
    let (code, without, errors) = run(&proxy, &origin, &["a/b:v1"]);
    assert_eq!((code, errors.as_str(), &without), (Some(0), "", &with));
    assert_eq!(origin.blob_gets(&image.layers[0].digest), 2);
    proxy.start().await;
    pull_exactly(&proxy, &image).await;
    assert_eq!(origin.blob_gets(&image.layers[0].digest), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_come_from_files_and_stdin_and_their_mistakes_are_told_with_their_places() {
    let image = Image::new(1, &[1000]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let proxy = Proxy::of(&origin).await;
    let file = proxy.directory().join("list");
    std::fs::write(&file, "# mine\nquay.io/x/y:1\nA\n").expect("writable");
    let list = file.to_str().expect("text");
    let (code, out, errors) = run(&proxy, &origin, &["--from", list, "ghcr.io/x:1"]);
    assert_eq!((code, out.as_str()), (Some(1), ""));
    for line in [
        format!("{list}:3: \"A\""),
        format!("{list}:2: quay.io/x/y:1: no upstream quay.io is configured"),
        "command line:1: ghcr.io/x:1: no upstream ghcr.io is configured".to_owned(),
    ] {
        assert!(errors.contains(&line), "{line} in {errors}");
    }
    assert_eq!(origin.requests().len(), 0);
    let pod = "kind: Pod\nspec: { containers: [{ image: 'a/b:v1' }] }\n";
    let mut piped = command(&proxy, &origin, &["--from", "-", "--json"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("it runs");
    piped.stdin.take().expect("piped").write_all(pod.as_bytes()).expect("it reads");
    let (code, out, errors) = ended(piped);
    assert_eq!((code, errors.as_str()), (Some(0), ""));
    let result: Value = serde_json::from_str(out.lines().last().expect("a line")).expect("JSON");
    assert_eq!(result["done"]["complete"], true, "{out}");
    let (code, _, errors) = run(&proxy, &origin, &["--from", "/dev/null"]);
    assert!(code == Some(1) && errors.contains("no image is named"), "{errors}");
    let (code, ..) = run(&proxy, &origin, &[]);
    assert_eq!(code, Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_listed_and_the_exit_code_says_so() {
    let image = Image::new(1, &[1000]);
    let origin = Origin::with("a/b", "v1", &image).await;
    origin.remove_blob("a/b", &image.layers[0].digest);
    let proxy = Proxy::of(&origin).await;
    let (code, out, errors) = run(&proxy, &origin, &["a/b:v1", "a/b:v2"]);
    assert_eq!(code, Some(1), "{out}");
    for line in [
        &format!("\n  {}: absent: ", image.layers[0].digest),
        "docker.io/a/b:v2\n  tag v2: absent: ",
        "roadstead: 2 of 2 images are not complete",
    ] {
        assert!(errors.contains(line), "{line} in {errors}");
    }
    let (code, out, _) = run(&proxy, &origin, &["a/b:v1", "--dry-run"]);
    assert!(
        code == Some(0) && out.ends_with("1 blob (1.0 kB) missing, 1 blob (23 B) here\n"),
        "{out}"
    );
}

/// With a server and without: the signal ends it at once, and what has come stays.
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_command_leaves_what_has_come() {
    let small = Blob::seeded(1, 100_000);
    let image = Image::of(1, vec![small.clone(), Blob::seeded(2, 4 * MIB)]);
    let large = &image.layers[1].digest;
    let origin = Origin::with("a/b", "v1", &image).await;
    let mut proxy = Proxy::of(&origin).await;
    for with_server in [true, false] {
        if !with_server {
            proxy.stop().await;
            std::fs::remove_dir_all(proxy.directory().join("cache")).expect("ours");
        }
        let gate = origin.hold_at(large, MIB);
        let before = origin.blob_gets(large);
        let child = begun(&proxy, &origin, &["a/b:v1"]);
        eventually("the small one is here and the large one on its way", || {
            proxy.has_stored(&small.digest) && origin.blob_gets(large) > before
        })
        .await;
        let id = i32::try_from(child.id()).expect("small");
        let id = rustix::process::Pid::from_raw(id).expect("a process");
        rustix::process::kill_process(id, rustix::process::Signal::INT).expect("it runs");
        let (code, _, errors) = ended(child);
        assert_eq!(code, Some(1));
        assert!(errors.contains("roadstead: interrupted; what is complete is kept"), "{errors}");
        origin.repair();
        gate.open();
        let (code, ..) = run(&proxy, &origin, &["a/b:v1"]);
        assert_eq!(code, Some(0));
        assert!(proxy.has_stored(large));
    }
    let rounds = origin.blob_gets(&small.digest);
    assert_eq!(rounds, 2, "once for each cache");
}

/// On a terminal, which `script` makes: a bar, and nothing of it is left at the end.
#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_shows_a_bar_that_goes_at_the_end() {
    let image = Image::new(1, &[MIB]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let proxy = Proxy::of(&origin).await;
    let gate = origin.hold_at(&image.layers[0].digest, MIB / 2);
    let file = configuration(&proxy, &origin);
    let program = env!("CARGO_BIN_EXE_roadstead");
    let line = format!("'{program}' warm a/b:v1 --config '{}'", file.display());
    let child = Command::new("script")
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .env("TERM", "xterm")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("util-linux is there");
    // So that it is drawn at least once, with a part of what comes.
    eventually("it is on its way", || origin.blob_gets(&image.layers[0].digest) == 1).await;
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    gate.open();
    let (code, out, _) = ended(child);
    assert_eq!(code, Some(0), "{out}");
    assert!(out.contains("/1.05 MB, 0/1 images, 1/2 blobs"), "{out:?}");
    let (before, last) = out.rsplit_once("\u{1b}[2K").expect("the line is cleared");
    assert!(before.contains("docker.io/a/b:v1: 1.0 MB"), "{out:?}");
    assert_eq!(
        last.trim_start_matches('\r'),
        "2 blobs (1.0 MB) to fetch, 0 blobs (0 B) here before\r\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn output_that_nobody_takes_is_one_sentence() {
    let origin = Origin::with("a/b", "v1", &Image::new(1, &[1000])).await;
    let proxy = Proxy::of(&origin).await;
    let mut child = begun(&proxy, &origin, &["a/b:v1"]);
    drop(child.stdout.take());
    let (code, _, errors) = ended(child);
    assert_eq!(
        (code, errors.as_str()),
        (Some(1), "roadstead: cannot print: Broken pipe (os error 32)\n")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_too_old_is_one_sentence() {
    let origin = Origin::start().await;
    let mut proxy = Proxy::of(&origin).await;
    proxy.stop().await;
    let socket = proxy.directory().join("cache/control.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).expect("free");
    let old = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a command");
        let mut head = [0; 4096];
        let _some = std::io::Read::read(&mut stream, &mut head).expect("it is sent");
        let body = "{\"error\":\"there is no /v1/warm\"}\n";
        let answer = format!(
            "HTTP/1.1 404 Not Found\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(answer.as_bytes()).expect("it reads");
    });
    let (code, _, errors) = run(&proxy, &origin, &["a/b:v1"]);
    old.join().expect("no panic");
    assert!(code == Some(1) && errors.contains("update the older of both"), "{errors}");
    proxy.start().await;
}
