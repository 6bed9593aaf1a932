//! From a credential to an identity (ACCESS §1, §4, §5). Users, licence keys, revocations and our
//! own key are each replaced by themselves, while requests go on.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::Instant;
use tracing::warn;

use super::credential::ClientCredential;
use super::passwords::{PasswordLogin, Passwords};
use super::rejection::Rejection;
use super::seal::Seals;
use super::token::{AccessTokens, Issued, RunningLicence, TokenSubject};
use super::users::Users;
use crate::clock::{Clock, Timestamp};
use crate::expiring::ExpiringCache;
use crate::identity::Identity;
use crate::licence::{
    ClaimedLicence, LicenceRefusal, PublicKeys, Revocations, SignedLicence, Slug, Standing, Term,
    calendar, unwrapped,
};
use crate::oci::CanonicalName;
use crate::secret::Secret;

/// Users of whom is remembered that the operator has been told, and for how long.
const TOLD_TOO_LONG_MAX: u64 = 1024;
const TOLD_TOO_LONG_AGAIN: Duration = Duration::from_hours(24);

/// Checks credentials; one for the process.
#[derive(Debug)]
pub(crate) struct Gatekeeper {
    clock: Clock,
    passwords: Passwords,
    tokens: ArcSwap<AccessTokens>,
    seals: ArcSwap<Seals>,
    users: ArcSwap<Users>,
    keys: ArcSwap<PublicKeys>,
    revocations: ArcSwap<Revocations>,
    /// Hashes of which the operator has been told that a password was too long, by fingerprint.
    told_too_long: ExpiringCache<String, ()>,
}

/// What our own key signs and seals with.
#[derive(Debug)]
pub(crate) struct KeyRing {
    tokens: AccessTokens,
    seals: Seals,
}

/// A credential, and where it is presented.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PresentedCredential<'a> {
    pub credential: &'a ClientCredential,
    /// Where the request comes from.
    pub address: IpAddr,
    /// What our tokens have to be made out to: [`audience`](super::VirtualHost::audience) of the
    /// name that the client used.
    pub audience: &'a str,
    /// Who issues licences; none: nobody does.
    pub issuer: Option<&'a str>,
    /// Until when an answer is wanted.
    pub deadline: Instant,
}

/// A credential that was found good, and what a token for it would say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Authenticated {
    pub identity: Identity,
    /// What a licence is for; empty for everybody else.
    pub applications: Vec<Slug>,
    /// When a licence ends.
    pub expires: Option<Timestamp>,
    subject: TokenSubject,
}

impl Gatekeeper {
    /// Knows nobody until its parts are set. `key` is the content of the key file.
    ///
    /// # Errors
    /// If the key is unusable, or the system gives no randomness or no thread.
    pub(crate) fn new(key: &Secret, clock: Clock) -> Result<Self, String> {
        Ok(Self {
            passwords: Passwords::new(clock.clone()).map_err(|error| error.to_string())?,
            tokens: ArcSwap::from_pointee(AccessTokens::new(
                key.expose().as_bytes(),
                clock.clone(),
            )?),
            seals: ArcSwap::from_pointee(Seals::new(key.expose().as_bytes())?),
            users: ArcSwap::default(),
            keys: ArcSwap::default(),
            revocations: ArcSwap::default(),
            told_too_long: ExpiringCache::new(TOLD_TOO_LONG_MAX, clock.clone()),
            clock,
        })
    }

    pub(crate) fn set_users(&self, users: Users) {
        self.users.store(Arc::new(users));
    }

    pub(crate) fn set_public_keys(&self, keys: PublicKeys) {
        self.keys.store(Arc::new(keys));
    }

    pub(crate) fn revocations(&self) -> Arc<Revocations> {
        self.revocations.load_full()
    }

    pub(crate) fn set_revocations(&self, revocations: Revocations) {
        self.revocations.store(Arc::new(revocations));
    }

