//! `roadstead credential-provider`: kubelet's exec plugin, which answers from the licence files on
//! the node (ACCESS §6.2, Kubernetes KEP-2133).
//!
//! kubelet keeps an answer for the whole host of the image, so it holds every application that
//! there is a licence for. Without any it is an empty answer and no error: other images of the host
//! may need no login.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use serde::Deserialize;
use serde_json::{Value, json};

use super::failure::CommandFailure;
use super::licences_here::{licences, notice, of_host, rank, request};
use super::output::{print, tell};
use crate::clock::{Clock, Timestamp};
use crate::config::LicenceFile;
use crate::licence::{APPLICATION_PREFIX, Slug};

const API_GROUP: &str = "credentialprovider.kubelet.k8s.io";
/// The versions of the protocol; they differ in nothing that is used here.
const API_VERSIONS: [&str; 3] = ["v1", "v1beta1", "v1alpha1"];

/// How long kubelet may keep an answer, so that a new licence is found.
const CACHE_DURATION_MAX: Duration = Duration::from_mins(5);
/// The same for an answer that lets nobody pull: people are about to put a licence there.
const CACHE_DURATION_OF_NOTHING: Duration = Duration::from_secs(30);

/// What kubelet sends; later versions send more.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct KubeletRequest {
    api_version: String,
    kind: String,
    image: String,
}

pub(super) fn run() -> Result<(), CommandFailure> {
    let text = request().map_err(|message| anyhow!(message))?;
    let request = parse(&text)?;
    let (licences, now) = (licences("roadstead"), Clock::system().now());
    let chosen = licence_by_application(&licences, host(&request.image), now);
    let notices: BTreeSet<String> =
        chosen.values().filter_map(|file| notice(&file.licence, now)).collect();
    for notice in notices {
        tell(&format!("roadstead: {notice}"));
    }
    print(&format!("{}\n", answer(&request, &chosen, now)))?;
    Ok(())
}

fn parse(text: &str) -> anyhow::Result<KubeletRequest> {
    let request: KubeletRequest = serde_json::from_str(text).context(
        "that is no request of kubelet, which calls this where CredentialProviderConfig names it",
    )?;
    let version =
        request.api_version.strip_prefix(API_GROUP).and_then(|rest| rest.strip_prefix('/'));
    if !version.is_some_and(|version| API_VERSIONS.contains(&version)) {
        bail!(
            "there is no answer in {:?}; write apiVersion: {API_GROUP}/v1 in \
             CredentialProviderConfig",
            request.api_version
        );
    }
    if request.kind != "CredentialProviderRequest" {
        bail!("{:?} is no CredentialProviderRequest", request.kind);
    }
    Ok(request)
}

/// The host of an image, as it is written: kubelet compares it with the keys of the answer byte for
/// byte.
fn host(image: &str) -> &str {
    image.split('/').next().unwrap_or(image)
}

/// The licence for each application of the host.
fn licence_by_application<'a>(
    licences: &'a [LicenceFile],
    host: &str,
    now: Timestamp,
) -> BTreeMap<&'a Slug, &'a LicenceFile> {
    let mut chosen = BTreeMap::new();
    for file in of_host(licences, host) {
        for slug in &file.licence.applications {
            let best = chosen.entry(slug).or_insert(file);
            if rank(&file.licence, now) >= rank(&best.licence, now) {
                *best = file;
            }
        }
    }
    chosen
}

/// A key is a host and the beginning of a path; kubelet tries the longest first.
fn answer(
    request: &KubeletRequest,
    chosen: &BTreeMap<&Slug, &LicenceFile>,
    now: Timestamp,
) -> Value {
    let host = host(&request.image);
    let entries = chosen.iter().flat_map(|(slug, file)| {
        let login =
            json!({ "username": file.licence.id.as_str(), "password": file.token.expose() });
        let below = format!("{host}/{APPLICATION_PREFIX}/{slug}");
        [(format!("{host}/{slug}"), login.clone()), (below, login)]
    });
    let auth: serde_json::Map<String, Value> = entries.collect();
    json!({
        "apiVersion": request.api_version,
        "kind": "CredentialProviderResponse",
        "cacheKeyType": "Registry",
        "cacheDuration": format!("{}s", cache_duration(chosen, now).as_secs()),
        "auth": auth,
    })
}

/// How long the answer holds: never beyond the end of a licence.
fn cache_duration(chosen: &BTreeMap<&Slug, &LicenceFile>, now: Timestamp) -> Duration {
    let lives = chosen.values().map(|file| {
        let expires = file.licence.expires;
        if now < expires { expires.since(now) } else { CACHE_DURATION_OF_NOTHING }
    });
    lives.min().unwrap_or(CACHE_DURATION_OF_NOTHING).min(CACHE_DURATION_MAX)
}
