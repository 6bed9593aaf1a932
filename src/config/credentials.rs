//! `credentials` of one upstream: where each user and password comes from. Helpers are found here,
//! and not run.

use std::cmp::Reverse;
use std::path::{Path, PathBuf};

use url::Position;

use super::docker_config::{self, Kept};
use super::keys;
use super::licence_file;
use super::place::{Fields, Place};
use super::upstreams::Surroundings;
use super::{Credential, Login, Upstream};
use crate::files;
use crate::oci::Pattern;
use crate::secret::Secret;

const SOURCES: [&str; 6] =
    ["password", "password_file", "password_env", "docker_config", "helper", "licence_file"];

/// What stands before the name of a helper in the name of its program.
const PREFIX: &str = "docker-credential-";
/// The one key under which docker itself keeps Docker Hub's login.
const HUB: &str = "https://index.docker.io/v1/";

/// The credentials of `upstream`, the longest pattern first.
pub(super) fn read(
    upstream_fields: &Fields<'_>,
    upstream: &Upstream,
    around: &Surroundings<'_>,
) -> Vec<Credential> {
    let mut credentials: Vec<Credential> = Vec::new();
    for item in upstream_fields.get("credentials").map(Place::items).unwrap_or_default() {
        let Some(credential) = credential(&item.fields(keys::CREDENTIAL), upstream, around) else {
            continue;
        };
        if credentials.iter().any(|other| other.images == credential.images) {
            item.problem(format!(
                "{} has a credential already; keep one",
                credential.images.as_str()
            ));
        }
        credentials.push(credential);
    }
    credentials.sort_by_key(|credential| Reverse(credential.images.specificity()));
    credentials
}

fn credential(
    fields: &Fields<'_>,
    upstream: &Upstream,
    around: &Surroundings<'_>,
) -> Option<Credential> {
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
    let login = if source.starts_with("password") {
        let username = username(fields);
        let password = place.noted(password(source, place, around));
        username.zip(password).map(|(username, password)| Login::Fixed { username, password })
    } else {
        if let Some(username) = fields.get("username") {
            username.problem(format!("the user comes from {source}; leave username out"));
        }
        place.noted(whole_login(source, place, upstream, around))
    };
    Some(Credential { images: images?, login: login? })
}

/// A login from a source that brings the user as well.
fn whole_login(
    source: &str,
    place: &Place<'_>,
    upstream: &Upstream,
    around: &Surroundings<'_>,
) -> Result<Login, String> {
    match source {
        "docker_config" => from_docker_config(place.file()?, upstream, around),
        "helper" => {
            helper(place.text()?, if upstream.library { HUB } else { authority(upstream) }, around)
        }
        _ => from_licence(place.file()?),
    }
}

fn username(fields: &Fields<'_>) -> Option<String> {
    if fields.get("username").is_none() {
        fields.place.problem("has no username; give one (registries that take a token say which)");
    }
    fields.optional("username", |place| place.text().map(str::to_owned))
}

fn password(source: &str, place: &Place<'_>, around: &Surroundings<'_>) -> Result<Secret, String> {
    if source == "password_file" {
        return files::read_secret(place.file()?);
    }
    let text = place.text()?;
    match source {
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
fn from_licence(path: &Path) -> Result<Login, String> {
    let file = licence_file::read_licence(path)?;
    Ok(Login::Fixed { username: file.licence.id.to_string(), password: file.token })
}

fn from_docker_config(
    path: &Path,
    upstream: &Upstream,
    around: &Surroundings<'_>,
) -> Result<Login, String> {
    let json = files::read_text(path)?;
    let mut servers = vec![upstream.name.as_str(), authority(upstream)];
    if upstream.library {
        servers.insert(0, HUB);
    }
    servers.dedup();
    let kept = docker_config::login(&json, &servers)
        .map_err(|message| format!("{} {message}", path.display()))?;
    match kept {
        Kept::Here { username, password } => Ok(Login::Fixed { username, password }),
        Kept::Helper { name, server } => {
            // Docker keeps Docker Hub's login under no other key.
            let server = if upstream.library { HUB } else { &server };
            helper(&name, server, around)
                .map_err(|message| format!("{} names a helper: {message}", path.display()))
        }
    }
}

/// Host and port of an upstream, without the port that goes without saying.
fn authority(upstream: &Upstream) -> &str {
    &upstream.url[Position::BeforeHost..Position::AfterPort]
}

/// A helper by its name, which is found on the `PATH`, or by the path of its program.
fn helper(name: &str, server: &str, around: &Surroundings<'_>) -> Result<Login, String> {
    let path = Path::new(name);
    if path.is_absolute() {
        files::check_executable(path)?;
        return Ok(Login::Helper { program: path.to_owned(), server: server.to_owned() });
    }
    if name.contains('/') || name.starts_with(PREFIX) {
        return Err(format!(
            "{name:?} is no helper; write what follows {PREFIX}, as ecr-login, or an absolute path"
        ));
    }
    let (program, folders) =
        (format!("{PREFIX}{name}"), (around.environment)("PATH").unwrap_or_default());
    let mut candidates = std::env::split_paths(&folders)
        .filter(|folder| folder.is_absolute())
        .map(|f| f.join(&program));
    let found: Option<PathBuf> = candidates.find(|path| files::check_executable(path).is_ok());
    let missing = || {
        format!("there is no program {program} on the PATH; install it, or write its absolute path")
    };
    Ok(Login::Helper { program: found.ok_or_else(missing)?, server: server.to_owned() })
}
