//! What the proxy knows and must not tell: no log, metric, argument, error or cached file holds a
//! credential, a token or a key.

use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::process::Signal;
use tempfile::TempDir;
use url::form_urlencoded;

use crate::support::crash::files;
use crate::support::http_client::{self, pull};
use crate::support::image::Image;
use crate::support::process::{Need, PATIENCE, ready};
use crate::support::proxy::{Proxy, Settings};
use crate::support::registry::{Auth, NEED, PASSWORD, Registry, USERNAME};
use crate::support::vendor::{
    APP, EMAIL, EXTERNAL, Issued, OTHER, QUAY_PASSWORD, USER, Vendor, basic, in_seconds,
};

#[tokio::test]
async fn nothing_tells_an_htpasswd_credential() {
    nothing_tells(Auth::Basic(PASSWORD)).await;
}

#[tokio::test]
async fn nothing_tells_a_token_or_what_it_was_bought_with() {
    nothing_tells(Auth::Bearer).await;
}

async fn nothing_tells(auth: Auth) {
    if !ready(&[NEED]) {
        return;
    }
    let scratch = TempDir::new().expect("the system has a temporary folder");
    let image = Image::make(scratch.path(), 3, &[100_000]).await;
    let registry = Registry::holding(scratch.path(), auth, &[("acme/app", &image)]).await;
    let settings = Settings::mirroring(scratch.path(), &registry).with("log: { level: trace }");
    let proxy = Proxy::start(&settings).await;
    pull(proxy.clients, "/v2/quay.io/acme/app", "1", &image)
        .await
        .expect("the credential is a good one");
    let missing = http_client::get(proxy.clients, "/v2/quay.io/acme/none/manifests/1")
        .await
        .expect("the proxy answers");
    assert!(missing.status.is_client_error());

    let outputs = Outputs::by(proxy, settings.cache()).await;
    assert!(outputs.at("stderr").contains("acme/app"), "nothing was logged");
    for secret in secrets(&registry) {
        outputs.assert_nowhere(&secret);
    }
}

fn secrets(registry: &Registry) -> Vec<String> {
    let tokens = registry.tokens.as_ref().map(crate::support::token_server::TokenServer::issued);
    assert!(tokens.as_ref().is_none_or(|tokens| !tokens.is_empty()), "no token was bought");
    let signatures = tokens.iter().flatten().map(|token| signature(token));
    [PASSWORD.to_owned(), upstream_pair(PASSWORD)].into_iter().chain(signatures).collect()
}

#[tokio::test]
async fn nothing_tells_a_licence_a_password_an_access_token_or_a_key() {
    if !ready(&[NEED, Need::Root]) {
        return;
    }
    let vendor = Vendor::with("log: { level: trace }").await;
    let (licence, ended) =
        (vendor.issue("acme-prod").await, vendor.issue_until("acme-old", in_seconds(-1)));
    let mut logins =
        [(&*licence.id, &*licence.token), (EMAIL, &licence.token), USER].map(Login::of).to_vec();
    let (tokens, mut bodies) = pull_with(&vendor, &logins).await;
    logins.extend(bad_logins(&licence, &ended));
    bodies.extend(be_refused(&vendor, &logins[3..], &tokens).await);
    let tls_key = text(&vendor.sandbox.key).lines().nth(1).expect("PEM has lines").to_owned();
    let key_file = vendor.settings.cache().join("keys/access");
    let forwarders = vendor.forwarders;

    let mut outputs = Outputs::by(vendor.proxy, vendor.settings.cache()).await;
    assert!(outputs.at("stderr").contains("licence:acme-prod"), "nothing was logged");
    outputs.0.push(("error bodies".into(), bodies.join("\n")));
    let places = [
        ("asked of the registry", &forwarders[0], PASSWORD),
        ("asked of Quay", &forwarders[1], QUAY_PASSWORD),
    ];
    outputs.0.extend(
        places.iter().map(|(place, forwarder, _)| ((*place).to_owned(), forwarder.forwarded())),
    );
    for secret in
        logins.iter().flat_map(Login::secrets).chain(tokens.iter().flat_map(|token| parts(token)))
    {
        outputs.assert_nowhere(&secret);
    }
    outputs.assert_nowhere(&tls_key);
    outputs.assert_only_at(&key_file.display().to_string(), &text(&key_file));
    for (place, _, password) in places {
        outputs.assert_nowhere(password);
        outputs.assert_only_at(place, &upstream_pair(password));
    }
}

/// A user and what they log in with.
#[derive(Clone)]
struct Login {
    user: String,
    password: String,
}

impl Login {
    fn of((user, password): (&str, &str)) -> Self {
        Self { user: user.to_owned(), password: password.to_owned() }
    }

    fn basic(&self) -> String {
        basic(&self.user, &self.password)
    }

    fn form(&self) -> String {
        let mut form = form_urlencoded::Serializer::new("grant_type=password".to_owned());
        form.append_pair("username", &self.user).append_pair("password", &self.password).finish()
    }

