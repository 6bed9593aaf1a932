//! The upstream: CNCF distribution as Debian packages it (`docker-registry`), open or behind a
//! credential.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use http::{Method, StatusCode, header};
use roadstead::oci::Digest;

use super::http_client::client;
use super::image::{Content, Image};
use super::process::{Need, PATIENCE, Process, poll};
use super::token_server::{ISSUER, SERVICE, TokenServer};

pub(crate) const NEED: Need = Need::Program("docker-registry");
pub(crate) const USERNAME: &str = "proxy-user";
pub(crate) const PASSWORD: &str = "correct horse";
/// How the registry knows its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Auth {
    Anonymous,
    /// By htpasswd, with this password.
    Basic(&'static str),
    /// By a token server that wants [`PASSWORD`].
    Bearer,
}

impl Auth {
    /// What [`USERNAME`] logs in with.
    pub(crate) fn password(self) -> Option<&'static str> {
        match self {
            Self::Anonymous => None,
            Self::Basic(password) => Some(password),
            Self::Bearer => Some(PASSWORD),
        }
    }
}

/// A running registry.
#[derive(Debug)]
pub(crate) struct Registry {
    process: Process,
    data: PathBuf,
    pub(crate) address: SocketAddr,
    pub(crate) auth: Auth,
    pub(crate) tokens: Option<TokenServer>,
}

/// One request of its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Logged {
    pub(crate) method: String,
    pub(crate) path: String,
    /// Nothing for a request that was refused for want of a credential.
    pub(crate) status: Option<u64>,
}

impl Registry {
    /// A registry that holds `images`, each under its repository as tag `1`, and asks for `auth`.
    pub(crate) async fn holding(folder: &Path, auth: Auth, images: &[(&str, &Image)]) -> Self {
        let open = Self::start(folder, Auth::Anonymous).await;
        for (repository, image) in images {
            open.push(repository, image).await;
        }
        drop(open);
        Self::start(folder, auth).await
    }

    async fn start(folder: &Path, auth: Auth) -> Self {
        let folder = folder.join("registry");
        fs::create_dir_all(&folder).expect("the folder is the test's own");
        let tokens = match auth {
            Auth::Bearer => Some(TokenServer::start(&folder.join("token.pem")).await),
            Auth::Anonymous | Auth::Basic(_) => None,
        };
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(configure(&folder, auth, tokens.as_ref()));
        let mut process = Process::start("registry", &folder, command);
        let address = process.until("address", async |process| listening(&process.err())).await;
        Self { process, data: folder.join("data"), address, auth, tokens }
    }

    async fn push(&self, repository: &str, image: &Image) {
        for platform in &image.platforms {
            for blob in platform.blobs() {
                self.push_blob(repository, blob).await;
            }
            self.push_manifest(repository, platform.manifest.digest.as_str(), &platform.manifest)
                .await;
        }
        self.push_manifest(repository, "1", &image.index).await;
    }

    async fn push_blob(&self, repository: &str, blob: &Content) {
        let uploads = format!("http://{}/v2/{repository}/blobs/uploads/", self.address);
        let begun = client().post(uploads).send().await.expect("the registry answers");
        let location = begun.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
        let mut url: url::Url = location
            .and_then(|text| text.parse().ok())
            .expect("an upload has an absolute location");
        url.query_pairs_mut().append_pair("digest", blob.digest.as_str());
        self.put(url.as_str(), "application/octet-stream", blob).await;
    }

    async fn push_manifest(&self, repository: &str, reference: &str, manifest: &Content) {
        let url = format!("http://{}/v2/{repository}/manifests/{reference}", self.address);
        self.put(&url, manifest.media_type, manifest).await;
    }

    /// The registry says the digest of what it stored; a direct pull gets those bytes.
    async fn put(&self, url: &str, media_type: &str, content: &Content) {
        let request = client().request(Method::PUT, url).header(header::CONTENT_TYPE, media_type);
        let response =
            request.body(content.bytes.clone()).send().await.expect("the registry answers");
        assert_eq!(response.status(), StatusCode::CREATED, "{url}");
        assert_eq!(response.headers()["docker-content-digest"], content.digest.as_str(), "{url}");
    }

