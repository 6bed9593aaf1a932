//! What clients missed outlives a kill, and the window of a seal does not.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use rustix::process::Signal;

use crate::support::{Serving, directory, roadstead, run, text};

/// A server whose upstreams are all sealed, and where it listens.
fn serve(file: &Path) -> (Serving, String) {
    let mut serving = Serving::spawn_with(file, &mut roadstead(&["serve"]));
    let line = serving.until("clients    http://").pop().expect("the line");
    let address = line.split("http://").nth(1).expect("an address").to_owned();
    (serving, address)
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("it listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    answer
}

fn command(file: &Path, arguments: &[&str]) -> String {
    let output = run(roadstead(arguments).arg("--config").arg(file));
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn every_miss_that_was_answered_is_there_after_a_kill() {
    let (_directory, file) = directory("sealed: true\n");
    let mut expected = String::new();
    for round in 0..10 {
        let (mut serving, address) = serve(&file);
        serving.read_on();
        for n in 0..3 {
            let path = format!("/v2/acme/app/manifests/r{round}-{n}");
            let answer = get(&address, &path);
            assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("sealed"), "{answer}");
            expected.push_str("docker.io/acme/app:");
            expected.push_str(path.rsplit('/').next().expect("a tag"));
            expected.push('\n');
        }
        serving.signal(Signal::KILL);
        serving.end();
        assert_eq!(command(&file, &["misses", "--as-list"]), expected);
    }
    assert_eq!(command(&file, &["misses", "--as-list", "--clear"]), expected);
    assert_eq!(command(&file, &["misses"]), "");
}

#[test]
fn a_killed_server_is_sealed_when_it_comes_back() {
    let (_directory, file) = directory("sealed: true\n");
    let (serving, _) = serve(&file);
    let opened = command(&file, &["seal", "quay.io", "--open-for", "10m"]);
    assert_eq!(opened, "quay.io  open for 600 s, then sealed\n");
    serving.signal(Signal::KILL);
    serving.end();
    let (_serving, _) = serve(&file);
    assert_eq!(command(&file, &["seal", "quay.io"]), "quay.io  sealed\n");
}
