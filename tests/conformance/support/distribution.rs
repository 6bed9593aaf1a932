//! The registry behind us, CNCF distribution, and what is pulled from it.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use http::{StatusCode, header};
use roadstead::oci::{Algorithm, Digest, OCI_INDEX, Tag};
use serde_json::{Value, json};

use super::process::Process;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

#[derive(Debug)]
pub(crate) struct Distribution {
    pub(crate) address: SocketAddr,
    _process: Process,
}

/// What was pushed for the runs that only pull.
#[derive(Debug)]
pub(crate) struct Fixture {
    pub(crate) tags: Vec<String>,
    pub(crate) manifests: Vec<Digest>,
    pub(crate) blobs: Vec<Digest>,
    pub(crate) subject: Digest,
}

impl Distribution {
    /// Starts `program` with an empty storage in which everything may be deleted.
    pub(crate) async fn start(folder: &Path, program: &Path) -> Self {
        let folder = folder.join("registry");
        fs::create_dir_all(&folder).expect("the folder is the test's own");
        let text = format!(
            "version: 0.1\nlog: {{ level: info, accesslog: {{ disabled: true }} }}\n\
             storage: {{ filesystem: {{ rootdirectory: '{}/data' }}, delete: {{ enabled: true }} }}\n\
             http: {{ addr: '127.0.0.1:0' }}\n",
            folder.display()
        );
        let config = folder.join("config.yml");
        fs::write(&config, text).expect("the folder is the test's own");
        let mut command = Command::new(program);
        command.arg("serve").arg(config);
        let mut process = Process::start("registry", &folder, command);
        let address = process.until("address", async |process| listening(&process.err())).await;
        Self { address, _process: process }
    }

    /// Pushes an image, an index of it, and a signature of the image that the fallback tag lists.
    pub(crate) async fn push(&self, repository: &str) -> Fixture {
        let (config, layer) = (json!({ "os": "linux" }).to_string(), "a layer");
        let blobs = vec![
            self.push_blob(repository, &config).await,
            self.push_blob(repository, layer).await,
        ];
        let document = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": descriptor(CONFIG, &config), "layers": [descriptor(LAYER, layer)],
        });
        let image = document.to_string();
        let signature = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/x.signature",
            "config": descriptor(CONFIG, &config), "layers": [descriptor(LAYER, layer)],
            "subject": descriptor(MANIFEST, &image),
        });
        let signature = signature.to_string();
        let subject = digest(&image);
        let fallback = Tag::of_referrers(&subject).to_string();
        let (index, referrers) =
            (index(&descriptor(MANIFEST, &image)), index(&descriptor(MANIFEST, &signature)));
        let manifests = vec![
            self.push_manifest(repository, "v1", MANIFEST, &image).await,
            self.push_manifest(repository, digest(&signature).as_str(), MANIFEST, &signature).await,
            self.push_manifest(repository, "latest", OCI_INDEX, &index).await,
            self.push_manifest(repository, &fallback, OCI_INDEX, &referrers).await,
        ];
        Fixture { tags: vec!["v1".into(), "latest".into(), fallback], manifests, blobs, subject }
    }

    async fn push_blob(&self, repository: &str, content: &str) -> Digest {
        let digest = digest(content);
        let uploads = format!("http://{}/v2/{repository}/blobs/uploads/", self.address);
        let begun = client().post(uploads).send().await.expect("the registry answers");
        let location = begun.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
        let mut url: url::Url =
            location.and_then(|text| text.parse().ok()).expect("an absolute location");
        url.query_pairs_mut().append_pair("digest", digest.as_str());
        put(url.as_str(), "application/octet-stream", content).await;
        digest
    }

    async fn push_manifest(
        &self,
        repository: &str,
        reference: &str,
        media_type: &str,
        content: &str,
    ) -> Digest {
        put(
            &format!("http://{}/v2/{repository}/manifests/{reference}", self.address),
            media_type,
            content,
        )
        .await;
        digest(content)
    }
}

fn listening(log: &str) -> Option<SocketAddr> {
    let (_, rest) = log.split_once("listening on ")?;
    rest.split_once('"')?.0.parse().ok()
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().expect("a client")
}

async fn put(url: &str, media_type: &str, content: &str) {
    let request =
        client().put(url).header(header::CONTENT_TYPE, media_type).body(content.to_owned());
    assert_eq!(
        request.send().await.expect("the registry answers").status(),
        StatusCode::CREATED,
        "{url}"
    );
}

fn digest(content: &str) -> Digest {
    Digest::of(Algorithm::Sha256, content.as_bytes())
}

fn descriptor(media_type: &str, content: &str) -> Value {
    json!({ "mediaType": media_type, "digest": digest(content).as_str(), "size": content.len() })
}

fn index(entry: &Value) -> String {
    json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry] }).to_string()
}
