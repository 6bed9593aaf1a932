//! Secrets and the files that they stand in.

use std::fs;
use std::path::Path;

use roadstead::config;

use super::{fixed, only, valid};

#[test]
fn a_file_from_windows_is_read_and_one_in_utf_16_is_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("config.yaml");
    let text = "\u{feff}listen: 127.0.0.1:80\r\nupstreams:\r\n  quay.io: {}\r\n";
    fs::write(&file, text).expect("writable");
    assert_eq!(config::load(&file).expect("valid").listen.port(), 80);
    let wide: Vec<u8> = "\u{feff}listen: x".encode_utf16().flat_map(u16::to_le_bytes).collect();
    fs::write(&file, wide).expect("writable");
    let told = config::load(&file).expect_err("UTF-16").to_string();
    assert!(told.ends_with("it is not UTF-8 text but UTF-16; save it as UTF-8"), "{told}");
}

#[test]
fn line_ends_are_no_part_of_a_secret_wherever_it_comes_from() {
    let directory = tempfile::tempdir().expect("a directory");
    let (file, docker) = (directory.path().join("password"), directory.path().join("config.json"));
    fs::write(&file, "\u{feff}hush\r\n").expect("writable");
    let json = "\u{feff}{\"auths\": {\"quay.io\": {\"auth\": \"dTpodXNoCg==\"}}}";
    fs::write(&docker, json).expect("writable");
    for keys in [
        format!("username: u, password_file: {}", file.display()),
        "username: u, password_env: LINE".to_owned(),
        "username: u, password: \"hush\\n\"".to_owned(),
        format!("docker_config: {}", docker.display()),
    ] {
        let text = format!(
            "allow_inline_secrets: true\nupstreams: {{ quay.io: {{ credentials: [{{ {keys} }}] }} }}\n"
        );
        let config = config::parse(&text, Path::new("c"), &|name| {
            (name == "LINE").then(|| "hush\r\n".to_owned())
        });
        let config = config.unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(fixed(&only(&config).credentials[0]), ("u", "hush"), "{keys}");
    }
}

#[test]
fn each_key_of_a_docker_config_is_for_its_own_repositories() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("auth.json");
    let auths = |keys: &[&str]| {
        let entry = |key: &&str| format!(r#""{key}": {{"username": "{key}", "password": "p"}}"#);
        let entries: Vec<String> = keys.iter().map(entry).collect();
        fs::write(&file, format!(r#"{{"auths": {{{}}}}}"#, entries.join(","))).expect("writable");
    };
    // Whose login a repository of quay.io gets.
    let user = |items: &str, repository: &str| {
        let items = items.replace("FILE", &file.display().to_string());
        let config = valid(&format!("upstreams: {{ quay.io: {{ credentials: [{items}] }} }}"));
        let credentials = &only(&config).credentials;
        let found = credentials.iter().find(|credential| credential.images.matches(repository));
        found.map(|credential| fixed(credential).0.to_owned())
    };
    auths(&["quay.io", "quay.io/acme", "https://quay.io:443/acme/team", "other.test/acme"]);
    for (repository, expected) in [
        ("acme/team", "https://quay.io:443/acme/team"),
        ("acme/team/app", "https://quay.io:443/acme/team"),
        ("acme/teams", "quay.io/acme"),
        ("acme", "quay.io/acme"),
        ("acmeother/app", "quay.io"),
        ("app", "quay.io"),
    ] {
        let found = user("{ docker_config: FILE }", repository);
        assert_eq!(found.as_deref(), Some(expected), "{repository}");
    }
    // Only within the images that an item is for, and after what the document itself says.
    let items = "{ images: 'acme/*', docker_config: FILE }, \
                 { images: 'acme/team', username: own, password_env: SET }";
    for (repository, expected) in [
        ("acme/team", Some("own")),
        ("acme/app", Some("quay.io/acme")),
        ("acme/team/app", None),
        ("app", None),
    ] {
        assert_eq!(user(items, repository).as_deref(), expected, "{repository}");
    }
    auths(&["quay.io/acme"]);
    assert_eq!(user("{ docker_config: FILE }", "other/app"), None, "another's login is not sent");
}
