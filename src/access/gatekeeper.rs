//! From a credential to a principal (ACCESS §1, §4, §5). Each part that it checks against is
//! replaced by itself, while requests go on.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::caller::Principal;
use super::credential::Credential;
use super::passwords::{Passwords, Verdict};
use super::seal::Seals;
use super::token::{Issued, LicenceClaims, Subject, Tokens};
use super::users::Users;
use crate::clock::{Clock, Timestamp};
use crate::licence::{
    KeyId, LicenceId, PublicKeys, Refusal, Revocations, Slug, Standing, Term, calendar,
};
use crate::oci::CanonicalName;
use crate::secret::Secret;

/// Checks credentials; one for the process.
#[derive(Debug)]
pub struct Gatekeeper {
    clock: Clock,
    passwords: Passwords,
    tokens: ArcSwap<Tokens>,
    seals: ArcSwap<Seals>,
    users: ArcSwap<Users>,
    keys: ArcSwap<PublicKeys>,
    revocations: ArcSwap<Revocations>,
}

/// Where a credential is presented.
#[derive(Clone, Copy, Debug)]
pub struct Presented<'a> {
    pub credential: &'a Credential,
    pub source: IpAddr,
    /// The name of ours that our tokens have to be for.
    pub audience: &'a str,
    /// Who issues licences; none: nobody does.
    pub issuer: Option<&'a str>,
}

/// A credential that was found good, and what a token for it would say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authenticated {
    pub principal: Principal,
    /// When a licence ends.
    pub expires: Option<Timestamp>,
    subject: Subject,
}

/// Why a credential is not good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// Nobody that is known; one message for all reasons, with the true one for the log.
    Unknown { reason: String },
    /// A token of ours, or something like it, that is not good any more.
    InvalidToken { reason: String },
    /// A licence with a good signature that has ended; the message is for the customer.
    Ended { message: String },
    /// Too many failures, or too much to do.
    Later { retry_after: Duration },
}

impl Gatekeeper {
    /// Knows nobody until its parts are set. `key` is the content of the key file.
    ///
    /// # Errors
    /// If the key is unusable, or the system gives no randomness or no thread.
    pub fn new(key: &Secret, clock: Clock) -> Result<Self, String> {
        Ok(Self {
            passwords: Passwords::new(clock.clone()).map_err(|error| error.to_string())?,
            tokens: ArcSwap::from_pointee(Tokens::new(key.expose().as_bytes(), clock.clone())?),
            seals: ArcSwap::from_pointee(Seals::new(key.expose().as_bytes())?),
            users: ArcSwap::default(),
            keys: ArcSwap::default(),
            revocations: ArcSwap::default(),
            clock,
        })
    }

    pub fn set_users(&self, users: Users) {
        self.users.store(Arc::new(users));
    }

    pub fn set_public_keys(&self, keys: PublicKeys) {
        self.keys.store(Arc::new(keys));
    }

    pub fn set_revocations(&self, revocations: Revocations) {
        self.revocations.store(Arc::new(revocations));
    }

    /// Signs and seals with this key from now on; tokens of the one before are read until they have
    /// run out.
    ///
    /// # Errors
    /// If the key is unusable.
    pub fn set_key(&self, key: &Secret) -> Result<(), String> {
        let key = key.expose().as_bytes();
        if let Some(renewed) = self.tokens.load().renewed(key)? {
            self.seals.store(Arc::new(self.seals.load().renewed(key)?));
            self.tokens.store(Arc::new(renewed));
        }
        Ok(())
    }

    /// Seals what a client shall bring back, for `whom` and `what` alone (ACCESS §7.2). None
    /// without randomness.
    pub fn seal(&self, text: &str, whom: &Principal, what: &CanonicalName) -> Option<String> {
        self.seals.load().seal(text, &context(whom, what))
    }

    /// Opens what was sealed for `whom` and `what`.
    pub fn unseal(&self, sealed: &str, whom: &Principal, what: &CanonicalName) -> Option<String> {
        self.seals.load().open(sealed, &context(whom, what))
    }

    /// Who presents this.
    ///
    /// # Errors
    /// Why nobody.
    pub async fn authenticate(&self, presented: Presented<'_>) -> Result<Authenticated, Rejection> {
        match presented.credential {
            Credential::None => Ok(Authenticated::anonymous()),
            Credential::Unreadable => {
                Err(Rejection::unknown("the Authorization header cannot be read"))
            }
            Credential::Bearer(token) => self.by_token(token, presented.audience, presented.issuer),
            Credential::Basic { user, password }
                if self.keys.load().recognise(password.expose()) =>
            {
                self.by_licence(user, password, presented.issuer)
            }
            Credential::Basic { user, password } => {
                self.by_password(user, password, presented.source).await
            }
        }
    }

    /// A token of ours for somebody who was found good.
    pub fn issue(&self, to: &Authenticated, audience: &str, life: Duration) -> Issued {
        self.tokens.load().issue(to.subject.clone(), audience, life, to.expires)
    }

