//! `roadstead licence issue`: the licence is checked before it is signed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};

use super::failure::CommandFailure;
use super::output::print;
use super::verifier::LicenceVerifier;
use crate::clock::Timestamp;
use crate::config::{self, LicenceFile};
use crate::files;
use crate::licence::{
    Licence, LicenceId, LicenceRefusal, PrivateKey, Revocations, SKEW, Slug, calendar,
};

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
    /// a host that is not its own, another issuer or key. A licence of an id that it has revoked
    /// counts as issued after that.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to write the licence; without it, to standard output.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(super) fn run(arguments: &IssueArguments, now: Timestamp) -> Result<(), CommandFailure> {
    let wrong = |message: String| anyhow!(message);
    let pem = files::read_text_once(&arguments.key).map_err(wrong)?;
    let key = PrivateKey::from_pem(&pem)
        .map_err(|message| anyhow!("{} {message}", arguments.key.display()))?;
    let mut licence = licence(arguments, now)?;
    let verifier = arguments.config.as_deref().map(LicenceVerifier::of_config).transpose()?;
    if let Some(verifier) = &verifier {
        licence.issued = after_revocation(&licence, &verifier.revocations, now)?;
        if let Some(lacking) = verifier.lacks(&licence).into_iter().next() {
            return Err(anyhow!(lacking).into());
        }
    }
    let token = key.sign(&licence).map_err(wrong)?;
    if let Some(verifier) = &verifier {
        verifier.verify(&token).map_err(|refusal| refused(arguments, &refusal))?;
    }
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

/// When the licence counts as issued: after the last revocation of its id, as a revocation ends
/// everything that was issued up to its moment. That may lie a little ahead of this clock, as far
/// as clocks may differ.
fn after_revocation(
    licence: &Licence,
    revocations: &Revocations,
    now: Timestamp,
) -> anyhow::Result<Timestamp> {
    let next = revocations.latest(&licence.id).map(|at| at.plus(Duration::from_secs(1)));
    let issued = next.map_or(licence.issued, |next| next.max(licence.issued));
    if issued > now.plus(SKEW) {
        let at = calendar::format(issued);
        bail!(
            "{} is revoked until {at}, which lies ahead: what is issued before that is refused; \
             correct its line in licences.revoked, or take another --id",
            licence.id
        );
    }
    Ok(issued)
}

/// Why the proxy would refuse what was signed, in words of the arguments.
fn refused(arguments: &IssueArguments, refusal: &LicenceRefusal) -> anyhow::Error {
    let file = arguments.config.as_deref().unwrap_or(Path::new("it")).display();
    match refusal {
        LicenceRefusal::Issuer => {
            anyhow!(
                "{file} accepts no licence of {:?}; write --issuer as licences.issuer there",
                arguments.issuer
            )
        }
        LicenceRefusal::UnknownKey => anyhow!(
            "{file} does not know the key {}; add its public key to licences.public_keys",
            arguments.key.display()
        ),
        LicenceRefusal::TooLong | LicenceRefusal::Signature | LicenceRefusal::Claims(_) => {
            anyhow!("{file} would refuse it: {refusal}")
        }
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
