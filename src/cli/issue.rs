//! `roadstead licence issue`: what is asked for, checked before it is signed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};

use super::{Failure, print};
use crate::clock::Timestamp;
use crate::config::{self, LicenceFile};
use crate::files;
use crate::licence::{Licence, LicenceId, PrivateKey, Slug, calendar};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
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

pub(super) fn run(asked: &Arguments, now: Timestamp) -> Result<(), Failure> {
    let wrong = |message: String| anyhow!(message);
    let pem = files::read_text(&asked.key).map_err(wrong)?;
    let key = PrivateKey::from_pem(&pem)
        .map_err(|message| anyhow!("{} {message}", asked.key.display()))?;
    let applications: Vec<Slug> = asked
        .applications
        .iter()
        .map(|slug| Slug::parse(slug))
        .collect::<Result<_, _>>()
        .map_err(wrong)?;
    if let Some(file) = &asked.config {
        accepted(asked, &applications, file)?;
    }
    let hosts = asked.hosts.iter().map(|host| config::host_and_port(host));
    let hosts = hosts.collect::<Result<_, _>>().map_err(wrong).context("--host")?;
    let now = Timestamp::from_unix(Duration::from_secs(now.unix().as_secs()));
    let not_before = match &asked.not_before {
        Some(text) => calendar::parse(text).map_err(wrong).context("--not-before")?,
        None => now,
    };
    let expires = end(&asked.expires, now).map_err(wrong).context("--expires")?;
    if expires <= now {
        return Err(anyhow!(
            "--expires {} lies behind us; write a later day, or days from now, as 365d",
            calendar::format(expires)
        )
        .into());
    }
    let licence = Licence {
        id: LicenceId::parse(&asked.id).map_err(wrong)?,
        issuer: asked.issuer.clone(),
        customer: asked.customer.clone(),
        email: asked.email.clone(),
        applications,
        hosts,
        issued: now,
        not_before,
        expires,
    };
    let token = key.sign(&licence).map_err(wrong)?;
    let text = LicenceFile::write(&licence, &token);
    match &asked.out {
        Some(file) => files::create(file, text.as_bytes(), 0o600).map_err(wrong)?,
        None => print(&text)?,
    }
    Ok(())
}

/// Refuses what the proxy with this configuration would never accept.
fn accepted(asked: &Arguments, applications: &[Slug], file: &Path) -> Result<(), Failure> {
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
        Some(licences) if licences.issuer != asked.issuer => {
            let issuer = &licences.issuer;
            Err(anyhow!(
                "{file} accepts no licence of {:?}; write --issuer {issuer:?}",
                asked.issuer
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
