//! What requests are checked against besides the configuration: the key of our own tokens, users,
//! licence keys, revocations, and the certificate. Each is read from its own files, and stays as it
//! was while they cannot be used (ACCESS §8).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::access::{KeyRing, Users};
use crate::clock::Timestamp;
use crate::config::{self, Config, Validity, certificate_flaws};
use crate::files;
use crate::identity::Identity;
use crate::licence::{PublicKey, PublicKeys};
use crate::reload::revocations::{LostLines, RevocationLists};
use crate::reload::token_key::token_key;
use crate::reload::unusable::{KeyedMessage, Unusable};
use crate::server::{Service, TlsContext};

/// What is loaded from files of its own, and replaced by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// The key of our own tokens.
    Key,
    Users,
    PublicKeys,
    Revocations,
    Tls,
}

impl Input {
    pub(crate) const ALL: [Self; 5] =
        [Self::Key, Self::Users, Self::PublicKeys, Self::Revocations, Self::Tls];

    /// The value of the label `part` in metrics and log lines.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Users => "users",
            Self::PublicKeys => "public_keys",
            Self::Revocations => "revocations",
            Self::Tls => "tls",
        }
    }

    /// Reads the files, and changes nothing.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub(crate) fn read(self, config: &Config, service: &Service) -> Result<Loaded, Unusable> {
        Ok(match self {
            Self::Key => Loaded::Key(next_keys(config, service)?),
            Self::Users => Loaded::Users(users(config)?),
            Self::PublicKeys => Loaded::PublicKeys(public_keys(config)?),
            Self::Revocations => Loaded::Revocations(RevocationLists::read(config)),
            Self::Tls => Loaded::Tls(next_tls(config, service)?),
        })
    }

    /// Whether it is read from other files in `next`, or in another way.
    pub(crate) fn differs(self, config: &Config, next: &Config) -> bool {
        match self {
            Self::Tls => config.tls != next.tls,
            Self::Key | Self::Users | Self::PublicKeys | Self::Revocations => {
                self.files(config) != self.files(next)
            }
        }
    }

    /// The files and folders that it is read from.
    pub(crate) fn files(self, config: &Config) -> Vec<PathBuf> {
        match self {
            Self::Key => vec![config.key_file()],
            Self::Users => config.access.users.iter().cloned().collect(),
            Self::PublicKeys => {
                config.licences.iter().flat_map(|licences| licences.public_keys.clone()).collect()
            }
            Self::Revocations => {
                config.licences.iter().filter_map(|licences| licences.revoked.clone()).collect()
            }
            Self::Tls => {
                let files = |tls: &config::Tls| {
                    [Some(tls.certificate.clone()), Some(tls.key.clone()), tls.client_ca.clone()]
                };
                config.tls.iter().flat_map(files).flatten().collect()
            }
        }
    }

    /// Reads the files to see whether they can be used, and changes nothing.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub(crate) fn check(self, config: &Config) -> Result<(), Unusable> {
        match self {
            // A start makes it if there is none, so that its absence is no mistake.
            Self::Key => Ok(()),
            Self::Users => users(config).map(drop),
            Self::PublicKeys => public_keys(config).map(drop),
            Self::Revocations => RevocationLists::read(config).can_be_read(),
            Self::Tls => tls(config).map(drop),
        }
    }

    /// What is probably not meant, where the files can be used.
    pub(crate) fn warnings(self, config: &Config, now: Timestamp) -> Vec<KeyedMessage> {
        match self {
            Self::Key | Self::PublicKeys => Vec::new(),
            Self::Revocations => RevocationLists::read(config).wrong_lines(),
            Self::Users => {
                users(config).map(|users| unknown_users(config, &users)).unwrap_or_default()
            }
            Self::Tls => {
                let tls = tls(config).ok().flatten();
                tls.map(|tls| certificate_flaws(tls.leaf(), config, now)).unwrap_or_default()
            }
        }
    }
}

/// What the files of an input hold; not in use yet.
#[derive(Debug)]
pub(crate) enum Loaded {
    Key(Option<KeyRing>),
    Users(Users),
    PublicKeys(PublicKeys),
    Revocations(RevocationLists),
    Tls(Option<TlsContext>),
}

impl Loaded {
    /// Puts it in the place of what `service` uses; at once, since it may stand between two other
    /// steps of a reload. Of revocations, whatever can be used.
    ///
    /// # Errors
    /// What cannot be used of it, although the rest is in use.
    pub(super) fn apply(
        self,
        service: &Service,
        lost_lines: &mut LostLines,
    ) -> Result<(), Unusable> {
        let gatekeeper = &service.gatekeeper;
        match self {
            Self::Key(keys) => gatekeeper.set_keys(keys),
            Self::Users(users) => gatekeeper.set_users(users),
            Self::PublicKeys(keys) => gatekeeper.set_public_keys(keys),
            Self::Revocations(lists) => {
                let (revoked, outcome) = lost_lines.next(&gatekeeper.revocations(), lists);
                gatekeeper.set_revocations(revoked);
                return outcome;
            }
            Self::Tls(tls) => drop(service.tls.send_replace(tls.map(Arc::new))),
        }
        Ok(())
    }
}

