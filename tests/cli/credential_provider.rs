//! `roadstead credential-provider`, asked as kubelet asks (ACCESS §6.2).

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::licences::{
    complains_of_broken_files, for_a_user, forbid, licence, put_broken_files, put_licence,
    run_with_request,
};
use crate::support::roadstead;

const HOST: &str = "registry.example.com";
const IMAGE: &str = "registry.example.com/myapp/worker:1";

fn version(name: &str) -> String {
    format!("credentialprovider.kubelet.k8s.io/{name}")
}

fn request(image: &str) -> Value {
    json!({ "kind": "CredentialProviderRequest", "apiVersion": version("v1"), "image": image })
}

/// Exit code, stdout, stderr.
fn provider(directory: &TempDir, request: &str) -> (Option<i32>, String, String) {
    run_with_request(&mut roadstead(&["credential-provider"]), directory, "licences", request)
}

/// The answer for an image, and what was said about it.
fn answer(directory: &TempDir, image: &str) -> (Value, String) {
    let (code, stdout, stderr) = provider(directory, &request(image).to_string());
    assert_eq!(code, Some(0), "{stderr}");
    (serde_json::from_str(&stdout).expect("stdout is the protocol's"), stderr)
}

/// Keys and user names.
fn logins(answer: &Value) -> Vec<(&str, &str)> {
    let auth = answer["auth"].as_object().expect("a mapping");
    auth.iter()
        .map(|(key, login)| (key.as_str(), login["username"].as_str().expect("a name")))
        .collect()
}

fn names(value: &Value) -> BTreeSet<&str> {
    value.as_object().expect("a mapping").keys().map(String::as_str).collect()
}

#[test]
fn every_application_of_the_host_is_answered_in_the_version_that_was_asked() {
    let directory = tempfile::tempdir().expect("a directory");
    put_licence(&directory, "acme", HOST, &["myapp", "tools"], -1..90);
    put_licence(&directory, "acme-other", HOST, &["other"], -1..90);
    put_licence(&directory, "acme-test", "test.example.com", &["myapp"], -1..90);
    for name in ["v1", "v1beta1", "v1alpha1"] {
        let mut request = request(IMAGE);
        request["apiVersion"] = version(name).into();
        request["serviceAccountToken"] = "a token".into();
        request["serviceAccountAnnotations"] = json!({ "a": "b" });
        let (code, stdout, stderr) = provider(&directory, &request.to_string());
        assert_eq!((code, stderr.as_str()), (Some(0), ""));
        let answer: Value = serde_json::from_str(&stdout).expect("JSON");
        assert_eq!(
            names(&answer),
            ["apiVersion", "kind", "cacheKeyType", "cacheDuration", "auth"].into(),
            "no others"
        );
        assert_eq!(
            (&answer["apiVersion"], &answer["kind"]),
            (&version(name).into(), &"CredentialProviderResponse".into())
        );
        assert_eq!(
            (&answer["cacheKeyType"], &answer["cacheDuration"]),
            (&"Registry".into(), &"300s".into())
        );
        let expected = [
            ("registry.example.com/myapp", "acme"),
            ("registry.example.com/other", "acme-other"),
            ("registry.example.com/proxy/myapp", "acme"),
            ("registry.example.com/proxy/other", "acme-other"),
            ("registry.example.com/proxy/tools", "acme"),
            ("registry.example.com/tools", "acme"),
        ];
        assert_eq!(logins(&answer), expected);
        let login = &answer["auth"]["registry.example.com/myapp"];
        assert_eq!(names(login), ["username", "password"].into(), "no others");
        let file =
            std::fs::read_to_string(directory.path().join("licences/acme")).expect("a licence");
        assert!(file.contains(&format!("token: {}\n", login["password"].as_str().expect("text"))));
    }
}

#[test]
fn without_a_licence_there_is_an_empty_answer_and_no_error() {
    let directory = tempfile::tempdir().expect("a directory");
    let nothing = |image| {
        let (answer, stderr) = answer(&directory, image);
        assert_eq!(
            (&answer["auth"], &answer["cacheDuration"]),
            (&json!({}), &"30s".into()),
            "{image}"
        );
        assert_eq!(answer["cacheKeyType"], "Registry");
        stderr
    };
    assert!(nothing(IMAGE).contains("licences: No such file"), "the folder is not there");
    put_broken_files(&directory);
    assert!(complains_of_broken_files(&nothing(IMAGE)));
    put_licence(&directory, "acme", HOST, &["myapp"], -1..90);
    for image in [
        "quay.io/myapp/worker",
        "registry.example.com:5000/myapp/worker",
        "nginx",
        "",
        "/",
        "a b/c",
    ] {
        assert!(complains_of_broken_files(&nothing(image)));
    }
    let (answer, stderr) = answer(&directory, IMAGE);
    assert_eq!(logins(&answer).len(), 2, "a good licence beside them counts");
    assert!(complains_of_broken_files(&stderr), "{stderr}");
}

