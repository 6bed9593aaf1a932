//! Who speaks to an upstream: the credential that is for a repository, and the login that it stands for.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;

use crate::config::{self, Credential, Secret};
use crate::oci::{Pattern, Repository};

/// Which of an upstream's credentials speaks, if any: for the keys of the throttle's gates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Holder(pub(super) Option<usize>);

/// A user and a password on their way to the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Login {
    username: Arc<str>,
    password: Secret,
}

impl Login {
    pub(super) fn new(username: &str, password: Secret) -> Self {
        Self { username: username.into(), password }
    }

    pub(super) fn username(&self) -> &str {
        &self.username
    }

    pub(super) fn password(&self) -> &str {
        self.password.expose()
    }

    /// The value of an `Authorization` header, marked sensitive.
    pub(super) fn basic(&self) -> HeaderValue {
        let encoded = STANDARD.encode(format!("{}:{}", self.username(), self.password()));
        let mut value = HeaderValue::try_from(format!("Basic {encoded}")).expect("base64 is visible ASCII");
        value.set_sensitive(true);
        value
    }
}

/// Who speaks in one operation. What was bought with one login is never used for another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Speaker {
    pub(super) holder: Holder,
    /// None: anonymously.
    pub(super) login: Option<Login>,
}

impl Hash for Speaker {
    /// By the holder alone, which is enough to tell speakers apart, so that no secret is hashed.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.holder.hash(state);
    }
}

/// The credentials of one upstream.
#[derive(Debug)]
pub(super) struct Logins {
    /// Longest pattern first, as the configuration has them.
    sources: Vec<(Pattern, Login)>,
}

impl Logins {
    pub(super) fn new(credentials: &[Credential]) -> Self {
        let source = |credential: &Credential| {
            let config::Login::Fixed { username, password } = &credential.login;
            (credential.images.clone(), Login::new(username, password.clone()))
        };
        Self { sources: credentials.iter().map(source).collect() }
    }

    /// Which credential is for a repository.
    pub(super) fn holder(&self, repository: &Repository) -> Holder {
        Holder(self.sources.iter().position(|(images, _)| images.matches(repository.as_str())))
    }

    /// Who speaks for a repository.
    pub(super) fn speaker(&self, repository: &Repository) -> Speaker {
        let holder = self.holder(repository);
        let login = holder.0.and_then(|index| self.sources.get(index)).map(|(_, login)| login.clone());
        Speaker { holder, login }
    }
}
