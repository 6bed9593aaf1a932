//! `roadstead list`: which images files name, and where.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{roadstead, run, text};

const PODS: &str = r#"{"apiVersion": "v1", "kind": "List", "items": [
  {"kind": "Pod", "metadata": {"annotations": {"image": "quay.io/no/no:1"}},
   "spec": {"containers": [{"name": "a", "image": "quay.io/acme/app:2"}],
            "initContainers": [{"image": "nginx"}], "ephemeralContainers": [{"image": "busybox:1"}]},
   "status": {"containerStatuses": [{"image": "quay.io/no/no:2", "imageID": "quay.io/no/no@sha256:1"}]}}]}"#;

/// Files of these names and contents.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().expect("a directory");
    for (name, content) in files {
        fs::write(folder.path().join(name), content).expect("writable");
    }
    folder
}

/// Exit code, stdout and stderr.
fn list(folder: &TempDir, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = run(roadstead(&["list"]).args(arguments).current_dir(folder.path()));
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn files_of_any_kind_become_one_list_that_is_read_again() {
    let folder = folder(&[
        (
            "a",
            "\u{feff}# mine\r\nnginx platform=linux/arm64\r\n\r\nghcr.io/x/y:1 referrers=false\r\n",
        ),
        ("b", PODS),
        (
            "c",
            "x-base: &base\n  image: redis:7\nservices:\n  one: { <<: *base }\n  two: { build: . }\n",
        ),
        (
            "d",
            "apiVersion: v2\nname: c\nversion: 1.0.0\nannotations:\n  helm.sh/images: |\n    - name: a\n      image: quay.io/c/d:1\n",
        ),
    ]);
    let expected = "docker.io/library/nginx:latest platform=linux/arm64\n\
                    ghcr.io/x/y:1 referrers=false\n\
                    quay.io/acme/app:2\n\
                    docker.io/library/busybox:1\n\
                    docker.io/library/redis:7\n\
                    quay.io/c/d:1\n";
    assert_eq!(list(&folder, &["a", "b", "c", "d"]), (Some(0), expected.to_owned(), String::new()));
    fs::write(folder.path().join("again"), expected).expect("writable");
    assert_eq!(list(&folder, &["again"]), (Some(0), expected.to_owned(), String::new()));
}

#[test]
fn stdin_is_a_file_among_others() {
    let folder = folder(&[("a", "nginx\n")]);
    let mut command = roadstead(&["list", "-", "a", "--json"]);
    command.current_dir(folder.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("the binary runs");
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(PODS.as_bytes()).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let images: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let nginx = json!({
        "image": "docker.io/library/nginx:latest", "platforms": null, "referrers": null,
        "places": [
            {"file": "-", "document": null, "line": null, "path": "items[0].spec.initContainers[0].image"},
            {"file": "a", "document": null, "line": 1, "path": null},
        ],
    });
    assert_eq!((output.status.code(), &images[1]), (Some(0), &nginx), "{images:#}");
    assert_eq!(images.as_array().map(Vec::len), Some(3));
}

#[test]
fn every_place_of_an_image_is_told() {
    let folder =
        folder(&[("a", "x/y:1\nnginx:1 platform=all\n"), ("b", PODS), ("c", "nginx\nnginx\n")]);
    let (code, out, err) = list(&folder, &["a", "b", "c", "--why", "docker.io/nginx"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert_eq!(
        out,
        "docker.io/library/nginx:1 platform=all\n  a:2\n\
         docker.io/library/nginx:latest\n  b: items[0].spec.initContainers[0].image\n  c:1\n  c:2\n"
    );
    let (_, out, _) = list(&folder, &["a", "b", "c", "--why", "nginx:1", "--json"]);
    let images: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(images.as_array().map(Vec::len), Some(1));
    assert_eq!(images[0]["platforms"], json!(["all"]));
}

#[test]
fn what_is_not_there_ends_in_a_sentence_and_1() {
    let folder =
        folder(&[("a", "nginx:1\n"), ("empty", "# nothing yet\n"), ("map", "kind: ConfigMap\n")]);
    for (arguments, told) in [
        (&["a", "--why", "nginx:2"][..], "roadstead: nginx:2 is not named in a\n"),
        (&["a", "--why", "Nginx"], "roadstead: Nginx: a repository name is lower-case"),
        (&["empty", "map"], "roadstead: no image is named in empty, map\n"),
        (&["a", "gone"], "roadstead: cannot read gone: "),
        (&["a", "."], "roadstead: cannot read .: "),
    ] {
        let (code, out, err) = list(&folder, arguments);
        assert_eq!((code, out.as_str()), (Some(1), ""), "{arguments:?}");
        assert!(err.starts_with(told), "{err}");
    }
    assert_eq!(list(&folder, &[]).0, Some(2));
}

#[test]
fn everything_that_is_wrong_is_told_and_nothing_is_printed() {
    let folder = folder(&[
        ("a", "nginx\nNginx\nnginx platform=x\n"),
        ("b", "kind: Pod\nspec:\n  containers:\n    - image: x y\n---\na: [\n---\nfoo: bar\n"),
        ("c", "services: { web: { image: \"${REGISTRY}/app\" } }\n"),
        ("d", "{\"kind\": \"Pod\", \"spec\": {\"containers\": [{\"image\": 7}]}} {"),
        ("e", "{{ .Values }}\n"),
    ]);
    let (code, out, err) = list(&folder, &["a", "b", "c", "d", "e"]);
    assert_eq!((code, out.as_str()), (Some(1), ""));
    let expected = [
        "a:2: \"Nginx\": ",
        "a:3: \"platform=x\": ",
        "b: document 1 (line 1): spec.containers[0].image: \"x y\": ",
        "b: document 2 (line 5): is not valid YAML in line ",
        "b: document 3 (line 7): is not a list of images, nor ",
        "c: services.web.image: \"${REGISTRY}/app\" has a variable; ",
        "d: document 1: spec.containers[0].image: is not text",
        "d: document 2: is not valid JSON: ",
        "e: is a template; ",
    ];
    assert_eq!(err.lines().count(), expected.len(), "{err}");
    for (line, expected) in err.lines().zip(expected) {
        assert!(line.starts_with(expected), "{line}");
    }
}

#[test]
fn a_text_that_unfolds_without_end_is_refused_at_once() {
    let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for level in 1..30 {
        let before = format!("*a{},", level - 1).repeat(10);
        bomb.extend([format!("a{level}: &a{level} [{before}]\n")]);
    }
    let folder = folder(&[("bomb", &bomb), ("deep", &"[".repeat(100_000))]);
    let (code, out, err) = list(&folder, &["bomb", "deep"]);
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(err.starts_with("bomb: is not valid YAML") && err.contains("aliases"), "{err}");
    assert!(err.contains("\ndeep: is not valid JSON: recursion limit exceeded"), "{err}");
}