    /// Keys that sign and seal with this one, and read tokens of the one before until those have
    /// run out. None if it is the key that is used.
    ///
    /// # Errors
    /// If the key is unusable.
    pub(crate) fn renewed_keys(&self, key: &Secret) -> Result<Option<KeyRing>, String> {
        let key = key.expose().as_bytes();
        let Some(tokens) = self.tokens.load().renewed(key)? else { return Ok(None) };
        Ok(Some(KeyRing { tokens, seals: self.seals.load().renewed(key)? }))
    }

    /// Uses these keys from now on, if there are any.
    pub(crate) fn set_keys(&self, keys: Option<KeyRing>) {
        if let Some(KeyRing { tokens, seals }) = keys {
            self.seals.store(Arc::new(seals));
            self.tokens.store(Arc::new(tokens));
        }
    }

    /// Seals what a client shall bring back, for `whom` and `what` alone (ACCESS §7.2). None if the
    /// system gives no randomness.
    pub(crate) fn seal(&self, text: &str, whom: &Identity, what: &CanonicalName) -> Option<String> {
        self.seals.load().seal(text, &context(whom, what))
    }

    /// Opens what was sealed for `whom` and `what`.
    pub(crate) fn unseal(
        &self,
        sealed: &str,
        whom: &Identity,
        what: &CanonicalName,
    ) -> Option<String> {
        self.seals.load().open(sealed, &context(whom, what))
    }

    /// Who presents this. Waits for a password to be hashed, never past the deadline.
    ///
    /// # Errors
    /// Why nobody.
    pub(crate) async fn authenticate(
        &self,
        presented: PresentedCredential<'_>,
    ) -> Result<Authenticated, Rejection> {
        match presented.credential {
            ClientCredential::None => Ok(Authenticated::anonymous()),
            ClientCredential::Unreadable => Err(Rejection::Malformed),
            ClientCredential::Bearer(token) => {
                self.by_token(token, presented.audience, presented.issuer)
            }
            ClientCredential::Basic { user, password } => {
                // Before any hashing: a licence must never be counted as a failed password, and the
                // token must not be kept among verified passwords (ACCESS §4.3).
                let token = unwrapped(password.expose());
                if self.is_licence(&token) {
                    return self.by_licence(user, &token, presented.issuer);
                }
                let PresentedCredential { address, deadline, .. } = presented;
                self.by_password(PasswordLogin { address, user, password, deadline }).await
            }
        }
    }

    /// A token of ours for somebody who was found good.
    pub(crate) fn issue(&self, to: &Authenticated, audience: &str, life: Duration) -> Issued {
        self.tokens.load().issue(to.subject.clone(), audience, life, to.expires)
    }

    /// Whether a password is a licence: of one of our keys, or, by its own word, of any.
    fn is_licence(&self, token: &str) -> bool {
        self.keys.load().recognise(token) || ClaimedLicence::of(token).is_some()
    }

    async fn by_password(&self, login: PasswordLogin<'_>) -> Result<Authenticated, Rejection> {
        let user = login.user.to_owned();
        // One set of users for the whole check, whatever a reload does meanwhile.
        let users = self.users.load_full();
        let verified = self.passwords.verify(&users, login).await;
        if verified == Err(Rejection::WrongPassword) {
            self.tell_if_too_long(&users, login);
        }
        let hash = verified?;
        Ok(Authenticated {
            identity: Identity::User(user.clone()),
            applications: Vec::new(),
            expires: None,
            subject: TokenSubject::User { name: user, hash },
        })
    }

    /// Tells the operator, once a day for each user, why such a password is always wrong: whoever
    /// made the hash may not have noticed that the password was cut.
    fn tell_if_too_long(&self, users: &Users, login: PasswordLogin<'_>) {
        let PasswordLogin { user, password, .. } = login;
        let Some(hash) = users.get(user).filter(|hash| hash.would_cut(password.expose())) else {
            return;
        };
        let print = hash.fingerprint();
        if !self.told_too_long.contains(&print) {
            self.told_too_long.insert(print, (), TOLD_TOO_LONG_AGAIN);
            warn!(
                user,
                "a password of more than 72 bytes was refused: the user's hash is bcrypt, which \
                 looks at no more than that; take a shorter password, or an argon2id hash"
            );
        }
    }

