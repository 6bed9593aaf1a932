//! As whom a request is made.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;

use crate::config::WhenRejected;
use crate::secret::Secret;
use crate::upstream::error::ErrorKind;
use crate::upstream::transport::throttle::CredentialIndex;

/// A user and a password for an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::upstream) struct BasicLogin {
    username: Arc<str>,
    password: Secret,
}

impl BasicLogin {
    pub(in crate::upstream) fn new(username: &str, password: Secret) -> Self {
        Self { username: username.into(), password }
    }

    pub(in crate::upstream) fn username(&self) -> &str {
        &self.username
    }

    pub(in crate::upstream) fn password(&self) -> &str {
        self.password.expose()
    }

    /// The value of an `Authorization` header, marked sensitive.
    pub(in crate::upstream) fn header(&self) -> HeaderValue {
        let encoded = STANDARD.encode(format!("{}:{}", self.username(), self.password()));
        let mut value =
            HeaderValue::try_from(format!("Basic {encoded}")).expect("base64 is visible ASCII");
        value.set_sensitive(true);
        value
    }
}

/// As whom one operation is made: a configured credential, and the login that it stands for at the
/// moment. A token that was issued for one login is never used with another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::upstream) struct UpstreamIdentity {
    pub(in crate::upstream) credential: CredentialIndex,
    /// None: anonymously.
    pub(in crate::upstream) login: Option<BasicLogin>,
    pub(in crate::upstream) when_rejected: WhenRejected,
}

impl UpstreamIdentity {
    /// What it means that the upstream rejects the login (UP-13).
    pub(in crate::upstream) fn rejection(&self) -> ErrorKind {
        match self.when_rejected {
            WhenRejected::ServeStale => ErrorKind::CredentialRejected,
            WhenRejected::Withhold => ErrorKind::CredentialWithdrawn,
        }
    }
}

impl Hash for UpstreamIdentity {
    /// By the credential alone, which equal identities share, so that no secret is hashed.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.credential.hash(state);
    }
}
