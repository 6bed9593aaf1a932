//! `credentials` of one upstream: where each user and password comes from.

use std::cmp::Reverse;
use std::path::Path;

use super::docker_config;
use super::files;
use super::keys;
use super::licence_file;
use super::place::{Fields, Place};
use super::upstreams::Surroundings;
use super::{Credential, Login, Secret, Upstream};
use crate::oci::Pattern;

const SOURCES: [&str; 5] = ["password", "password_file", "password_env", "docker_config", "licence_file"];

/// The credentials of `upstream`, the longest pattern first.
pub(super) fn read(upstream_fields: &Fields<'_>, upstream: &Upstream, around: &Surroundings<'_>) -> Vec<Credential> {
    let mut credentials: Vec<Credential> = Vec::new();
    for item in upstream_fields.get("credentials").map(Place::items).unwrap_or_default() {
        let Some(credential) = credential(&item.fields(keys::CREDENTIAL), upstream, around) else { continue };
        if credentials.iter().any(|other| other.images == credential.images) {
            item.problem(format!("{} has a credential already; keep one", credential.images.as_str()));
        }
        credentials.push(credential);
    }
    credentials.sort_by_key(|credential| Reverse(credential.images.specificity()));
    credentials
}

fn credential(fields: &Fields<'_>, upstream: &Upstream, around: &Surroundings<'_>) -> Option<Credential> {
    let images = match fields.get("images") {
        Some(place) => place.noted(place.text().and_then(Pattern::parse)),
        None => Some(Pattern::parse("**").expect("** is a pattern")),
    };
    let mut given = SOURCES.iter().filter_map(|key| Some((*key, fields.get(key)?)));
    let Some((source, place)) = given.next() else {
        fields.place.problem(format!("has no password; give one of {}", SOURCES.join(", ")));
        return None;
    };
    if let Some((second, place)) = given.next() {
        place.problem(format!("{source} is given already; keep one of {source} and {second}"));
        return None;
    }
    if source == "docker_config" {
        return from_docker_config(fields, place, images, upstream);
    }
    if source == "licence_file" {
        return from_licence(fields, place, images);
    }
    let username = username(fields);
    let password = place.noted(password(source, place, around));
    Some(Credential { images: images?, login: Login::Fixed { username: username?, password: password? } })
}

fn username(fields: &Fields<'_>) -> Option<String> {
    if fields.get("username").is_none() {
        fields.place.problem("has no username; give one (registries that take a token say which)");
    }
    fields.optional("username", |place| place.text().map(str::to_owned))
}

fn password(source: &str, place: &Place<'_>, around: &Surroundings<'_>) -> Result<Secret, String> {
    let text = place.text()?;
    match source {
        "password_file" => files::secret(text),
        "password_env" => match (around.environment)(text) {
            Some(value) if !value.is_empty() => Ok(Secret::new(value)),
            Some(_) | None => Err(format!("the environment variable {text} is not set")),
        },
        _ if around.allow_inline_secrets => Ok(Secret::new(text.to_owned())),
        _ => Err("a secret stands in the file; use password_file or password_env, or say allow_inline_secrets: true"
            .to_owned()),
    }
}

/// A customer's proxy presents the licence to the vendor's (ACCESS §4.9).
fn from_licence(fields: &Fields<'_>, place: &Place<'_>, images: Option<Pattern>) -> Option<Credential> {
    if let Some(username) = fields.get("username") {
        username.problem("the user comes from licence_file; leave username out");
    }
    let file = place.noted(place.text().and_then(|path| licence_file::read_licence(Path::new(path))))?;
    let login = Login::Fixed { username: file.licence.id.to_string(), password: file.token };
    Some(Credential { images: images?, login })
}

fn from_docker_config(
    fields: &Fields<'_>,
    place: &Place<'_>,
    images: Option<Pattern>,
    upstream: &Upstream,
) -> Option<Credential> {
    if let Some(username) = fields.get("username") {
        username.problem("the user comes from docker_config; leave username out");
    }
    let login = place.noted(place.text().and_then(|path| login(path, upstream)))?;
    Some(Credential { images: images?, login })
}

fn login(path: &str, upstream: &Upstream) -> Result<Login, String> {
    let json = files::read_text(Path::new(path)).map_err(|error| files::cannot_read(path, &error))?;
    let location = upstream.url.as_str();
    let mut servers = vec![upstream.name.as_str(), location];
    if upstream.library {
        // The one key under which docker itself keeps Docker Hub's login.
        servers.insert(0, "https://index.docker.io/v1/");
    }
    docker_config::login(&json, &servers).map_err(|message| format!("{path} {message}"))
}
