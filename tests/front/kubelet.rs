//! A node without any login: what the credential provider answers kubelet pulls from the proxy
//! (ACCESS §6.2).

use std::io::Write;
use std::process::{Command, Stdio};

use http::Method;
use roadstead::config::LicenceFile;
use roadstead::licence::Licence;

use crate::support::vendor::{DAY, Vendor, basic};

/// The answer of the binary for an image, with the licence in a file.
fn ask(licence: &str, image: &str) -> serde_json::Value {
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("acme.licence");
    std::fs::write(&file, licence).expect("writable");
    let mut child = Command::new(env!("CARGO_BIN_EXE_roadstead"))
        .arg("credential-provider")
        .env("ROADSTEAD_LICENCE", &file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let version = "credentialprovider.kubelet.k8s.io/v1";
    let request = serde_json::json!({ "kind": "CredentialProviderRequest", "apiVersion": version, "image": image });
    child.stdin.take().expect("piped").write_all(request.to_string().as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_to_kubelet_pulls_from_a_bound_host_and_through_the_application() {
    let vendor =
        Vendor::start_with(|setup| setup.config.upstreams[0].hosts = vec!["127.0.0.1".to_owned()])
            .await;
    let authority = vendor.proxy.authority();
    // The binary has the system's clock, the proxy its own.
    let licence = Licence {
        hosts: vec![authority.clone()],
        ..vendor.licence("acme", &["myapp"], 36_500 * DAY)
    };
    let answer = ask(
        &LicenceFile::write(&licence, &vendor.sign(&licence)),
        &format!("{authority}/myapp/worker:1.0"),
    );
    for (key, repository, tag) in [
        ("myapp", "myapp/worker", "1.0"),
        ("proxy/myapp", "proxy/myapp/quay.io/acme/api", "2.0"),
        ("proxy/myapp", "proxy/myapp/registry.test/myapp/worker", "1.0"),
    ] {
        let login = &answer["auth"][format!("{authority}/{key}")];
        let [user, password] =
            ["username", "password"].map(|name| login[name].as_str().expect("text"));
        let token = format!("/token?service={authority}&scope=repository:{repository}:pull");
        let token = vendor
            .proxy
            .request(Method::GET, &token, &[("authorization", &basic(user, password))])
            .await;
        let bearer = format!("Bearer {}", token.json()["token"].as_str().expect("a token"));
        let get = async |path: String| {
            vendor.proxy.request(Method::GET, &path, &[("authorization", &bearer)]).await
        };
        let manifest = get(format!("/v2/{repository}/manifests/{tag}")).await;
        assert_eq!(manifest.status, 200, "{}", manifest.text());
        let layer = manifest.json()["layers"][0]["digest"].as_str().expect("a layer").to_owned();
        let blob = get(format!("/v2/{repository}/blobs/{layer}")).await;
        assert_eq!((blob.status, blob.digest().to_string()), (200, layer));
    }
    let (user, password) =
        ("acme", answer["auth"][format!("{authority}/myapp")]["password"].as_str().expect("text"));
    assert_eq!(
        vendor.status(&basic(user, password), "/v2/other/worker/manifests/1.0").await,
        404,
        "and nothing else"
    );
}
