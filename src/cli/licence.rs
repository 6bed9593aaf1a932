//! `roadstead licence`: make keys, issue, look at and revoke licences. None of it needs a running
//! proxy.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Subcommand;

use super::failure::CommandFailure;
use super::licences_here::notice;
use super::output::{print, tell};
use super::verifier::{LicenceVerifier, not_good};
use super::{issue, pull_secret};
use crate::clock::{Clock, Timestamp};
use crate::config::{self, LicenceFile};
use crate::files;
use crate::licence::{
    Licence, LicenceId, PrivateKey, Revocations, Slug, Standing, calendar, revocation_line,
};

#[derive(Debug, Subcommand)]
pub(super) enum LicenceCommand {
    /// Make a key pair: NAME.key signs licences and stays secret, NAME.pub verifies them.
    Keygen {
        /// Where to write NAME.key and NAME.pub.
        #[arg(value_name = "NAME")]
        name: PathBuf,
    },
    /// Sign a licence and write its file.
    Issue(Box<issue::IssueArguments>),
    /// Say what a licence is for and how long it is good. Exit code 1 if it would be refused.
    Show {
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Verify the signature with this public key.
        #[arg(long, value_name = "FILE", conflicts_with = "config")]
        public_key: Option<PathBuf>,
        /// Verify it as the proxy with this configuration does: its keys, its issuer, what it has
        /// revoked, its applications and hosts.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Write a licence as a client without a login takes it.
    PullSecret {
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[arg(long, value_name = "FORMAT")]
        format: pull_secret::PullSecretFormat,
        /// What the Kubernetes Secret is called.
        #[arg(long, value_name = "NAME", default_value = "roadstead-licence")]
        name: String,
    },
    /// End every licence of an id that was issued until now.
    Revoke {
        #[arg(value_name = "ID")]
        id: String,
        #[command(flatten)]
        list: RevocationList,
        /// Why, for people who read the list.
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
}

/// Where a revocation is written.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(super) struct RevocationList {
    /// The revocation list that the proxy reads; in a folder of lists it is the one that is called
    /// roadstead.
    #[arg(long, value_name = "FILE")]
    list: Option<PathBuf>,
    /// Take the list from licences.revoked of this configuration.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) fn run(command: &LicenceCommand) -> Result<(), CommandFailure> {
    let now = Clock::system().now();
    match command {
        LicenceCommand::Keygen { name } => keygen(name)?,
        LicenceCommand::Issue(arguments) => issue::run(arguments, now)?,
        LicenceCommand::Show { file, public_key, config } => {
            show(file, public_key.as_deref(), config.as_deref(), now)?;
        }
        LicenceCommand::PullSecret { file, format, name } => {
            let file = config::read_licence(file).map_err(|message| anyhow!(message))?;
            print(&pull_secret::write(&file, *format, name))?;
        }
        LicenceCommand::Revoke { id, list, reason } => {
            revoke(id, &list.path()?, reason.as_deref(), now)?;
        }
    }
    Ok(())
}

fn keygen(name: &Path) -> anyhow::Result<()> {
    let key = PrivateKey::generate().map_err(|message| anyhow!(message))?;
    let pem = key.to_pem().map_err(|message| anyhow!(message))?;
    let (private, public) = (with_ending(name, "key"), with_ending(name, "pub"));
    files::create(&private, pem.as_bytes(), 0o600).map_err(|message| anyhow!(message))?;
    files::create(&public, key.public().to_pem().as_bytes(), 0o644)
        .map_err(|message| anyhow!(message))?;
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

fn show(
    file: &Path,
    public_key: Option<&Path>,
    config: Option<&Path>,
    now: Timestamp,
) -> Result<(), CommandFailure> {
    let LicenceFile { licence, token } =
        config::read_licence(file).map_err(|message| anyhow!(message))?;
    let verifier = match (public_key, config) {
        (Some(key), _) => Some(LicenceVerifier::of_key(key, &licence.issuer)?),
        (None, Some(config)) => Some(LicenceVerifier::of_config(config)?),
        (None, None) => None,
    };
    let signature = match &verifier {
        None => "not checked (give --public-key or --config)".to_owned(),
        Some(verifier) => {
            let signed = verifier.verify(token.expose());
            let signed = signed.map_err(|refusal| anyhow!("{}: {refusal}", file.display()))?;
            format!("good, by key {}", signed.key)
        }
    };
    let mut problems = verifier.as_ref().map(|it| it.lacks(&licence)).unwrap_or_default();
    let revocations = verifier.map(|verifier| verifier.revocations).unwrap_or_default();
    print(&description(&licence, &state(&licence, &revocations, now), &signature))?;
    problems.extend(not_good(&licence, &revocations, now));
    if !problems.is_empty() {
        return Err(anyhow!("it would not be accepted: {}", problems.join("; ")).into());
    }
    if let Some(notice) = notice(&licence, now) {
        tell(&format!("roadstead: {notice}"));
    }
    Ok(())
}

fn description(licence: &Licence, state: &str, signature: &str) -> String {
    let applications: Vec<&str> = licence.applications.iter().map(Slug::as_str).collect();
    format!(
        "licence       {}\nissuer        {}\ncustomer      {}\napplications  {}\nhosts         {}\n\
         issued        {}\nexpires       {} ({state})\nsignature     {signature}\n",
        licence.id,
        licence.issuer,
        licence.customer,
        applications.join(", "),
        licence.hosts.join(", "),
        calendar::format(licence.issued),
        calendar::format(licence.expires),
    )
}

fn state(licence: &Licence, revocations: &Revocations, now: Timestamp) -> String {
    match licence.term().standing(revocations, now) {
        Standing::Good => format!("{} days left", licence.expires.since(now).as_secs() / 86_400),
        Standing::NotYet => format!("not before {}", calendar::format(licence.not_before)),
        Standing::Expired => "expired".to_owned(),
        Standing::Revoked { at } => format!("revoked on {}", calendar::format(at)),
    }
}

impl RevocationList {
    /// The file that a line is added to.
    fn path(&self) -> Result<PathBuf, CommandFailure> {
        let path = match (&self.list, &self.config) {
            (Some(list), _) => list.clone(),
            (None, Some(file)) => {
                let revoked = config::load(file)?.licences.and_then(|licences| licences.revoked);
                revoked.with_context(|| {
                    format!(
                        "{} has no licences.revoked; add it, as revoked: /etc/roadstead/revoked",
                        file.display()
                    )
                })?
            }
            (None, None) => {
                return Err(anyhow!("say which list: --list FILE or --config FILE").into());
            }
        };
        Ok(if path.is_dir() { path.join("roadstead") } else { path })
    }
}

fn revoke(id: &str, list: &Path, reason: Option<&str>, now: Timestamp) -> anyhow::Result<()> {
    let id = LicenceId::parse(id).map_err(|message| anyhow!(message))?;
    let line = revocation_line(&id, now, reason);
    files::append_lines(list, &line).map_err(|message| anyhow!(message))?;
    wait_for_the_next_second(now);
    print(&format!("{}: {line}", list.display()))
}

/// Times in lists and licences are whole seconds, and a revocation ends what was issued in its own.
/// So that a licence which is issued after this command is a new one, the command takes until then.
#[expect(clippy::disallowed_methods, reason = "what is waited for is the time itself")]
fn wait_for_the_next_second(now: Timestamp) {
    let next = Duration::from_secs(now.unix().as_secs() + 1);
    std::thread::sleep(next.saturating_sub(Clock::system().now().unix()));
}
