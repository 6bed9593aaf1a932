//! `roadstead licence issue`: the licence is checked before it is signed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};

use super::failure::CommandFailure;
use super::output::print;
use crate::clock::Timestamp;
use crate::config::{self, LicenceFile};
use crate::files;
use crate::licence::{Licence, LicenceId, PrivateKey, Slug, calendar};

#[derive(Debug, clap::Args)]
pub(super) struct IssueArguments {
    /// The private key, NAME.key.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Who issues it: licences.issuer of the proxy.
    #[arg(long, value_name = "NAME")]
    issuer: String,
    /// What the licence is called, as acme-prod.
    #[arg(long, value_name = "ID")]
    id: String,
    /// Whom it is for.
    #[arg(long, value_name = "NAME")]
    customer: String,
    /// An address that serves as user name, too.
    #[arg(long, value_name = "ADDRESS")]
    email: Option<String>,
    /// An application that it is for; may be repeated.
    #[arg(long = "application", value_name = "SLUG", required = true)]
    applications: Vec<String>,
    /// A host on which clients find the images; may be repeated.
    #[arg(long = "host", value_name = "NAME", required = true)]
    hosts: Vec<String>,
    /// Its end: a day or a time in UTC, or how long from now, as 90d.
    #[arg(long, value_name = "TIME")]
    expires: String,
    /// Its beginning, if not now.
    #[arg(long, value_name = "TIME")]
    not_before: Option<String>,
    /// Refuse what the proxy with this configuration would: an application that it does not have,
    /// another issuer.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to write the licence; without it, to standard output.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(super) fn run(arguments: &IssueArguments, now: Timestamp) -> Result<(), CommandFailure> {
    let wrong = |message: String| anyhow!(message);
    let pem = files::read_text(&arguments.key).map_err(wrong)?;
    let key = PrivateKey::from_pem(&pem)
        .map_err(|message| anyhow!("{} {message}", arguments.key.display()))?;
    let licence = licence(arguments, now)?;
    if let Some(file) = &arguments.config {
        accepted(arguments, &licence.applications, file)?;
    }
    let token = key.sign(&licence).map_err(wrong)?;
    let text = LicenceFile::write(&licence, &token);
    match &arguments.out {
        Some(file) => files::create(file, text.as_bytes(), 0o600).map_err(wrong)?,
        None => print(&text)?,
    }
    Ok(())
}

/// The licence that the arguments describe.
fn licence(arguments: &IssueArguments, now: Timestamp) -> anyhow::Result<Licence> {
    let wrong = |message: String| anyhow!(message);
    let slugs = arguments.applications.iter().map(|slug| Slug::parse(slug));
    let applications = slugs.collect::<Result<_, _>>().map_err(wrong)?;
    let hosts = arguments.hosts.iter().map(|host| config::host_and_port(host));
    let hosts = hosts.collect::<Result<_, _>>().map_err(wrong).context("--host")?;
    // Times in a licence are whole seconds.
    let now = Timestamp::from_unix(Duration::from_secs(now.unix().as_secs()));
    let not_before = match &arguments.not_before {
        Some(text) => calendar::parse(text).map_err(wrong).context("--not-before")?,
        None => now,
    };
    let expires = end(&arguments.expires, now).map_err(wrong).context("--expires")?;
    if expires <= now {
        return Err(anyhow!(
            "--expires {} lies behind us; write a later day, or days from now, as 365d",
            calendar::format(expires)
        ));
    }
    Ok(Licence {
        id: LicenceId::parse(&arguments.id).map_err(wrong)?,
        issuer: arguments.issuer.clone(),
        customer: arguments.customer.clone(),
        email: arguments.email.clone(),
        applications,
        hosts,
        issued: now,
        not_before,
        expires,
    })
}

/// Refuses a licence that the proxy with this configuration would never accept.
fn accepted(
    arguments: &IssueArguments,
    applications: &[Slug],
    file: &Path,
) -> Result<(), CommandFailure> {
    let (config, file) = (config::load(file)?, file.display());
    let has =
        |slug: &&Slug| config.applications.iter().any(|application| application.slug == **slug);
    if let Some(slug) = applications.iter().find(|slug| !has(slug)) {
        let names: Vec<&str> =
            config.applications.iter().map(|application| application.slug.as_str()).collect();
        let others = if names.is_empty() {
            String::new()
        } else {
            format!(", or take one of: {}", names.join(", "))
        };
        return Err(
            anyhow!("{file} has no application {slug}; add it under applications{others}").into()
        );
    }
    match &config.licences {
        Some(licences) if licences.issuer != arguments.issuer => {
            let issuer = &licences.issuer;
            Err(anyhow!(
                "{file} accepts no licence of {:?}; write --issuer {issuer:?}",
                arguments.issuer
            )
            .into())
        }
        Some(_) | None => Ok(()),
    }
}

/// A moment, or a number of days from now.
fn end(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let days = text.strip_suffix('d').and_then(|days| days.parse::<u32>().ok());
    match days {
        Some(days) => Ok(now.plus(Duration::from_hours(24) * days)),
        None => calendar::parse(text)
            .map_err(|message| format!("{message}, or in days from now, as 90d")),
    }
}