    fn by_licence(
        &self,
        user: &str,
        token: &str,
        issuer: Option<&str>,
    ) -> Result<Authenticated, Rejection> {
        let issuer = issuer.ok_or(Rejection::LicenceInvalid(LicenceRefusal::Issuer))?;
        let verified = self.keys.load().verify(token, issuer);
        let SignedLicence { licence, key } = verified.map_err(Rejection::LicenceInvalid)?;
        if user != licence.id.as_str() && Some(user) != licence.email.as_deref() {
            return Err(Rejection::LicenceUserMismatch(licence.id));
        }
        self.check(&licence.term(), Some(issuer))?;
        Ok(Authenticated {
            subject: TokenSubject::Licence(RunningLicence::new(&licence, &key)),
            identity: Identity::Licence(licence.id),
            applications: licence.applications,
            expires: Some(licence.expires),
        })
    }

    fn by_token(
        &self,
        token: &Secret,
        audience: &str,
        issuer: Option<&str>,
    ) -> Result<Authenticated, Rejection> {
        let subject = self.tokens.load().read(token.expose(), audience)?;
        match &subject {
            TokenSubject::Anonymous => Ok(Authenticated::anonymous()),
            TokenSubject::User { name, hash } => {
                let users = self.users.load();
                if users.get(name).is_none_or(|stored| stored.fingerprint() != *hash) {
                    return Err(Rejection::TokenRevoked { what: format!("user {name}") });
                }
                let (identity, applications) = (Identity::User(name.clone()), Vec::new());
                Ok(Authenticated { identity, applications, expires: None, subject })
            }
            TokenSubject::Licence(licence) => {
                let (term, applications) = self.running_licence(licence, issuer)?;
                let (identity, expires) = (Identity::Licence(term.id), Some(term.expires));
                Ok(Authenticated { identity, applications, expires, subject })
            }
        }
    }

    /// A licence under a running token: its end and its revocation count at once, and so does the
    /// end of its key (ACCESS §4.5).
    fn running_licence(
        &self,
        licence: &RunningLicence,
        issuer: Option<&str>,
    ) -> Result<(Term, Vec<Slug>), Rejection> {
        let (term, key, applications) = licence.read().ok_or(Rejection::TokenInvalid)?;
        if !self.keys.load().knows(&key) {
            return Err(Rejection::TokenRevoked {
                what: format!("the key of licence {}", term.id),
            });
        }
        self.check(&term, issuer)?;
        Ok((term, applications))
    }

    /// Whether the licence is good now; `issuer` is whom to ask if it is not.
    fn check(&self, term: &Term, issuer: Option<&str>) -> Result<(), Rejection> {
        let id = &term.id;
        let ask = issuer.map(|issuer| format!("; ask {issuer}")).unwrap_or_default();
        match term.standing(&self.revocations.load(), self.clock.now()) {
            Standing::Good => Ok(()),
            Standing::NotYet => Err(Rejection::LicenceNotYet(id.clone())),
            Standing::Expired => Err(Rejection::LicenceExpired {
                message: format!("licence {id} expired on {}{ask}", calendar::day(term.expires)),
            }),
            Standing::Revoked { at } => Err(Rejection::LicenceRevoked {
                message: format!("licence {id} was revoked on {}{ask}", calendar::day(at)),
            }),
        }
    }
}

/// What a seal is bound to. No identity and no image holds a line end.
fn context(whom: &Identity, what: &CanonicalName) -> String {
    format!("{whom}\n{what}")
}

