//! What requests are checked against besides the configuration: users, licence keys, revocations. Each is read from its
//! own files, and by itself keeps its last good state (ACCESS §8).

use std::path::Path;

use crate::access::{Gatekeeper, Users};
use crate::config::{self, Config};
use crate::licence::{PublicKey, PublicKeys, Revocations};

/// What is wrong with the files of one part, a line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable(pub Vec<String>);

/// Something that is replaced by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Users,
    PublicKeys,
    Revocations,
}

impl Part {
    pub const ALL: [Self; 3] = [Self::Users, Self::PublicKeys, Self::Revocations];

    /// A label of metrics and log lines.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Users => "users",
            Self::PublicKeys => "public_keys",
            Self::Revocations => "revocations",
        }
    }

    /// Reads the part's files and hands it over; nothing changes if anything is wrong with them.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn load(self, config: &Config, gatekeeper: &Gatekeeper) -> Result<(), Unusable> {
        match self {
            Self::Users => gatekeeper.set_users(users(config)?),
            Self::PublicKeys => gatekeeper.set_public_keys(public_keys(config)?),
            Self::Revocations => gatekeeper.set_revocations(revocations(config)?),
        }
        Ok(())
    }

    /// Reads the part's files and forgets them.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn check(self, config: &Config) -> Result<(), Unusable> {
        match self {
            Self::Users => users(config).map(drop),
            Self::PublicKeys => public_keys(config).map(drop),
            Self::Revocations => revocations(config).map(drop),
        }
    }
}

fn users(config: &Config) -> Result<Users, Unusable> {
    let Some(path) = &config.access.users else { return Ok(Users::default()) };
    Users::parse(&config::text_of(path).map_err(one)?).map_err(|problems| in_file(path, problems))
}

fn public_keys(config: &Config) -> Result<PublicKeys, Unusable> {
    let (mut keys, mut problems) = (Vec::new(), Vec::new());
    for path in config.licences.iter().flat_map(|licences| &licences.public_keys) {
        let key = |pem: String| PublicKey::from_pem(&pem).map_err(|message| format!("{} {message}", path.display()));
        match config::text_of(path).and_then(key) {
            Ok(key) => keys.push(key),
            Err(message) => problems.push(message),
        }
    }
    if problems.is_empty() { Ok(PublicKeys::new(keys)) } else { Err(Unusable(problems)) }
}

fn revocations(config: &Config) -> Result<Revocations, Unusable> {
    let Some(path) = config.licences.as_ref().and_then(|licences| licences.revoked.as_ref()) else {
        return Ok(Revocations::default());
    };
    let (mut all, mut problems) = (Revocations::default(), Vec::new());
    for (file, text) in config::texts_of(path).map_err(one)? {
        match Revocations::parse(&text) {
            Ok(list) => all = all.and(list),
            Err(wrong) => problems.extend(in_file(&file, wrong).0),
        }
    }
    if problems.is_empty() { Ok(all) } else { Err(Unusable(problems)) }
}

fn one(message: String) -> Unusable {
    Unusable(vec![message])
}

fn in_file(path: &Path, problems: Vec<(usize, String)>) -> Unusable {
    let line = |(line, message): (usize, String)| format!("{}:{line}: {message}", path.display());
    Unusable(problems.into_iter().map(line).collect())
}
