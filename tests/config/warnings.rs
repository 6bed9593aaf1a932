//! What can be used and is probably not meant.

use std::fs;
use std::path::Path;
use std::time::Duration;

use roadstead::clock::Timestamp;
use roadstead::config::{self, Draft, Surroundings};

use super::licence;

/// What is warned of, without the file's name. The time is 1970, and nothing is wrong.
fn warnings(text: &str, seconds: u64) -> String {
    let environment: config::EnvLookup<'_> = &|name| (name == "SET").then(|| "x".to_owned());
    let now = Timestamp::from_unix(Duration::from_secs(seconds));
    let draft = Draft::parse(text, Path::new("c"), &Surroundings { environment, now });
    let (_, warnings) = draft.and_then(Draft::finish).unwrap_or_else(|wrong| panic!("{wrong}"));
    warnings.to_string().replace("c:", "")
}

#[test]
fn each_doubt_has_its_own_message() {
    let cases = include_str!("warnings.txt").trim_end();
    for case in cases.split("\n---\n") {
        let (text, expected) = case.split_once("\n=> ").expect("a doubt and its message");
        assert_eq!(warnings(text, 0), expected, "{text}");
    }
}

#[test]
fn what_is_meant_is_not_warned_of() {
    for text in [
        "",
        "cache: { max_size: 64MiB, min_free: 1GiB, tag_ttl: 30d, stale_if_error: 365d, proof_ttl: 0s, abandon_after: 24h }",
        "upstreams: { a.test: { push: true }, b.test: }\n\
         access: { rules: [{ who: anonymous, allow: [push], images: ['**'] }] }",
        "access: { rules: [{ who: anonymous, allow: [pull], images: ['**'], networks: [10.0.0.0/8, 10.0.0.1/32, '::/0'] }] }",
        "listen: 127.0.0.1:5000\nhosts: [localhost]\nupstreams: { a.test: { url: 'http://127.0.0.1:5002' }, \
         b.test: { url: 'http://127.0.0.2:5000' }, c.test: { url: 'https://localhost:5443' } }",
    ] {
        assert_eq!(warnings(text, 0), "", "{text}");
    }
    assert_eq!(warnings(include_str!("../../config.example.yaml"), 0), "");
}

#[test]
fn a_cache_that_is_larger_than_its_disk_is_told() {
    let told = warnings("cache:\n  max_size: 900000TiB\n  min_free: 900000TiB\n", 0);
    let lines: Vec<&str> = told.lines().collect();
    assert!(
        lines[0].starts_with("2: warning: cache.max_size: the disk of ./roadstead-data has "),
        "{told}"
    );
    assert!(
        lines[1].starts_with("3: warning: cache.min_free: the disk of ./roadstead-data has "),
        "{told}"
    );
    assert!(
        lines[0].ends_with("cannot grow as large") && lines[1].ends_with("nothing can be kept")
    );
}

#[test]
fn a_licence_that_has_ended_or_will_soon_is_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("acme.licence");
    fs::write(&file, licence()).expect("writable");
    let text = format!(
        "upstreams:\n  registry.test:\n    credentials: [{{ licence_file: {} }}]\n",
        file.display()
    );
    // It is good from 1000 s to 2000 s after 1970.
    for (seconds, expected) in [
        (2_000, "licence acme-prod ended on 1970-01-01; ask Acme Inc. for another"),
        (1_500, "licence acme-prod ends on 1970-01-01; ask Acme Inc. for another"),
    ] {
        let told = warnings(&text, seconds);
        let place = "3: warning: upstreams.registry.test.credentials[0].licence_file: ";
        assert_eq!(told, format!("{place}{expected}"));
    }
}