/// Whoever has rights and is not among the users.
fn unknown_users(config: &Config, users: &Users) -> Vec<KeyedMessage> {
    let Some(path) = &config.access.users else { return Vec::new() };
    let rules = config.access.rules.iter().enumerate();
    let rules = rules.map(|(index, rule)| (format!("access.rules[{index}]"), &rule.who));
    let publishers = config.applications.iter().flat_map(|application| {
        let key = format!("applications.{}.publishers", application.slug);
        application.publishers.iter().map(move |who| (key.clone(), who))
    });
    let unknown = |(key, who): (String, &Identity)| match who {
        Identity::User(name) if users.get(name).is_none() => {
            let path = path.display();
            Some((
                key,
                format!("there is no user {name} in {path}; `htpasswd -B {path} {name}` makes one"),
            ))
        }
        Identity::Anonymous
        | Identity::User(_)
        | Identity::Licence(_)
        | Identity::Certificate(_) => None,
    };
    rules.chain(publishers).filter_map(unknown).collect()
}

fn next_keys(config: &Config, service: &Service) -> Result<Option<KeyRing>, Unusable> {
    let unusable = |message| Unusable::one("access.key_file", message);
    let path = config.key_file();
    // Without one, what is in use stays: another would end every token and upload.
    let Some(key) = token_key(config).map_err(unusable)? else { return Ok(None) };
    let renewed = service.gatekeeper.renewed_keys(&key);
    renewed.map_err(|message| unusable(format!("{} {message}", path.display())))
}

fn users(config: &Config) -> Result<Users, Unusable> {
    const KEY: &str = "access.users";
    let Some(path) = &config.access.users else { return Ok(Users::default()) };
    let text = files::read_text(path).map_err(|message| Unusable::one(KEY, message))?;
    Users::parse(&text).map_err(|problems| Unusable::lines(KEY, path, problems))
}

/// The keys that licences are verified with.
///
/// # Errors
/// Everything that is wrong with their files.
pub(crate) fn public_keys(config: &Config) -> Result<PublicKeys, Unusable> {
    let (mut keys, mut problems) = (Vec::new(), Vec::new());
    let paths = config.licences.iter().flat_map(|licences| &licences.public_keys);
    for (index, path) in paths.enumerate() {
        let key = |pem: String| {
            PublicKey::from_pem(&pem).map_err(|message| format!("{} {message}", path.display()))
        };
        match files::read_text(path).and_then(key) {
            Ok(key) => keys.push(key),
            Err(message) => problems.push((format!("licences.public_keys[{index}]"), message)),
        }
    }
    if problems.is_empty() { Ok(PublicKeys::new(keys)) } else { Err(Unusable::new(problems)) }
}

/// TLS as it comes to be. A certificate that clients would refuse does not replace one that is
/// good: it waits for its time, or for the end of the other.
fn next_tls(config: &Config, service: &Service) -> Result<Option<TlsContext>, Unusable> {
    let next = tls(config)?;
    let now = service.clock.now();
    let flaws = |tls: &TlsContext| certificate_flaws(tls.leaf(), config, now);
    let (Some(after), Some(before)) = (next.as_ref(), service.tls.borrow().clone()) else {
        return Ok(next);
    };
    let problems = flaws(after);
    if problems.is_empty() || !flaws(&before).is_empty() {
        return Ok(next);
    }
    let begin = after.validity().map(|Validity(good)| good.start).filter(|begin| now < *begin);
    let end = before.validity().map(|Validity(good)| good.end);
    Err(Unusable { problems, until: begin.or(end) })
}

fn tls(config: &Config) -> Result<Option<TlsContext>, Unusable> {
    let Some(tls) = &config.tls else { return Ok(None) };
    let mut problems = Vec::new();
    let mut read = |key: &str, path: &Path| {
        let read = files::read_text(path);
        read.map_err(|message| problems.push((key.to_owned(), message))).ok()
    };
    let certificate = read("tls.certificate", &tls.certificate);
    let key = read("tls.key", &tls.key);
    let client_ca = tls.client_ca.as_ref().map(|path| read("tls.client_ca", path));
    let (Some(certificate), Some(key), false) = (certificate, key, client_ca == Some(None)) else {
        return Err(Unusable::new(problems));
    };
    let client_ca = client_ca.flatten();
    TlsContext::new(&certificate, &key, client_ca.as_deref(), tls.client_auth).map(Some).map_err(
        // The message begins with the key that it is about.
        |message| Unusable::one("tls", message),
    )
}