#[test]
fn the_better_of_two_licences_for_an_application_is_answered() {
    let directory = tempfile::tempdir().expect("a directory");
    put_licence(&directory, "ended", HOST, &["myapp", "old"], -5..-1);
    put_licence(&directory, "older", HOST, &["myapp", "other"], -20..90);
    put_licence(&directory, "newer", HOST, &["myapp"], -10..3);
    put_licence(&directory, "next", HOST, &["myapp", "soon"], 2..90);
    let (answer, stderr) = answer(&directory, IMAGE);
    let logins = logins(&answer);
    let direct: Vec<_> = logins.into_iter().filter(|(key, _)| !key.contains("/proxy/")).collect();
    let expected = [
        ("registry.example.com/myapp", "newer"),
        ("registry.example.com/old", "ended"),
        ("registry.example.com/other", "older"),
        ("registry.example.com/soon", "next"),
    ];
    assert_eq!(direct, expected, "one that has ended only where there is no other");
    assert_eq!(answer["cacheDuration"], "30s", "soon somebody brings a new one");
    let told: Vec<&str> =
        stderr.lines().map(|line| line.split(", on ").next().unwrap_or(line)).collect();
    assert_eq!(told[1], "roadstead: licence newer ends in 3 days");
    assert!(
        told[0].starts_with("roadstead: licence ended expired on 20") && told.len() == 2,
        "each once: {stderr}"
    );
}

#[test]
fn an_answer_is_not_kept_beyond_the_end_of_a_licence() {
    let directory = tempfile::tempdir().expect("a directory");
    let issue = [
        "issue",
        "--key",
        "acme.key",
        "--issuer",
        "a",
        "--id",
        "a",
        "--customer",
        "a",
        "--application",
        "myapp",
    ];
    licence(&directory, &["keygen", "acme"]).expect("a pair of keys");
    std::fs::create_dir(directory.path().join("licences")).expect("a folder");
    let end = roadstead::clock::Clock::system().now().plus(std::time::Duration::from_mins(2));
    let end = roadstead::licence::calendar::format(end);
    let more = ["--host", HOST, "--expires", end.as_str(), "--out", "licences/a"];
    licence(&directory, &[&issue[..], &more].concat()).expect("a licence");
    let (answer, _) = answer(&directory, IMAGE);
    let kept = answer["cacheDuration"]
        .as_str()
        .and_then(|text| text.strip_suffix('s')?.parse::<u64>().ok());
    assert!(kept.is_some_and(|seconds| (30..=120).contains(&seconds)), "{answer}");
}

#[test]
fn keys_have_the_host_as_the_image_has_it() {
    let directory = tempfile::tempdir().expect("a directory");
    put_licence(&directory, "acme", "registry.example.com:5000", &["myapp"], -1..90);
    let digest = format!("Registry.example.com:5000/myapp/worker@sha256:{}", "0".repeat(64));
    let (answer, _) = answer(&directory, &digest);
    let expected = [
        ("Registry.example.com:5000/myapp", "acme"),
        ("Registry.example.com:5000/proxy/myapp", "acme"),
    ];
    assert_eq!(logins(&answer), expected);
}

#[test]
fn what_is_no_request_of_kubelet_is_refused_with_a_sentence() {
    let directory = tempfile::tempdir().expect("a directory");
    put_licence(&directory, "acme", HOST, &["myapp"], -1..90);
    let with = |key: &str, value: Value| {
        let mut request = request(IMAGE);
        request[key] = value;
        request.to_string()
    };
    for (request, told) in [
        (
            with("apiVersion", version("v2").into()),
            "write apiVersion: credentialprovider.kubelet.k8s.io/v1",
        ),
        (with("apiVersion", "v1".into()), "there is no answer in \"v1\""),
        (with("apiVersion", "credentialprovider.kubelet.k8s.iov1".into()), "there is no answer in"),
        (with("kind", "CredentialProviderResponse".into()), "\"CredentialProviderResponse\" is no"),
        (with("image", Value::Null), "no request of kubelet"),
        (with("more", "x".repeat(64 * 1024).into()), "longer than 65536 bytes"),
        (String::new(), "no request of kubelet"),
        ("[]".to_owned(), "no request of kubelet"),
    ] {
        let (code, stdout, stderr) = provider(&directory, &request);
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{request:.200}");
        assert!(stderr.starts_with("roadstead: ") && stderr.contains(told), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
}

#[test]
fn a_licence_that_may_not_be_read_is_an_empty_answer_and_a_sentence() {
    let directory = tempfile::tempdir().expect("a directory");
    put_licence(&directory, "acme", HOST, &["myapp"], -1..90);
    forbid(&directory, "licences/acme");
    let mut command = for_a_user(&directory, "roadstead");
    let request = request(IMAGE).to_string();
    let (code, stdout, stderr) =
        run_with_request(command.arg("credential-provider"), &directory, "licences", &request);
    let answer: Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!((code, &answer["auth"]), (Some(0), &json!({})), "{stderr}");
    assert!(stderr.contains("as root, run chmod a+rX "), "{stderr}");
}