impl Authenticated {
    pub(crate) fn anonymous() -> Self {
        Self {
            identity: Identity::Anonymous,
            applications: Vec::new(),
            expires: None,
            subject: TokenSubject::Anonymous,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::token::TOKEN_LIFE;
    use crate::licence::{Licence, LicenceId, PrivateKey};
    use crate::oci::{Repository, UpstreamName};

    const ISSUER: &str = "Acme Inc.";
    const HOST: &str = "registry.example.com";
    /// `htpasswd -nbB -C 4 ci secret`
    const CI: &str = "ci:$2y$04$9.jo8ITCZ3aWJrApmzvVAeSwEupNWwEqyRkmMOUsXUcT.1NEh836q";

    fn key(letter: &str) -> Secret {
        Secret::new(letter.repeat(32))
    }

    /// Knows `ci` and the vendor's key; it is the second 1,500.
    fn gatekeeper() -> (Gatekeeper, PrivateKey, Clock) {
        let clock = Clock::manual(Duration::from_mins(25));
        let gatekeeper = Gatekeeper::new(&key("k"), clock.clone()).expect("a key");
        gatekeeper.set_users(Users::parse(CI).expect("a user"));
        let vendor = PrivateKey::generate().expect("randomness");
        gatekeeper.set_public_keys(PublicKeys::new(vec![vendor.public().clone()]));
        (gatekeeper, vendor, clock)
    }

    /// From the second 1,000 to 2,000.
    fn acme() -> Licence {
        let at = |seconds| Timestamp::from_unix(Duration::from_secs(seconds));
        Licence {
            id: LicenceId::parse("acme-prod").expect("an id"),
            issuer: ISSUER.to_owned(),
            customer: "Acme GmbH".to_owned(),
            email: Some("ops@acme.test".to_owned()),
            applications: vec![Slug::parse("myapp").expect("a slug")],
            hosts: vec![HOST.to_owned()],
            issued: at(1_000),
            not_before: at(1_000),
            expires: at(2_000),
        }
    }

    async fn found(
        gatekeeper: &Gatekeeper,
        credential: &ClientCredential,
    ) -> Result<Authenticated, Rejection> {
        let (address, deadline) = ([192, 0, 2, 1].into(), Instant::now() + Duration::from_secs(25));
        let issuer = Some(ISSUER);
        let presented =
            PresentedCredential { credential, address, audience: HOST, issuer, deadline };
        gatekeeper.authenticate(presented).await
    }

    fn basic(user: &str, password: &str) -> ClientCredential {
        ClientCredential::basic(user.to_owned(), password.to_owned())
    }

    fn token(gatekeeper: &Gatekeeper, to: &Authenticated) -> ClientCredential {
        ClientCredential::Bearer(gatekeeper.issue(to, HOST, TOKEN_LIFE).token)
    }

    #[tokio::test]
    async fn a_users_token_is_good_until_the_password_changes() {
        let (gatekeeper, _, _) = gatekeeper();
        let ci = found(&gatekeeper, &basic("ci", "secret")).await.expect("the right password");
        assert_eq!(ci.identity, Identity::User("ci".to_owned()));
        let wrong = found(&gatekeeper, &basic("ci", "Secret")).await;
        assert_eq!(wrong, Err(Rejection::WrongPassword));
        let token = token(&gatekeeper, &ci);
        assert_eq!(found(&gatekeeper, &token).await, Ok(ci));
        let changed = format!("ci:{}", bcrypt::hash("secret", 4).expect("a hash"));
        for users in [changed.as_str(), ""] {
            gatekeeper.set_users(Users::parse(users).expect("users"));
            let revoked = found(&gatekeeper, &token).await;
            assert!(matches!(revoked, Err(Rejection::TokenRevoked { .. })), "{revoked:?}");
        }
    }

    #[tokio::test]
    async fn a_licence_goes_by_its_id_or_email_and_is_never_taken_for_a_password() {
        let (gatekeeper, vendor, _) = gatekeeper();
        let licence = vendor.sign(&acme()).expect("a licence");
        for user in ["acme-prod", "ops@acme.test"] {
            let acme = found(&gatekeeper, &basic(user, &licence)).await.expect(user);
            assert_eq!(acme.identity, Identity::Licence(self::acme().id));
            assert_eq!(acme.applications, self::acme().applications);
            assert_eq!(acme.expires, Some(self::acme().expires));
            assert_eq!(found(&gatekeeper, &token(&gatekeeper, &acme)).await, Ok(acme));
        }
        let mismatch = Rejection::LicenceUserMismatch(acme().id);
        assert_eq!(found(&gatekeeper, &basic("eve", &licence)).await, Err(mismatch));
        let stranger = PrivateKey::generate().expect("randomness");
        let forged = stranger.sign(&acme()).expect("a licence");
        let refused = found(&gatekeeper, &basic("acme-prod", &forged)).await;
        assert_eq!(refused, Err(Rejection::LicenceInvalid(LicenceRefusal::UnknownKey)));
    }

    #[tokio::test]
    async fn a_licence_ends_with_its_time_its_key_and_its_revocation_also_under_a_token() {
        let (gatekeeper, vendor, clock) = gatekeeper();
        let login = basic("acme-prod", &vendor.sign(&acme()).expect("a licence"));
        let token = token(&gatekeeper, &found(&gatekeeper, &login).await.expect("good"));
        let revoked = Revocations::parse("acme-prod 1970-01-01T00:30:00Z").expect("a list");
        gatekeeper.set_revocations(revoked.clone());
        assert_eq!(*gatekeeper.revocations(), revoked);
        for credential in [&login, &token] {
            let refused = found(&gatekeeper, credential).await;
            assert!(matches!(refused, Err(Rejection::LicenceRevoked { .. })), "{refused:?}");
        }
        gatekeeper.set_revocations(Revocations::default());
        assert!(found(&gatekeeper, &token).await.is_ok());
        gatekeeper.set_public_keys(PublicKeys::default());
        let refused = found(&gatekeeper, &token).await;
        assert!(matches!(refused, Err(Rejection::TokenRevoked { .. })), "{refused:?}");
        gatekeeper.set_public_keys(PublicKeys::new(vec![vendor.public().clone()]));
        clock.advance(Duration::from_secs(500));
        for credential in [&login, &token] {
            let refused = found(&gatekeeper, credential).await;
            assert!(matches!(refused, Err(Rejection::LicenceExpired { .. })), "{refused:?}");
        }
        let later = Licence { not_before: acme().expires.plus(TOKEN_LIFE), ..acme() };
        let later = Licence { expires: later.not_before.plus(TOKEN_LIFE), ..later };
        let login = basic("acme-prod", &vendor.sign(&later).expect("a licence"));
        assert_eq!(found(&gatekeeper, &login).await, Err(Rejection::LicenceNotYet(acme().id)));
    }

    #[tokio::test]
    async fn a_new_key_signs_and_seals_and_the_one_before_is_still_read() {
        let (gatekeeper, _, clock) = gatekeeper();
        let ci = found(&gatekeeper, &basic("ci", "secret")).await.expect("the right password");
        let upstream = UpstreamName::parse("registry.test").expect("a name");
        let name = |repository| CanonicalName {
            upstream: upstream.clone(),
            repository: Repository::parse(repository).expect("a repository"),
        };
        let (app, other) = (name("acme/app"), name("acme/other"));
        let sealed = gatekeeper.seal("where", &ci.identity, &app).expect("randomness");
        let before = token(&gatekeeper, &ci);
        assert!(gatekeeper.renewed_keys(&key("k")).expect("a key").is_none(), "the same");
        gatekeeper.set_keys(gatekeeper.renewed_keys(&key("n")).expect("a key"));
        assert_eq!(found(&gatekeeper, &before).await, Ok(ci.clone()));
        let opened = gatekeeper.unseal(&sealed, &ci.identity, &app);
        assert_eq!(opened.as_deref(), Some("where"));
        assert_eq!(gatekeeper.unseal(&sealed, &Identity::Anonymous, &app), None);
        assert_eq!(gatekeeper.unseal(&sealed, &ci.identity, &other), None);
        let another = Gatekeeper::new(&key("n"), clock).expect("a key");
        another.set_users(Users::parse(CI).expect("a user"));
        assert_eq!(found(&another, &token(&gatekeeper, &ci)).await, Ok(ci.clone()));
        assert_eq!(found(&another, &before).await, Err(Rejection::TokenInvalid));
        let sealed = gatekeeper.seal("there", &ci.identity, &app).expect("randomness");
        assert_eq!(another.unseal(&sealed, &ci.identity, &app).as_deref(), Some("there"));
    }
}