    fn secrets(&self) -> Vec<String> {
        let pair = self.basic().trim_start_matches("Basic ").to_owned();
        let token = self.password.contains('.').then(|| signature(&self.password));
        [self.password.clone(), pair].into_iter().chain(token).collect()
    }
}

/// Good ones that ended, or belong to somebody else, and one that is nearly right.
fn bad_logins(licence: &Issued, ended: &Issued) -> Vec<Login> {
    let nearly = format!("{}!", USER.1);
    [("eve", &*licence.token), ("eve", USER.1), (USER.0, &nearly), (&ended.id, &ended.token)]
        .map(Login::of)
        .to_vec()
}

/// Logs in both ways and pulls with what is bought, and with the login itself. The tokens, and what
/// was said about an image that is for none of them.
async fn pull_with(vendor: &Vendor, logins: &[Login]) -> (Vec<String>, Vec<String>) {
    let (mut tokens, mut bodies) = (Vec::new(), Vec::new());
    for login in logins {
        let (by_header, by_form) =
            (vendor.token(&login.basic()).await, vendor.post("/token", login.form()).await);
        assert!(by_form.status.is_success(), "{by_form:?}");
        for authorization in [login.basic(), by_header.clone()] {
            for repository in [APP, EXTERNAL] {
                let answer =
                    vendor.get(&format!("/v2/{repository}/manifests/1"), &authorization).await;
                assert!(answer.status.is_success(), "{answer:?}");
            }
            bodies.push(refusal(
                &vendor.get(&format!("/v2/{OTHER}/manifests/1"), &authorization).await,
            ));
        }
        tokens.push(by_header);
    }
    (tokens, bodies)
}

/// What is said to logins that are no good, and to tokens without their ends.
async fn be_refused(vendor: &Vendor, logins: &[Login], tokens: &[String]) -> Vec<String> {
    let cut = tokens.iter().map(|token| token.trim_end_matches(|c| c != '.').to_owned());
    let mut bodies = Vec::new();
    for authorization in logins.iter().map(Login::basic).chain(cut) {
        for path in ["/v2/", "/token", &format!("/v2/{APP}/manifests/1")] {
            bodies.push(refusal(&vendor.get(path, &authorization).await));
        }
    }
    for login in logins {
        bodies.push(refusal(&vendor.post("/token", login.form()).await));
    }
    bodies
}

fn refusal(answer: &http_client::Answer) -> String {
    assert!(answer.status.is_client_error(), "{answer:?}");
    String::from_utf8_lossy(&answer.body).into_owned()
}

/// What the proxy wrote and showed, by place.
struct Outputs(Vec<(String, String)>);

impl Outputs {
    /// What a process shows while it runs, and what it leaves.
    async fn by(mut proxy: Proxy, cache: &Path) -> Self {
        let metrics =
            http_client::get(proxy.admin, "/metrics").await.expect("the admin listener answers");
        let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
        assert!(metrics.contains("roadstead_"), "{metrics}");
        let proc = format!("/proc/{}", proxy.process.pid());
        let arguments = text(Path::new(&format!("{proc}/cmdline")));
        proxy.process.signal(Signal::TERM);
        proxy.process.exit(PATIENCE).await;
        let (out, err) = (proxy.process.out(), proxy.process.err());
        let shown =
            [("metrics", metrics), ("arguments", arguments), ("stdout", out), ("stderr", err)];
        let mut outputs: Vec<_> = shown.map(|(place, text)| (place.to_owned(), text)).into();
        outputs.extend(files(cache).iter().map(|path| (path.display().to_string(), text(path))));
        Self(outputs)
    }

    fn at(&self, place: &str) -> &str {
        &self.0.iter().find(|(name, _)| name == place).expect("it is a place").1
    }

    fn assert_nowhere(&self, secret: &str) {
        assert_eq!(self.places_of(secret), [""; 0], "{secret:.20} is told");
    }

    /// Where it belongs it has to be, or the search is worth nothing.
    fn assert_only_at(&self, place: &str, secret: &str) {
        assert_eq!(self.places_of(secret), [place], "{secret:.20} belongs to one place");
    }

    fn places_of(&self, secret: &str) -> Vec<&str> {
        assert!(!secret.is_empty());
        self.0
            .iter()
            .filter(|(_, text)| text.contains(secret))
            .map(|(name, _)| name.as_str())
            .collect()
    }
}

/// A token of ours as it was given out, and its end.
fn parts(authorization: &str) -> [String; 2] {
    let token = authorization.strip_prefix("Bearer ").expect("it is a token");
    [token.to_owned(), signature(token)]
}

/// The end of a token, without which the rest is worth nothing.
fn signature(token: &str) -> String {
    token.rsplit_once('.').expect("a token has three parts").1.to_owned()
}

/// What is sent to a registry.
fn upstream_pair(password: &str) -> String {
    STANDARD.encode(format!("{USERNAME}:{password}"))
}

fn text(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).expect("the file is there")).into_owned()
}
