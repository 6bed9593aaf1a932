//! `credentials` of one upstream: where each user and password comes from. Helpers are found here,
//! and not run.

use std::cmp::Reverse;
use std::path::{Path, PathBuf};

use url::Position;

use super::docker_config::{self, DockerLogin};
use super::keys;
use super::licence_file;
use super::place::{Fields, Place};
use super::{Credential, EnvLookup, Login, Upstream};
use crate::files;
use crate::oci::Pattern;
use crate::secret::Secret;

const SOURCES: [&str; 6] =
    ["password", "password_file", "password_env", "docker_config", "helper", "licence_file"];

/// What stands before the name of a helper in the name of its program.
const HELPER_PREFIX: &str = "docker-credential-";
/// The one key under which docker itself keeps Docker Hub's login.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// What an upstream's section refers to that does not stand in it.
#[derive(Clone, Copy)]
pub(super) struct UpstreamContext<'a> {
    pub(super) environment: EnvLookup<'a>,
    /// `allow_inline_secrets`: a password may stand in the document itself.
    pub(super) allow_inline_secrets: bool,
}

/// The credentials of `upstream`, the longest pattern first.
pub(super) fn read(
    upstream_fields: &Fields<'_>,
    upstream: &Upstream,
    context: &UpstreamContext<'_>,
) -> Vec<Credential> {
    let mut credentials: Vec<Credential> = Vec::new();
    for item in upstream_fields.get("credentials").map(Place::items).unwrap_or_default() {
        let Some(credential) = credential(&item.fields(keys::CREDENTIAL), upstream, context) else {
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
    context: &UpstreamContext<'_>,
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
        let password = place.noted(password(source, place, context));
        username.zip(password).map(|(username, password)| Login::Fixed { username, password })
    } else {
        if let Some(username) = fields.get("username") {
            username.problem(format!("the user comes from {source}; leave username out"));
        }
        place.noted(whole_login(source, place, upstream, context))
    };
    Some(Credential { images: images?, login: login? })
}

/// A login from a source that brings the user as well.
fn whole_login(
    source: &str,
    place: &Place<'_>,
    upstream: &Upstream,
    context: &UpstreamContext<'_>,
) -> Result<Login, String> {
    match source {
        "docker_config" => from_docker_config(place.file()?, upstream, context),
        "helper" => helper(
            place.text()?,
            if upstream.library { DOCKER_HUB_KEY } else { host_and_port(upstream) },
            context,
        ),
        _ => from_licence(place.file()?),
    }
}

fn username(fields: &Fields<'_>) -> Option<String> {
    if fields.get("username").is_none() {
        fields.place.problem("has no username; give one (registries that take a token say which)");
    }
    fields.optional("username", |place| place.text().map(str::to_owned))
}

fn password(
    source: &str,
    place: &Place<'_>,
    context: &UpstreamContext<'_>,
) -> Result<Secret, String> {
    if source == "password_file" {
        return files::read_secret(place.file()?);
    }
    let text = place.text()?;
    match source {
        "password_env" => match (context.environment)(text) {
            Some(value) if !value.is_empty() => Ok(Secret::new(value)),
            Some(_) | None => Err(format!("the environment variable {text} is not set")),
        },
        _ if context.allow_inline_secrets => Ok(Secret::new(text.to_owned())),
        _ => Err("a secret stands in the file; use password_file or password_env, or say \
            allow_inline_secrets: true"
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
    context: &UpstreamContext<'_>,
) -> Result<Login, String> {
    let json = files::read_text(path)?;
    let mut servers = vec![upstream.name.as_str(), host_and_port(upstream)];
    if upstream.library {
        servers.insert(0, DOCKER_HUB_KEY);
    }
    servers.dedup();
    let login = docker_config::login(&json, &servers)
        .map_err(|message| format!("{} {message}", path.display()))?;
    match login {
        DockerLogin::Here { username, password } => Ok(Login::Fixed { username, password }),
        DockerLogin::Helper { name, server } => {
            // Docker keeps Docker Hub's login under no other key.
            let server = if upstream.library { DOCKER_HUB_KEY } else { &server };
            helper(&name, server, context)
                .map_err(|message| format!("{} names a helper: {message}", path.display()))
        }
    }
}

/// Host and port of an upstream, without the port that goes without saying.
fn host_and_port(upstream: &Upstream) -> &str {
    &upstream.url[Position::BeforeHost..Position::AfterPort]
}

/// A helper by its name, which is found on the `PATH`, or by the path of its program.
fn helper(name: &str, server: &str, context: &UpstreamContext<'_>) -> Result<Login, String> {
    let path = Path::new(name);
    if path.is_absolute() {
        files::check_executable(path)?;
        return Ok(Login::Helper { program: path.to_owned(), server: server.to_owned() });
    }
    if name.contains('/') || name.starts_with(HELPER_PREFIX) {
        return Err(format!(
            "{name:?} is no helper; write what follows {HELPER_PREFIX}, as ecr-login, or an \
             absolute path"
        ));
    }
    let (program, folders) =
        (format!("{HELPER_PREFIX}{name}"), (context.environment)("PATH").unwrap_or_default());
    let mut candidates = std::env::split_paths(&folders)
        .filter(|folder| folder.is_absolute())
        .map(|f| f.join(&program));
    let found: Option<PathBuf> = candidates.find(|path| files::check_executable(path).is_ok());
    let missing = || {
        format!("there is no program {program} on the PATH; install it, or write its absolute path")
    };
    Ok(Login::Helper { program: found.ok_or_else(missing)?, server: server.to_owned() })
}
