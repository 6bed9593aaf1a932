//! `roadstead licence`: make keys, issue, look at and revoke licences. None of it needs a running proxy.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::Subcommand;

use super::{Failure, print, pull_secret};
use crate::clock::{Clock, Timestamp};
use crate::config::{self, LicenceFile};
use crate::licence::{Licence, LicenceId, PrivateKey, PublicKey, PublicKeys, Slug, calendar, revocation_line};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a key pair: NAME.key signs licences and stays secret, NAME.pub verifies them.
    Keygen {
        /// Where to write NAME.key and NAME.pub.
        #[arg(value_name = "NAME")]
        name: PathBuf,
    },
    /// Sign a licence and write its file.
    Issue(Box<Issue>),
    /// Say what a licence is for and how long it is good.
    Show {
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Verify the signature with this public key.
        #[arg(long, value_name = "FILE")]
        public_key: Option<PathBuf>,
    },
    /// Write a licence as a client without a login takes it.
    PullSecret {
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[arg(long, value_name = "FORMAT")]
        format: pull_secret::Format,
        /// What the Kubernetes Secret is called.
        #[arg(long, value_name = "NAME", default_value = "roadstead-licence")]
        name: String,
    },
    /// End every licence of an id that was issued until now.
    Revoke {
        #[arg(value_name = "ID")]
        id: String,
        /// The revocation list that the proxy reads (licences.revoked).
        #[arg(long, value_name = "FILE")]
        list: PathBuf,
        /// Why, for people who read the list.
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Issue {
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
    /// Refuse applications that this configuration does not have.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to write the licence; without it, to standard output.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(super) fn run(command: &Command) -> Result<(), Failure> {
    let now = Clock::system().now();
    match command {
        Command::Keygen { name } => keygen(name)?,
        Command::Issue(issue) => self::issue(issue, now)?,
        Command::Show { file, public_key } => show(file, public_key.as_deref(), now)?,
        Command::PullSecret { file, format, name } => {
            let file = config::read_licence(file).map_err(|message| anyhow!(message))?;
            print(&pull_secret::write(&file, *format, name))?;
        }
        Command::Revoke { id, list, reason } => revoke(id, list, reason.as_deref(), now)?,
    }
    Ok(())
}

fn keygen(name: &Path) -> anyhow::Result<()> {
    let key = PrivateKey::generate().map_err(|message| anyhow!(message))?;
    let pem = key.to_pem().map_err(|message| anyhow!(message))?;
    let (private, public) = (with_ending(name, "key"), with_ending(name, "pub"));
    config::write_new(&private, pem.as_bytes(), 0o600).map_err(|message| anyhow!(message))?;
    config::write_new(&public, key.public().to_pem().as_bytes(), 0o644).map_err(|message| anyhow!(message))?;
    print(&format!(
        "{} signs licences: keep it secret, and a copy where you will find it\n{} verifies them: list it under \
         licences.public_keys\nkey id {}\n",
        private.display(),
        public.display(),
        key.public().id()
    ))
}

fn with_ending(name: &Path, ending: &str) -> PathBuf {
    let mut whole = name.as_os_str().to_owned();
    whole.push(format!(".{ending}"));
    whole.into()
}

fn issue(asked: &Issue, now: Timestamp) -> Result<(), Failure> {
    let wrong = |message: String| anyhow!(message);
    let pem = config::text_of(&asked.key).map_err(wrong)?;
    let key = PrivateKey::from_pem(&pem).map_err(|message| anyhow!("{} {message}", asked.key.display()))?;
    let applications: Vec<Slug> =
        asked.applications.iter().map(|slug| Slug::parse(slug)).collect::<Result<_, _>>().map_err(wrong)?;
    if let Some(file) = &asked.config {
        known(&applications, file)?;
    }
    let now = Timestamp::from_unix(Duration::from_secs(now.unix().as_secs()));
    let not_before = match &asked.not_before {
        Some(text) => calendar::parse(text).map_err(wrong).context("--not-before")?,
        None => now,
    };
    let expires = end(&asked.expires, now).map_err(wrong).context("--expires")?;
    if expires <= now {
        return Err(anyhow!("--expires {} lies behind us", calendar::format(expires)).into());
    }
    let licence = Licence {
        id: LicenceId::parse(&asked.id).map_err(wrong)?,
        issuer: asked.issuer.clone(),
        customer: asked.customer.clone(),
        email: asked.email.clone(),
        applications,
        hosts: asked.hosts.clone(),
        issued: now,
        not_before,
        expires,
    };
    let token = key.sign(&licence).map_err(wrong)?;
    let text = LicenceFile::write(&licence, &token);
    match &asked.out {
        Some(file) => config::write_new(file, text.as_bytes(), 0o600).map_err(wrong)?,
        None => print(&text)?,
    }
    Ok(())
}

/// Refuses applications that the configuration does not have.
fn known(applications: &[Slug], file: &Path) -> Result<(), Failure> {
    let config = config::load(file)?;
    for slug in applications {
        if !config.applications.iter().any(|application| application.slug == *slug) {
            let names: Vec<&str> = config.applications.iter().map(|application| application.slug.as_str()).collect();
            let (file, names) = (file.display(), names.join(", "));
            return Err(anyhow!("{file} has no application {slug}; it has: {names}").into());
        }
    }
    Ok(())
}

/// A moment, or a number of days from now.
fn end(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let days = text.strip_suffix('d').and_then(|days| days.parse::<u32>().ok());
    match days {
        Some(days) => Ok(now.plus(Duration::from_hours(24) * days)),
        None => calendar::parse(text).map_err(|message| format!("{message}, or in days from now, as 90d")),
    }
}

fn show(file: &Path, public_key: Option<&Path>, now: Timestamp) -> anyhow::Result<()> {
    let LicenceFile { licence, token } = config::read_licence(file).map_err(|message| anyhow!(message))?;
    let signature = match public_key {
        None => "not checked (give --public-key)".to_owned(),
        Some(path) => {
            let pem = config::text_of(path).map_err(|message| anyhow!(message))?;
            let key = PublicKey::from_pem(&pem).map_err(|message| anyhow!("{} {message}", path.display()))?;
            let verified = PublicKeys::new(vec![key]).verify(token.expose(), &licence.issuer);
            match verified {
                Ok(signed) => format!("good, by key {}", signed.key),
                Err(refusal) => bail!("{}: {refusal}", file.display()),
            }
        }
    };
    let applications: Vec<&str> = licence.applications.iter().map(Slug::as_str).collect();
    let left = licence.expires.since(now).as_secs() / 86_400;
    let state = if now >= licence.expires { "expired".to_owned() } else { format!("{left} days left") };
    print(&format!(
        "licence       {}\nissuer        {}\ncustomer      {}\napplications  {}\nhosts         {}\n\
         issued        {}\nexpires       {} ({state})\nsignature     {signature}\n",
        licence.id,
        licence.issuer,
        licence.customer,
        applications.join(", "),
        licence.hosts.join(", "),
        calendar::format(licence.issued),
        calendar::format(licence.expires),
    ))
}

fn revoke(id: &str, list: &Path, reason: Option<&str>, now: Timestamp) -> anyhow::Result<()> {
    let id = LicenceId::parse(id).map_err(|message| anyhow!(message))?;
    let line = revocation_line(&id, now, reason);
    config::append(list, line.as_bytes()).map_err(|message| anyhow!(message))?;
    print(&format!("{}: {line}", list.display()))
}
