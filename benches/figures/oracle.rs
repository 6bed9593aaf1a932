//! Whether waiting for a refusal tells what exists (RELIABILITY A-4): a name that a customer may
//! not pull, beside one that there is not.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use roadstead::clock::{Clock, Timestamp};
use roadstead::licence::{Licence, LicenceId, PrivateKey, Slug};
use tokio::time::{Instant, timeout};

use crate::client::{Client, PATIENCE, basic, request_as};
use crate::content::Content;
use crate::origin::Origin;
use crate::server::{self, Server};
use crate::stats::median;

/// Of each of two that are compared, in turn.
const SAMPLES: usize = 10_000;
const REQUIRED: Duration = Duration::from_micros(200);
const PASSWORD: &str = "right";
const DAY: Duration = Duration::from_hours(24);

pub(crate) async fn run() -> anyhow::Result<()> {
    let folder = server::folder()?;
    let origin = Origin::start().await?;
    let blob = Content::blob(0, 1 << 10);
    let manifest = Content::manifest(std::slice::from_ref(&blob));
    for repository in ["mine/app", "mine/cold", "other/app", "other/cold"] {
        for content in [&manifest, &blob] {
            let kind = if Arc::ptr_eq(content, &blob) { "blobs" } else { "manifests" };
            origin.add(format!("/v2/{repository}/{kind}/{}", content.digest), content);
        }
        origin.add(format!("/v2/{repository}/manifests/1.0"), &manifest);
    }
    let key = PrivateKey::generate().map_err(anyhow::Error::msg)?;
    let (users, public) = (folder.path().join("htpasswd"), folder.path().join("licence.pub"));
    fs::write(&users, format!("ops:{}\n", bcrypt::hash(PASSWORD, 4)?))?;
    fs::write(&public, key.public().to_pem())?;
    let sections = format!(
        "hosts: ['http://127.0.0.1']\naccess:\n  users: '{}'\n  rules:\n    \
         - {{ who: 'user:ops', allow: [pull], images: [\"**\"] }}\napplications:\n  \
         mine: {{ images: [\"origin.test/mine/app\"] }}\n  other: {{ images: [\"origin.test/other/**\"] }}\n\
         licences: {{ issuer: Bench, public_keys: ['{}'] }}\n",
        users.display(),
        public.display()
    );
    let server = server::roadstead_with(folder.path(), origin.address, &sections).await?;
    let ops = basic("ops", PASSWORD);
    for warm in ["mine/app", "other/app"] {
        for path in
            [format!("/v2/{warm}/manifests/1.0"), format!("/v2/{warm}/blobs/{}", blob.digest)]
        {
            let mut client = Client::connect(server.address, 0).await?;
            client.get(&request_as(&path, &ops), |_| ()).await.context(path)?;
        }
    }
    let customer = log_in(&server, &key).await?;
    println!(
        "oracle: {SAMPLES} refusals of each, in turn; difference of their medians (required: {REQUIRED:?})"
    );
    let (real, none) = (blob.digest.to_string(), Content::blob(1, 1 << 10).digest.to_string());
    for (what, forbidden, absent) in [
        (
            "another application's tag, stored",
            "/v2/other/app/manifests/1.0",
            "/v2/other/not/manifests/1.0",
        ),
        (
            "another application's tag, not stored",
            "/v2/other/cold/manifests/1.0",
            "/v2/other/none/manifests/1.0",
        ),
        (
            "a tag beside its own, not stored",
            "/v2/mine/cold/manifests/1.0",
            "/v2/mine/none/manifests/1.0",
        ),
        (
            "another application's tag, by application",
            "/v2/proxy/other/origin.test/other/app/manifests/1.0",
            "/v2/proxy/wrong/origin.test/other/app/manifests/1.0",
        ),
        (
            "another's tag as of its own application",
            "/v2/proxy/mine/origin.test/other/app/manifests/1.0",
            "/v2/proxy/mine/origin.test/other/not/manifests/1.0",
        ),
        (
            "another application's blob, stored",
            &format!("/v2/other/app/blobs/{real}"),
            &format!("/v2/other/not/blobs/{none}"),
        ),
        (
            "its own blob in another's repository",
            &format!("/v2/other/app/blobs/{real}"),
            &format!("/v2/other/app/blobs/{none}"),
        ),
    ] {
        compare(&server, what, [forbidden, absent].map(|path| request_as(path, &customer))).await?;
    }
    Ok(())
}

async fn compare(server: &Server, what: &str, requests: [Vec<u8>; 2]) -> anyhow::Result<()> {
    let mut client = Client::connect(server.address, 0).await?;
    let mut waits = [Vec::new(), Vec::new()];
    let mut bodies = [String::new(), String::new()];
    for sample in 0..SAMPLES * 2 {
        // Neither is always the second.
        let which = (sample + sample / 2) % 2;
        let start = Instant::now();
        let (head, body) = timeout(PATIENCE, client.whole(&requests[which])).await??;
        waits[which].push(start.elapsed());
        ensure!(head.starts_with("HTTP/1.1 404 "), "{what}: {head}");
        bodies[which] = body;
    }
    ensure!(bodies[0] == bodies[1], "{what}: the answers differ: {bodies:?}");
    let [forbidden, absent] = waits.map(|waits| median(&waits).unwrap_or_default());
    let difference = forbidden.abs_diff(absent);
    println!(
        "  {what}: {:.1} µs ({:.1} and {:.1})",
        micros(difference),
        micros(forbidden),
        micros(absent)
    );
    Ok(())
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// A customer's `Authorization`, with a licence for `mine` alone.
async fn log_in(server: &Server, key: &PrivateKey) -> anyhow::Result<String> {
    let now = Clock::system().now().unix().as_secs();
    let at = |seconds: u64| Timestamp::from_unix(Duration::from_secs(seconds));
    let licence = Licence {
        id: LicenceId::parse("acme").map_err(anyhow::Error::msg)?,
        issuer: "Bench".to_owned(),
        customer: "Customer".to_owned(),
        email: None,
        applications: vec![Slug::parse("mine").map_err(anyhow::Error::msg)?],
        hosts: vec!["127.0.0.1".to_owned()],
        issued: at(now),
        not_before: at(now),
        expires: at(now + DAY.as_secs()),
    };
    let token = key.sign(&licence).map_err(anyhow::Error::msg)?;
    let mut client = Client::connect(server.address, 0).await?;
    let (head, body) =
        client.whole(&request_as("/token?service=127.0.0.1", &basic("acme", &token))).await?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "no token: {head}{body}");
    let answer: serde_json::Value = serde_json::from_str(&body)?;
    Ok(format!("Bearer {}", answer["token"].as_str().context("a token")?))
}
