//! `credentials` of one upstream: where each user and password comes from. Helpers are found here,
//! and not run.

use std::cmp::Reverse;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use url::Position;

use super::docker_config::{self, DockerLogin};
use super::keys;
use super::licence_file;
use super::place::{Fields, Place};
use super::{Credential, Host, Login, Surroundings, Upstream, WayOut, WhenRejected};
use crate::clock::Timestamp;
use crate::licence::{EXPIRY_NOTICE, Licence, calendar};
use crate::oci::{Pattern, Repository};
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
    pub(super) around: Surroundings<'a>,
    /// How upstreams are reached that do not say it themselves.
    pub(super) way_out: &'a WayOut,
    /// Whether upstreams are sealed that do not say it themselves.
    pub(super) sealed: bool,
    /// `allow_inline_secrets`: a password may stand in the document itself.
    pub(super) allow_inline_secrets: bool,
    /// Where we listen, and by which names clients call us.
    pub(super) listen: SocketAddr,
    pub(super) hosts: &'a [Host],
}

/// The credentials of `upstream`, the longest pattern first.
pub(super) fn read(
    upstream_fields: &Fields<'_>,
    upstream: &Upstream,
    context: &UpstreamContext<'_>,
) -> Vec<Credential> {
    let (mut credentials, mut scoped): (Vec<Credential>, Vec<Credential>) = Default::default();
    let chosen = upstream_fields.optional("when_rejected", when_rejected);
    for item in upstream_fields.get("credentials").map(Place::items).unwrap_or_default() {
        let fields = item.fields(keys::CREDENTIAL);
        let Some((images, logins)) = logins(&fields, upstream, context) else { continue };
        let of_source = match fields.get("licence_file") {
            Some(_) => WhenRejected::Withhold,
            None => WhenRejected::ServeStale,
        };
        let when_rejected = chosen.unwrap_or(of_source);
        let mut whole = logins.whole;
        for (repository, login) in logins.scoped {
            let globs = images.within(repository.as_str());
            if globs.contains(&images) {
                // All of the item's images are within this repository, and within longer ones that
                // follow.
                whole = Some(login);
                continue;
            }
            scoped.extend(globs.into_iter().map(|images| Credential {
                images,
                login: login.clone(),
                when_rejected,
            }));
        }
        if whole.is_some() && has_one(&credentials, &images) {
            item.problem(format!("{} has a credential already; keep one", images.as_str()));
        }
        credentials.extend(whole.map(|login| Credential { images, login, when_rejected }));
    }
    for credential in scoped {
        // What the document itself says of these images comes first.
        if !has_one(&credentials, &credential.images) {
            credentials.push(credential);
        }
    }
    credentials.sort_by_key(|credential| Reverse(credential.images.specificity()));
    credentials
}

fn when_rejected(place: &Place<'_>) -> Result<WhenRejected, String> {
    match place.text()? {
        "serve_stale" => Ok(WhenRejected::ServeStale),
        "withhold" => Ok(WhenRejected::Withhold),
        other => Err(format!("{other:?} is no choice; write serve_stale or withhold")),
    }
}

fn has_one(credentials: &[Credential], images: &Pattern) -> bool {
    credentials.iter().any(|credential| credential.images == *images)
}

/// What one source has: for its images as a whole, and for repositories among them.
#[derive(Default)]
struct Logins {
    whole: Option<Login>,
    scoped: Vec<(Repository, Login)>,
}

impl Logins {
    fn of(login: Login) -> Self {
        Self { whole: Some(login), scoped: Vec::new() }
    }
}

/// The images that an item is for, and the logins in its source.
fn logins(
    fields: &Fields<'_>,
    upstream: &Upstream,
    context: &UpstreamContext<'_>,
) -> Option<(Pattern, Logins)> {
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
    let logins = if source.starts_with("password") {
        let username = username(fields);
        let password = place.noted(password(source, place, context));
        let login = |(username, password)| Logins::of(Login::Fixed { username, password });
        username.zip(password).map(login)
    } else {
        if let Some(username) = fields.get("username") {
            username.problem(format!("the user comes from {source}; leave username out"));
        }
        place.noted(whole_logins(source, place, upstream, context))
    };
    images.zip(logins)
}

/// The logins from a source that brings the user as well.
fn whole_logins(
    source: &str,
    place: &Place<'_>,
    upstream: &Upstream,
    context: &UpstreamContext<'_>,
) -> Result<Logins, String> {
    match source {
        "docker_config" => from_docker_config(place, upstream, context),
        "helper" => {
            let server = if upstream.library { DOCKER_HUB_KEY } else { host_and_port(upstream) };
            let program = program(place.text()?, place, context)?;
            Ok(Logins::of(helper(program, server)))
        }
        _ => from_licence(place, context.around.now).map(Logins::of),
    }
}

/// What it must not see is known once the whole document is read: see [`withhold`].
fn helper(program: PathBuf, server: &str) -> Login {
    Login::Helper { program, server: server.to_owned(), withheld: Vec::new() }
}

