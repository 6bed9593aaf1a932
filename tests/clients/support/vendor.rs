//! A vendor: a private registry and a private account on Quay behind one proxy with TLS, two
//! applications, users, and licences as `roadstead licence` makes them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Method, StatusCode, header};
use reqwest::RequestBuilder;
use roadstead::clock::{Clock, Timestamp};
use roadstead::config::{LicenceFile, read_licence};
use roadstead::licence::{Licence, LicenceId, PrivateKey, Slug};
use tempfile::TempDir;

use super::http_client::Answer;
use super::image::Image;
use super::process::{ready, run};
use super::proxy::{BINARY, Proxy, Settings};
use super::registry::{Auth, PASSWORD, Registry, htpasswd};
use super::sandbox::{HOST, Sandbox};
use super::tcp_forwarder::TcpForwarder;
use super::tools::Client;

/// What opens the vendor's account on Quay.
pub(crate) const QUAY_PASSWORD: &str = "battery staple";
pub(crate) const USER: (&str, &str) = ("support", "purple monkey dishwasher");
/// Who may push the images of `myapp`.
pub(crate) const PUBLISHER: (&str, &str) = ("ci", "stream of consciousness");
pub(crate) const EMAIL: &str = "ops@customer.test";
const ISSUER: &str = "Acme Inc.";

/// Repositories as the vendor's proxy names them: of `myapp`, in the private registry and on Quay,
/// and of `other`.
pub(crate) const APP: &str = "registry.test/myapp/api";
pub(crate) const EXTERNAL: &str = "proxy/myapp/quay.io/acme/api";
pub(crate) const OTHER: &str = "registry.test/other/api";

/// The vendor's side.
pub(crate) struct Vendor {
    pub(crate) scratch: TempDir,
    pub(crate) sandbox: Sandbox,
    /// What [`APP`] and [`OTHER`] are.
    pub(crate) app: Image,
    /// What [`EXTERNAL`] is.
    pub(crate) external: Image,
    pub(crate) registry: Registry,
    pub(crate) quay: Registry,
    /// What stands in front of the two, in their order, and records what they are asked.
    pub(crate) forwarders: [TcpForwarder; 2],
    pub(crate) settings: Settings,
    pub(crate) proxy: Proxy,
}

impl Vendor {
    pub(crate) async fn open() -> Self {
        Self::with("").await
    }

    /// The same, with a further line in the configuration.
    pub(crate) async fn with(line: &str) -> Self {
        let scratch = TempDir::new().expect("the system has a temporary folder");
        let folder = scratch.path();
        let sandbox = Sandbox::make(folder).await;
        let (app, external) = tokio::join!(
            Image::make(folder, 11, &[20_000, 1 << 20]),
            Image::make(folder, 12, &[30_000])
        );
        let (here, there) = (folder.join("private"), folder.join("quay"));
        let (private, account) =
            ([("myapp/api", &app), ("other/api", &app)], [("acme/api", &external)]);
        let (registry, quay) = tokio::join!(
            Registry::holding(&here, Auth::Basic(PASSWORD), &private),
            Registry::holding(&there, Auth::Basic(QUAY_PASSWORD), &account),
        );
        let forwarders =
            [TcpForwarder::to(registry.address).await, TcpForwarder::to(quay.address).await];
        let settings = Settings::empty(folder.join("roadstead"), "registry.test")
            .with_registry("registry.test", &registry, forwarders[0].address)
            .with_pushes()
            .with_registry("quay.io", &quay, forwarders[1].address)
            .with(line);
        keys(&settings.folder).await;
        let access = access(&settings.folder, &sandbox);
        let settings = settings.with(&access);
        let proxy = Proxy::start(&settings).await;
        Self { scratch, sandbox, app, external, registry, quay, forwarders, settings, proxy }
    }

    /// What the proxy is called by clients: name and port.
    pub(crate) fn host(&self) -> String {
        format!("{HOST}:{}", self.proxy.clients.port())
    }

    /// What clients pull.
    pub(crate) fn name(&self, repository: &str) -> String {
        format!("{}/{repository}:1", self.host())
    }

