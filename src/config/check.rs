//! The document as a whole: reads every section, fills in the defaults, and checks the rules
//! between sections.

use std::time::Duration;

use super::access::{self, IdentitySources, RuleContext};
use super::applications;
use super::cache;
use super::credentials::{self, UpstreamContext};
use super::files_read::FilesRead;
use super::hosts;
use super::keys;
use super::listen;
use super::place::{Fields, Place};
use super::proxy;
use super::units;
use super::upstreams;
use super::{Config, Log, LogFormat, Surroundings, Upstream, WayOut};
use crate::oci::UpstreamName;

/// What the document says; only meaningful if no problem was noted.
pub(super) fn config(root: &Place<'_>, around: &Surroundings<'_>) -> Config {
    let top = root.fields(keys::TOP);
    let allow_plain_http = top.read("allow_plain_http", false, Place::flag);
    let allow_inline_secrets = top.read("allow_inline_secrets", false, Place::flag);
    let tls = hosts::tls(&top);
    // Whether there is a section counts, not whether it is right: a mistake in it is a problem of
    // its own, and "clients would speak plain HTTP" beside it would mislead.
    let (listen, admin) = listen::read(&top, allow_plain_http, top.get("tls").is_some());
    let hosts = hosts::read(&top, allow_plain_http);
    let sealed = top.read("sealed", false, Place::flag);
    let (around, directly) = (*around, WayOut::default());
    let context = UpstreamContext {
        around,
        way_out: &directly,
        sealed,
        allow_inline_secrets,
        listen,
        hosts: &hosts,
    };
    let way_out = proxy::read(&top, &context);
    let ignored_variables =
        if way_out.is_none() { proxy::set_variables(around.environment) } else { Vec::new() };
    let way_out = way_out.unwrap_or_default();
    let mut upstreams = upstreams::read(&top, &UpstreamContext { way_out: &way_out, ..context });
    credentials::withhold(&mut upstreams, &root.secret_variables());
    let access = top.get("access").map(|place| place.fields(keys::ACCESS));
    let sources = IdentitySources {
        users: access.as_ref().is_some_and(|access| access.get("users").is_some()),
        licences: top.get("licences").is_some(),
        client_ca: tls.as_ref().is_some_and(|tls| tls.client_ca.is_some()),
    };
    let applications = applications::read(&top, &upstreams, sources);
    let licences = applications::licences(&top);
    let context =
        RuleContext { listen, upstreams: &upstreams, applications: &applications, sources };
    Config {
        listen,
        admin,
        admin_hosts: listen::admin_hosts(&top),
        hosts,
        allow_plain_http,
        cache: cache::read(&top),
        default_upstream: default_upstream(&top, &upstreams),
        access: access::read(&top, access.as_ref(), &context),
        tls,
        applications,
        licences,
        upstreams,
        drain_delay: top.read("drain_delay", Duration::from_secs(5), up_to_an_hour),
        shutdown_grace: top.read("shutdown_grace", Duration::from_secs(25), up_to_an_hour),
        log: log(&top),
        ignored_variables,
        files_read: FilesRead::default(),
    }
}

/// How long a stop may take.
fn up_to_an_hour(place: &Place<'_>) -> Result<Duration, String> {
    units::duration_up_to(place, Duration::from_hours(1))
}

/// The upstream that the key names. Without the key it is Docker Hub, if that is configured; with
/// `~` there is none.
fn default_upstream(top: &Fields<'_>, upstreams: &[Upstream]) -> Option<UpstreamName> {
    let find = |name: &str| {
        upstreams.iter().find(|upstream| upstream.name.as_str() == name).map(|u| u.name.clone())
    };
    let Some(place) = top.get("default_upstream") else { return find("docker.io") };
    if place.is_null() {
        return None;
    }
    let name = place.noted(place.text())?;
    let found = find(name);
    if found.is_none() {
        let names: Vec<&str> = upstreams.iter().map(|upstream| upstream.name.as_str()).collect();
        place.problem(format!("{name:?} is not among the upstreams: {}", names.join(", ")));
    }
    found
}

fn log(top: &Fields<'_>) -> Log {
    let default = Log { format: LogFormat::Human, level: "info".to_owned() };
    let Some(log) = top.get("log").map(|place| place.fields(keys::LOG)) else { return default };
    Log {
        format: log.read("format", default.format, |place| match place.text()? {
            "human" => Ok(LogFormat::Human),
            "json" => Ok(LogFormat::Json),
            other => Err(format!("{other:?} is no format; write human or json")),
        }),
        level: log.read("level", default.level, level),
    }
}

/// A level, or `target=level` directives joined by commas.
fn level(place: &Place<'_>) -> Result<String, String> {
    let text = place.text()?;
    let valid = |directive: &str| {
        let level = directive.rsplit_once('=').map_or(directive, |(_, level)| level);
        matches!(level.trim(), "off" | "error" | "warn" | "info" | "debug" | "trace")
    };
    if text.split(',').all(valid) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "{text:?} is no level; write off, error, warn, info, debug or trace, or as \
             info,roadstead=debug"
        ))
    }
}