    async fn by_password(
        &self,
        user: &str,
        password: &Secret,
        source: IpAddr,
    ) -> Result<Authenticated, Rejection> {
        let users = self.users.load_full();
        match self.passwords.verify(&users, source, user, password).await {
            Verdict::Right { fingerprint } => Ok(Authenticated {
                principal: Principal::User(user.to_owned()),
                expires: None,
                subject: Subject::User { name: user.to_owned(), hash: fingerprint },
            }),
            Verdict::Wrong => Err(Rejection::unknown("wrong user or password")),
            Verdict::Later { retry_after } => Err(Rejection::Later { retry_after }),
        }
    }

    fn by_licence(
        &self,
        user: &str,
        token: &Secret,
        issuer: Option<&str>,
    ) -> Result<Authenticated, Rejection> {
        let issuer = issuer.ok_or_else(|| Rejection::unknown("licences are not accepted here"))?;
        let verified = self.keys.load().verify(token.expose(), issuer);
        let signed = verified
            .map_err(|refusal: Refusal| Rejection::unknown(format!("licence: {refusal}")))?;
        let licence = signed.licence;
        if user != licence.id.as_str() && Some(user) != licence.email.as_deref() {
            return Err(Rejection::unknown(format!(
                "user_mismatch: the licence is {}",
                licence.id
            )));
        }
        self.check(&licence.term(), Some(issuer))?;
        Ok(Authenticated {
            subject: Subject::Licence(LicenceClaims::new(&licence, &signed.key)),
            expires: Some(licence.expires),
            principal: Principal::Licence { id: licence.id, applications: licence.applications },
        })
    }

    fn by_token(
        &self,
        token: &Secret,
        audience: &str,
        issuer: Option<&str>,
    ) -> Result<Authenticated, Rejection> {
        let read = self.tokens.load().read(token.expose(), audience);
        let subject = read.ok_or_else(|| {
            Rejection::invalid("not a token of ours for this name, or it ran out")
        })?;
        let (principal, expires) = match &subject {
            Subject::Anonymous => (Principal::Anonymous, None),
            Subject::User { name, hash } => {
                let users = self.users.load();
                if users.get(name).is_none_or(|stored| stored.fingerprint() != *hash) {
                    return Err(Rejection::invalid(format!(
                        "user {name} is gone or has another password"
                    )));
                }
                (Principal::User(name.clone()), None)
            }
            Subject::Licence(claims) => {
                let (id, applications, expires) = self.running_licence(claims, issuer)?;
                (Principal::Licence { id, applications }, Some(expires))
            }
        };
        Ok(Authenticated { principal, expires, subject })
    }

    /// A licence under a running token: its end and its revocation count at once, and so does the
    /// end of its key.
    fn running_licence(
        &self,
        claims: &LicenceClaims,
        issuer: Option<&str>,
    ) -> Result<(LicenceId, Vec<Slug>, Timestamp), Rejection> {
        let read: Option<(Term, KeyId, Vec<Slug>)> = claims.read();
        let (term, key, applications) =
            read.ok_or_else(|| Rejection::invalid("no licence in the token"))?;
        if !self.keys.load().knows(&key) {
            return Err(Rejection::invalid(format!(
                "licence {}: its key is not accepted any more",
                term.id
            )));
        }
        self.check(&term, issuer)?;
        Ok((term.id, applications, term.expires))
    }

    /// `issuer` is whom to ask.
    fn check(&self, term: &Term, issuer: Option<&str>) -> Result<(), Rejection> {
        let ask = issuer.map(|issuer| format!("; ask {issuer}")).unwrap_or_default();
        match term.standing(&self.revocations.load(), self.clock.now()) {
            Standing::Good => Ok(()),
            Standing::NotYet => {
                Err(Rejection::unknown(format!("licence {} is from the future", term.id)))
            }
            Standing::Expired => Err(Rejection::Ended {
                message: format!(
                    "licence {} expired on {}{ask}",
                    term.id,
                    calendar::day(term.expires)
                ),
            }),
            Standing::Revoked { at } => Err(Rejection::Ended {
                message: format!("licence {} was revoked on {}{ask}", term.id, calendar::day(at)),
            }),
        }
    }
}

/// No name of a principal or an image holds a line end.
fn context(whom: &Principal, what: &CanonicalName) -> String {
    format!("{whom}\n{what}")
}

impl Authenticated {
    pub fn anonymous() -> Self {
        Self { principal: Principal::Anonymous, expires: None, subject: Subject::Anonymous }
    }
}

impl Rejection {
    fn unknown(reason: impl Into<String>) -> Self {
        Self::Unknown { reason: reason.into() }
    }

    fn invalid(reason: impl Into<String>) -> Self {
        Self::InvalidToken { reason: reason.into() }
    }

    /// A label of metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Unknown { .. } => "unknown",
            Self::InvalidToken { .. } => "invalid_token",
            Self::Ended { .. } => "ended",
            Self::Later { .. } => "later",
        }
    }
}