    /// A new folder for a part of the test.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        let folder = self.scratch.path().join(name);
        fs::create_dir(&folder).expect("the folder is the test's own");
        folder
    }

    /// A licence for `myapp`, by the command.
    pub(crate) async fn issue(&self, id: &str) -> Issued {
        let (file, key) = (self.licence(id), self.file("licence.key"));
        let mut command = licence(&[
            "issue",
            "--issuer",
            ISSUER,
            "--customer",
            "A customer",
            "--application",
            "myapp",
        ]);
        command.args(["--id", id, "--email", EMAIL, "--expires", "90d", "--host", &self.host()]);
        command
            .arg("--config")
            .arg(self.settings.file())
            .arg("--key")
            .arg(key)
            .arg("--out")
            .arg(&file);
        run("licence-issue", self.scratch.path(), command).await;
        Issued::read(file)
    }

    /// The same with an end that the command would refuse or cannot say.
    pub(crate) fn issue_until(&self, id: &str, expires: Timestamp) -> Issued {
        let pem = fs::read_to_string(self.file("licence.key")).expect("keygen wrote it");
        let key = PrivateKey::from_pem(&pem).expect("keygen wrote it");
        let issued = Timestamp::from_unix(Duration::from_hours(24));
        let licence = Licence {
            id: LicenceId::parse(id).expect(id),
            issuer: ISSUER.into(),
            customer: "A customer".into(),
            email: None,
            applications: vec![Slug::parse("myapp").expect("a slug")],
            hosts: vec![self.host()],
            issued,
            not_before: issued,
            expires,
        };
        let token = key.sign(&licence).expect("the licence is a good one");
        let file = self.licence(id);
        fs::write(&file, LicenceFile::write(&licence, &token))
            .expect("the folder is the test's own");
        Issued::read(file)
    }

    /// Revokes by the command.
    pub(crate) async fn revoke(&self, id: &str) {
        let mut command = licence(&["revoke", id, "--list"]);
        command.arg(self.file("revoked"));
        run("licence-revoke", self.scratch.path(), command).await;
    }

    /// What `licence pull-secret` writes.
    pub(crate) async fn pull_secret(&self, issued: &Issued, format: &str) -> String {
        let mut command = licence(&["pull-secret", "--format", format]);
        command.arg(&issued.file);
        run("licence-pull-secret", self.scratch.path(), command).await
    }

    /// GET over TLS.
    pub(crate) async fn get(&self, path: &str, authorization: &str) -> Answer {
        self.ask(Method::GET, path, |request| request.header(header::AUTHORIZATION, authorization))
            .await
    }

    /// POST of a form over TLS.
    pub(crate) async fn post(&self, path: &str, form: String) -> Answer {
        let head = (header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        self.ask(Method::POST, path, |request| request.header(head.0, head.1).body(form)).await
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        more: impl FnOnce(RequestBuilder) -> RequestBuilder,
    ) -> Answer {
        let client = self.sandbox.client(self.proxy.clients.port());
        let request = client.request(method, format!("https://{}{path}", self.host()));
        let response = more(request).send().await.expect("the proxy answers");
        Answer {
            status: response.status(),
            body: response.bytes().await.expect("the answer is whole"),
        }
    }

    /// An access token for a user and password, as a header's value.
    pub(crate) async fn token(&self, authorization: &str) -> String {
        let answer = self.get("/token?service=x", authorization).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        let document: serde_json::Value =
            serde_json::from_slice(&answer.body).expect("a token comes as JSON");
        format!("Bearer {}", document["token"].as_str().expect("a token"))
    }

    /// A file beside the configuration.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.settings.folder.join(name)
    }

    fn licence(&self, id: &str) -> PathBuf {
        self.scratch.path().join(format!("{id}.licence"))
    }
}

/// A vendor, and a client with storage of its own that is not logged in.
pub(crate) struct ClientOfVendor<C> {
    pub(crate) vendor: Vendor,
    /// The client's.
    pub(crate) folder: PathBuf,
    pub(crate) client: C,
}

impl<C: Client> ClientOfVendor<C> {
    /// `None` if something that it needs is not installed.
    pub(crate) async fn start() -> Option<Self> {
        if !ready(C::NEEDS) {
            return None;
        }
        let vendor = Vendor::open().await;
        let folder = vendor.folder("client");
        let client = C::start(&vendor.sandbox, &folder).await;
        Some(Self { vendor, folder, client })
    }
}

/// A licence as a customer has it.
pub(crate) struct Issued {
    pub(crate) file: PathBuf,
    pub(crate) id: String,
    pub(crate) token: String,
}

impl Issued {
    fn read(file: PathBuf) -> Self {
        let LicenceFile { licence, token } = read_licence(&file).expect("it was issued just now");
        Self { file, id: licence.id.to_string(), token: token.expose().to_owned() }
    }

    pub(crate) fn basic(&self) -> String {
        basic(&self.id, &self.token)
    }
}

/// The value of an `Authorization` header.
pub(crate) fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// A moment so many seconds from now; licences have whole seconds.
pub(crate) fn in_seconds(seconds: i64) -> Timestamp {
    Timestamp::from_unix(Duration::from_secs(
        Clock::system().now().unix().as_secs().saturating_add_signed(seconds),
    ))
}

fn licence(arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.arg("licence").args(arguments);
    command
}

/// Everything that the lines of [`access`] name.
async fn keys(folder: &Path) {
    run("licence-keygen", folder, {
        let mut command = licence(&["keygen"]);
        command.arg(folder.join("licence"));
        command
    })
    .await;
    let users = [USER, PUBLISHER].map(|(user, password)| htpasswd(user, password)).concat();
    for (name, text) in [("users", users), ("revoked", String::new())] {
        fs::write(folder.join(name), text).expect("the folder is the test's own");
    }
}

fn access(folder: &Path, sandbox: &Sandbox) -> String {
    let (folder, certificate, key) =
        (folder.display(), sandbox.certificate.display(), sandbox.key.display());
    format!(
        "hosts: [{HOST}]\n\
         tls: {{ certificate: '{certificate}', key: '{key}' }}\n\
         access:\n  users: '{folder}/users'\n  rules:\n    \
         - {{ who: 'user:{}', allow: [pull], applications: [myapp] }}\n\
         applications:\n  myapp: {{ images: ['registry.test/myapp/**', 'quay.io/acme/*'], \
         publishers: ['user:{}'] }}\n  \
         other: {{ images: ['registry.test/other/**'] }}\n\
         licences: {{ issuer: {ISSUER}, public_keys: ['{folder}/licence.pub'], revoked: '{folder}/revoked' }}",
        USER.0, PUBLISHER.0,
    )
}