    /// The digest that the tag has on its disk.
    pub(crate) fn tagged(&self, repository: &str, tag: &str) -> Digest {
        let file = format!(
            "docker/registry/v2/repositories/{repository}/_manifests/tags/{tag}/current/link"
        );
        let digest = fs::read_to_string(self.data.join(file)).expect("there is such a tag");
        Digest::parse(&digest).expect("the registry writes digests")
    }

    /// Every request it has answered so far.
    pub(crate) async fn log(&self, mark: &str) -> Vec<Logged> {
        let fence = format!("/v2/?mark={mark}");
        super::http_client::get(self.address, &fence).await.expect("the registry answers");
        // A request is logged after its answer; the one asked for last stands after those that were
        // over before it.
        poll("line of the last request in the registry's log", PATIENCE, async || {
            let mut log: Vec<_> = self.process.err().lines().filter_map(Logged::parse).collect();
            let complete = log.iter().any(|logged| logged.path == fence);
            log.retain(|logged| !logged.path.contains("?mark="));
            complete.then_some(log)
        })
        .await
    }
}

impl Logged {
    fn parse(line: &str) -> Option<Self> {
        let record: serde_json::Value = serde_json::from_str(line).ok()?;
        let text = |key: &str| Some(record.get(key)?.as_str()?.to_owned());
        let status = record.get("http.response.status").and_then(serde_json::Value::as_u64);
        Some(Self { method: text("http.request.method")?, path: text("http.request.uri")?, status })
    }

    pub(crate) fn fetches(&self, content: &Content) -> bool {
        self.carries_content() && self.path.contains(content.digest.as_str())
    }

    /// True for the end of a blob that was sent.
    pub(crate) fn completes_upload(&self) -> bool {
        self.method == "PUT" && self.path.contains("/blobs/uploads/")
    }

    /// True for a GET of any blob or manifest that carried it.
    pub(crate) fn carries_content(&self) -> bool {
        self.method == "GET"
            && self.status.is_some_and(|status| status < 300)
            && (self.path.contains("/blobs/") || self.path.contains("/manifests/"))
    }
}

/// Fails unless each blob of `image` was fetched by one GET.
pub(crate) fn every_blob_was_fetched_once(log: &[Logged], image: &Image) {
    for blob in image.native().blobs() {
        let fetches = log.iter().filter(|logged| logged.fetches(blob)).count();
        assert_eq!(fetches, 1, "{}: {log:#?}", blob.digest);
    }
}

fn configure(folder: &Path, auth: Auth, tokens: Option<&TokenServer>) -> PathBuf {
    let root = folder.display();
    let auth = match (auth, tokens) {
        (Auth::Basic(password), _) => {
            fs::write(folder.join("htpasswd"), htpasswd(USERNAME, password))
                .expect("the folder is the test's own");
            format!("auth: {{ htpasswd: {{ realm: registry, path: {root}/htpasswd }} }}\n")
        }
        (Auth::Bearer, Some(TokenServer { address, .. })) => format!(
            "auth: {{ token: {{ realm: 'http://{address}/token', service: {SERVICE}, issuer: {ISSUER}, \
             rootcertbundle: {root}/token.pem }} }}\n"
        ),
        (Auth::Anonymous, _) | (Auth::Bearer, None) => String::new(),
    };
    let text = format!(
        "version: 0.1\nlog: {{ level: info, formatter: json, accesslog: {{ disabled: true }} }}\n\
         storage: {{ filesystem: {{ rootdirectory: {root}/data }} }}\nhttp: {{ addr: '127.0.0.1:0' }}\n{auth}"
    );
    let path = folder.join("config.yml");
    fs::write(&path, text).expect("the folder is the test's own");
    path
}

/// The line of an htpasswd file.
pub(crate) fn htpasswd(user: &str, password: &str) -> String {
    format!("{user}:{}\n", bcrypt::hash(password, 4).expect("the cost is the lowest there is"))
}

fn listening(log: &str) -> Option<SocketAddr> {
    let (_, rest) = log.split_once("listening on ")?;
    rest.split_once('"')?.0.parse().ok()
}