/// Keeps these variables of the environment from all helpers.
pub(super) fn withhold(upstreams: &mut [Upstream], variables: &[String]) {
    let credentials = upstreams.iter_mut().flat_map(|upstream| &mut upstream.credentials);
    for credential in credentials {
        if let Login::Helper { withheld, .. } = &mut credential.login {
            *withheld = variables.to_vec();
        }
    }
}

fn username(fields: &Fields<'_>) -> Option<String> {
    if fields.get("username").is_none() {
        fields.place.problem("has no username; give one (registries that take a token say which)");
    }
    fields.optional("username", |place| place.text().map(str::to_owned))
}

/// A password from the one of its sources that is given.
///
/// # Errors
/// A sentence without the password.
pub(super) fn password(
    source: &str,
    place: &Place<'_>,
    context: &UpstreamContext<'_>,
) -> Result<Secret, String> {
    let text = place.text()?;
    match source {
        "password_file" => {
            Secret::of_line(&place.read_text()?).ok_or_else(|| format!("{text} is empty"))
        }
        "password_env" => {
            place.note_secret_variable(text);
            (context.around.environment)(text)
                .and_then(|value| Secret::of_line(&value))
                .ok_or_else(|| format!("the environment variable {text} is not set"))
        }
        _ if context.allow_inline_secrets => {
            Secret::of_line(text).ok_or_else(|| "should not be empty".to_owned())
        }
        _ => Err("a secret stands in the file; use password_file or password_env, or say \
            allow_inline_secrets: true"
            .to_owned()),
    }
}

/// A customer's proxy presents the licence to the vendor's (ACCESS §4.9). One that has ended is no
/// mistake in the document, and what is cached may still be served.
fn from_licence(place: &Place<'_>, now: Timestamp) -> Result<Login, String> {
    let file = licence_file::parse(&place.read_text()?, place.file()?)?;
    let Licence { id, issuer, expires, not_before, .. } = &file.licence;
    let ends = calendar::day(*expires);
    if *expires <= now {
        place.warning(format!("licence {id} ended on {ends}; ask {issuer} for another"));
    } else if expires.since(now) <= EXPIRY_NOTICE {
        place.warning(format!("licence {id} ends on {ends}; ask {issuer} for another"));
    } else if *not_before > now {
        let begins = calendar::format(*not_before);
        place.warning(format!("licence {id} is not good before {begins}"));
    }
    Ok(Login::Fixed { username: id.to_string(), password: file.token })
}

fn from_docker_config(
    place: &Place<'_>,
    upstream: &Upstream,
    context: &UpstreamContext<'_>,
) -> Result<Logins, String> {
    let (json, path) = (place.read_text()?, place.file()?);
    let mut servers = vec![upstream.name.as_str(), host_and_port(upstream)];
    if upstream.library {
        servers.insert(0, DOCKER_HUB_KEY);
    }
    servers.dedup();
    let found = docker_config::logins(&json, &servers)
        .map_err(|message| format!("{} {message}", path.display()))?;
    let login = |login| match login {
        DockerLogin::Here { username, password } => Ok(Login::Fixed { username, password }),
        DockerLogin::Helper { name, server } => program(&name, place, context)
            .map(|program| helper(program, &server))
            .map_err(|message| format!("{} names a helper: {message}", path.display())),
    };
    let whole = found.whole.map(login).transpose()?.map(|whole| match whole {
        // Docker keeps Docker Hub's login under no other key.
        Login::Helper { program, .. } if upstream.library => helper(program, DOCKER_HUB_KEY),
        login @ (Login::Fixed { .. } | Login::Helper { .. }) => login,
    });
    let scoped =
        found.scoped.into_iter().map(|(repository, found)| Ok((repository, login(found)?)));
    Ok(Logins { whole, scoped: scoped.collect::<Result<_, String>>()? })
}

/// Host and port of an upstream, without the port that goes without saying.
fn host_and_port(upstream: &Upstream) -> &str {
    &upstream.url[Position::BeforeHost..Position::AfterPort]
}

/// The program of a helper: by its name, which is found on the `PATH`, or by its own path. Wherever
/// it was looked for, it may appear later.
fn program(
    name: &str,
    place: &Place<'_>,
    context: &UpstreamContext<'_>,
) -> Result<PathBuf, String> {
    let path = Path::new(name);
    if path.is_absolute() {
        place.find_program(path)?;
        return Ok(path.to_owned());
    }
    if name.contains('/') || name.starts_with(HELPER_PREFIX) {
        return Err(format!(
            "{name:?} is no helper; write what follows {HELPER_PREFIX}, as ecr-login, or an \
             absolute path"
        ));
    }
    let (program, folders) = (
        format!("{HELPER_PREFIX}{name}"),
        (context.around.environment)("PATH").unwrap_or_default(),
    );
    let mut candidates = std::env::split_paths(&folders)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(&program));
    candidates.find(|path| place.find_program(path).is_ok()).ok_or_else(|| {
        format!("there is no program {program} on the PATH; install it, or write its absolute path")
    })
}
