//! What a licence meets at a proxy: its keys, its issuer, what it has revoked, and whether it has
//! the applications and the names that the licence is for.

use std::path::{Path, PathBuf};

use anyhow::anyhow;

use super::failure::CommandFailure;
use super::licences_here::notice;
use crate::access::VirtualHosts;
use crate::clock::Timestamp;
use crate::config::{self, Config};
use crate::files;
use crate::licence::{
    Licence, LicenceRefusal, PublicKey, PublicKeys, Revocations, SignedLicence, Standing, calendar,
};
use crate::reload::inputs;
use crate::reload::revocations::RevocationLists;
use crate::reload::unusable::Unusable;

/// What a licence is verified against.
pub(super) struct LicenceVerifier {
    keys: PublicKeys,
    issuer: String,
    pub(super) revocations: Revocations,
    proxy: Option<(PathBuf, Config)>,
}

impl LicenceVerifier {
    /// One key, any issuer, and no revocations.
    pub(super) fn of_key(path: &Path, issuer: &str) -> anyhow::Result<Self> {
        let pem = files::read_text_once(path).map_err(|message| anyhow!(message))?;
        let key =
            PublicKey::from_pem(&pem).map_err(|message| anyhow!("{} {message}", path.display()))?;
        let (keys, issuer) = (PublicKeys::new(vec![key]), issuer.to_owned());
        Ok(Self { keys, issuer, revocations: Revocations::default(), proxy: None })
    }

    /// What the proxy with this configuration takes.
    pub(super) fn of_config(file: &Path) -> Result<Self, CommandFailure> {
        let config = config::load(file)?;
        let Some(licences) = &config.licences else {
            return Err(anyhow!(
                "{} accepts no licences: it has no licences section",
                file.display()
            )
            .into());
        };
        let issuer = licences.issuer.clone();
        let unusable = |wrong: Unusable| CommandFailure::Files(wrong.to_string());
        let keys = inputs::public_keys(&config).map_err(unusable)?;
        // A line that is wrong may be the one that is about this licence.
        let revocations = RevocationLists::read(&config).all_right().map_err(unusable)?;
        Ok(Self { keys, issuer, revocations, proxy: Some((file.to_owned(), config)) })
    }

    /// # Errors
    /// Why the token is refused, whatever the time.
    pub(super) fn verify(&self, token: &str) -> Result<SignedLicence, LicenceRefusal> {
        self.keys.verify(token, &self.issuer)
    }

    /// What the configuration has not, of what the licence is for: an application, or every one of
    /// its names. Some of the names may be another proxy's.
    pub(super) fn lacks(&self, licence: &Licence) -> Vec<String> {
        let Some((file, config)) = &self.proxy else { return Vec::new() };
        let (file, known) = (file.display(), &config.applications);
        let missing = licence
            .applications
            .iter()
            .filter(|slug| !known.iter().any(|application| application.slug == **slug));
        let names: Vec<&str> = known.iter().map(|known| known.slug.as_str()).collect();
        let others = match names.join(", ") {
            none if none.is_empty() => String::new(),
            names => format!(", or take one of: {names}"),
        };
        let mut lacking: Vec<String> = missing
            .map(|slug| {
                format!("{file} has no application {slug}; add it under applications{others}")
            })
            .collect();
        let names = VirtualHosts::new(config);
        if !licence.hosts.iter().any(|host| names.find(Some(host), true).is_some()) {
            lacking.push(format!(
                "{file} does not answer to {}; add the name under hosts, or write the one that \
                 customers pull by",
                licence.hosts.join(", ")
            ));
        }
        lacking
    }
}

/// Why a licence is not good at this moment; none: it is.
pub(super) fn not_good(
    licence: &Licence,
    revocations: &Revocations,
    now: Timestamp,
) -> Option<String> {
    let Licence { id, issuer, .. } = licence;
    match licence.term().standing(revocations, now) {
        Standing::Good => None,
        Standing::Expired => notice(licence, now),
        Standing::NotYet => Some(format!(
            "licence {id} begins on {}, and is refused until then",
            calendar::format(licence.issued.max(licence.not_before))
        )),
        Standing::Revoked { at } => Some(format!(
            "licence {id} was revoked on {}; ask {issuer} for a new one",
            calendar::format(at)
        )),
    }
}
