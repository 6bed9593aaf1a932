//! What the proxy knows and must not tell: no log, metric, argument or cached file holds a credential or a token.

use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::crash::files;
use crate::image::Image;
use crate::process::{PATIENCE, ready};
use crate::proxy::{Proxy, Settings};
use crate::registry::{Auth, NEED, PASSWORD, Registry, USERNAME};
use crate::web::{self, pull};

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
    let mut proxy = Proxy::start(&settings).await;
    pull(proxy.clients, "/v2/quay.io/acme/app", "1", &image).await.expect("the credential is a good one");
    let missing = web::get(proxy.clients, "/v2/quay.io/acme/none/manifests/1").await.expect("the proxy answers");
    assert!(missing.status.is_client_error());

    let mut told = told(&proxy).await;
    proxy.process.signal(Signal::TERM);
    proxy.process.exit(PATIENCE).await;
    told.extend([("stdout".into(), proxy.process.out()), ("stderr".into(), proxy.process.err())]);
    told.extend(files(settings.cache()).iter().map(|path| (path.display().to_string(), text(path))));
    assert!(proxy.process.err().contains("acme/app"), "nothing was logged");
    for secret in secrets(&registry) {
        let where_told: Vec<_> = told.iter().filter(|(_, text)| text.contains(&secret)).map(|(name, _)| name).collect();
        assert!(where_told.is_empty(), "{secret:.20} is told by {where_told:?}");
    }
}

/// What a running process shows.
async fn told(proxy: &Proxy) -> Vec<(String, String)> {
    let metrics = web::get(proxy.admin, "/metrics").await.expect("the admin listener answers");
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    assert!(metrics.contains("roadstead_"), "{metrics}");
    let proc = format!("/proc/{}", proxy.process.pid());
    let arguments = text(Path::new(&format!("{proc}/cmdline")));
    vec![("metrics".into(), metrics), ("arguments".into(), arguments)]
}

fn secrets(registry: &Registry) -> Vec<String> {
    let tokens = registry.tokens.as_ref().map(crate::token::TokenServer::issued);
    assert!(tokens.as_ref().is_none_or(|tokens| !tokens.is_empty()), "no token was bought");
    // The end of a token is its signature, without which the rest is worth nothing.
    let signatures = tokens.iter().flatten().filter_map(|token| Some(token.rsplit_once('.')?.1.to_owned()));
    [PASSWORD.to_owned(), STANDARD.encode(format!("{USERNAME}:{PASSWORD}"))].into_iter().chain(signatures).collect()
}

fn text(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).expect("the file is there")).into_owned()
}
