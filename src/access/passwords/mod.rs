//! Checking passwords without letting strangers spend our processor (ACCESS §5.3, RELIABILITY
//! §2.6).
//!
//! A right password that was checked in the last minutes is known by a keyed hash of it, and costs
//! nothing more. Everything else goes to one thread (`hashing`), which takes calm attempts first
//! and rests after failures (`lanes`); whoever has failed too often is turned away before
//! (`failures`). Equal attempts under way are one.
//!
//! What this guarantees while strangers guess: a right login comes next, behind others of its kind,
//! if neither its address nor its name has failed within a minute, or if this user has logged in
//! from this address before. A name that somebody guesses at comes after those, but before every
//! address that has failed or was turned away lately; among addresses as new as its own it is one
//! of many, for nothing tells it from theirs before it is hashed.

mod failures;
mod hashing;
mod lanes;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use tokio::time::{Instant, sleep_until, timeout};

use self::failures::{Failures, Source};
use self::hashing::{Attempt, Hashing};
use super::users::{StoredHash, Users};
use crate::clock::Clock;
use crate::expiring::ExpiringCache;
use crate::secret::Secret;

const REMEMBERED: u64 = 1024;
const REMEMBERED_FOR: Duration = Duration::from_mins(5);
/// How long an attempt waits for the thread; suspects may never have their turn.
const PATIENCE: Duration = Duration::from_secs(10);
/// When to come back if there was no room, or no time.
const CROWDED: Duration = Duration::from_secs(2);

/// What came of a login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// With the fingerprint of the hash that it was checked against.
    Right {
        fingerprint: String,
    },
    Wrong,
    /// Not looked at: too many failures, or too much to do.
    Later {
        retry_after: Duration,
    },
}

/// Checks passwords; one for the process.
#[derive(Debug)]
pub(super) struct Passwords {
    hashing: Hashing,
    secret: hmac::Key,
    verified: ExpiringCache<Key, ()>,
    failures: Arc<Failures>,
}

/// An attempt: user, stored hash and password, under a key that lives as long as the process.
type Key = [u8; 32];

impl Passwords {
    /// Starts the thread, which ends with the value.
    ///
    /// # Errors
    /// If the system gives no randomness or no thread.
    pub(super) fn new(clock: Clock) -> std::io::Result<Self> {
        let secret = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
            .map_err(|_| std::io::Error::other("the system gives no randomness"))?;
        let failures = Arc::new(Failures::new(clock.clone()));
        Ok(Self {
            hashing: Hashing::start(Arc::clone(&failures))?,
            secret,
            verified: ExpiringCache::new(REMEMBERED, clock),
            failures,
        })
    }

    /// Whether this is the user's password. That it is not is answered after a time that tells
    /// nothing of whether there is such a user, and of how much there was to hash.
    pub(super) async fn verify(
        &self,
        users: &Users,
        source: IpAddr,
        user: &str,
        password: &Secret,
    ) -> Verdict {
        let asked = Instant::now();
        let verdict = self.check(users, source.into(), user, password).await;
        if verdict == Verdict::Wrong {
            sleep_until(asked + users.ample()).await;
        }
        verdict
    }

    async fn check(&self, users: &Users, source: Source, user: &str, password: &Secret) -> Verdict {
        let (known, hash) = match (users.get(user), users.decoy()) {
            (Some(hash), _) => (true, hash),
            (None, Some(decoy)) => (false, decoy),
            (None, None) => return Verdict::Wrong,
        };
        if let Some(retry_after) = self.failures.locked_out(source, user) {
            return Verdict::Later { retry_after };
        }
        let key = self.key(user, hash, password);
        if known && self.is_remembered(&key) {
            return Verdict::Right { fingerprint: hash.fingerprint() };
        }
        // No password has a zero byte, and C programs that wrote the hash would have stopped there.
        if password.expose().contains('\0') {
            self.failures.count(source, user);
            return Verdict::Wrong;
        }
        let attempt =
            Attempt { user: user.into(), hash: hash.clone(), password: password.clone(), known };
        let verdict = self.hash(key, source, attempt).await;
        if matches!(verdict, Verdict::Right { .. }) {
            self.verified.insert(key, (), REMEMBERED_FOR);
        }
        verdict
    }

    async fn hash(&self, key: Key, source: Source, attempt: Attempt) -> Verdict {
        let later = Verdict::Later { retry_after: CROWDED };
        let Some(verdict) = self.hashing.join(key, source, attempt) else { return later };
        // Its turn may not come, and the thread may end.
        timeout(PATIENCE, verdict).await.ok().and_then(Result::ok).unwrap_or(later)
    }

    fn key(&self, user: &str, hash: &StoredHash, password: &Secret) -> Key {
        let mut context = hmac::Context::with_key(&self.secret);
        for part in [user, hash.text(), password.expose()] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        let mut key = Key::default();
        key.copy_from_slice(context.sign().as_ref());
        key
    }

    fn is_remembered(&self, key: &Key) -> bool {
        self.verified.contains(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: &str = "192.0.2.1";

    fn passwords() -> (Passwords, Clock) {
        let clock = Clock::manual(Duration::from_secs(1_000_000));
        (Passwords::new(clock.clone()).expect("a thread"), clock)
    }

    /// `ci` with the password `secret`.
    fn users(cost: u32) -> Users {
        Users::parse(&format!("ci:{}", bcrypt::hash("secret", cost).expect("a hash")))
            .expect("a user")
    }

    async fn login(
        passwords: &Passwords,
        users: &Users,
        source: &str,
        user: &str,
        password: &str,
    ) -> Verdict {
        let password = Secret::new(password.to_owned());
        passwords.verify(users, source.parse().expect(source), user, &password).await
    }

    fn is_right(verdict: &Verdict) -> bool {
        matches!(verdict, Verdict::Right { .. })
    }

    #[tokio::test]
    async fn right_is_right_and_everything_else_is_wrong() {
        let ((passwords, _), users) = (passwords(), users(4));
        let expected = users.get("ci").expect("ci").fingerprint();
        let right = Verdict::Right { fingerprint: expected };
        assert_eq!(login(&passwords, &users, HERE, "ci", "secret").await, right);
        for (user, password) in
            [("ci", "Secret"), ("ci", ""), ("eve", "secret"), ("", "secret"), ("ci", "secret\0")]
        {
            assert_eq!(
                login(&passwords, &users, HERE, user, password).await,
                Verdict::Wrong,
                "{user} {password:?}"
            );
        }
        assert_eq!(
            login(&passwords, &Users::default(), HERE, "ci", "secret").await,
            Verdict::Wrong
        );
    }

    #[tokio::test]
    async fn no_answer_that_it_is_wrong_comes_early() {
        let ((passwords, _), users) = (passwords(), users(4));
        // The first is not hashed, the second and the third are.
        for (source, user, password) in
            [(HERE, "eve", "x"), ("192.0.2.2", "ci", "x"), (HERE, "eve", "y"), (HERE, "", "\0")]
        {
            let asked = Instant::now();
            assert_eq!(login(&passwords, &users, source, user, password).await, Verdict::Wrong);
            assert!(asked.elapsed() >= users.ample(), "{user} {password:?}");
        }
    }

    #[tokio::test]
    async fn five_failures_lock_one_user_out_at_one_address_for_a_minute() {
        let ((passwords, clock), users) = (passwords(), users(4));
        for _ in 0..5 {
            assert_eq!(login(&passwords, &users, HERE, "ci", "wrong").await, Verdict::Wrong);
        }
        clock.advance(Duration::from_secs(20));
        let later = Verdict::Later { retry_after: Duration::from_secs(40) };
        for password in ["wrong", "secret"] {
            assert_eq!(login(&passwords, &users, HERE, "ci", password).await, later);
        }
        assert!(
            is_right(&login(&passwords, &users, "192.0.2.2", "ci", "secret").await),
            "another address"
        );
        assert_eq!(
            login(&passwords, &users, HERE, "eve", "x").await,
            Verdict::Wrong,
            "another user"
        );
        clock.advance(Duration::from_secs(40));
        assert!(is_right(&login(&passwords, &users, HERE, "ci", "secret").await), "a minute later");
    }

    #[tokio::test]
    async fn one_ipv6_customer_is_one_source() {
        let ((passwords, _), users) = (passwords(), users(4));
        for i in 0..5 {
            login(&passwords, &users, &format!("2001:db8:0:1::{i}"), "ci", "wrong").await;
        }
        let verdict = login(&passwords, &users, "2001:db8:0:1::ffff", "ci", "secret").await;
        assert!(matches!(verdict, Verdict::Later { .. }), "{verdict:?}");
        assert!(is_right(&login(&passwords, &users, "2001:db8:0:2::1", "ci", "secret").await));
    }

    #[tokio::test]
    async fn a_remembered_password_waits_for_nobody_and_is_forgotten_in_time() {
        let ((passwords, clock), slow) = (passwords(), users(4));
        assert!(is_right(&login(&passwords, &slow, HERE, "ci", "secret").await));
        passwords.hashing.close();
        assert!(
            is_right(&login(&passwords, &slow, HERE, "ci", "secret").await),
            "without the thread"
        );
        assert!(!passwords.is_remembered(&passwords.key(
            "ci",
            slow.get("ci").expect("ci"),
            &Secret::new("x".into())
        )));
        let changed = users(4);
        let key =
            passwords.key("ci", changed.get("ci").expect("ci"), &Secret::new("secret".into()));
        assert!(!passwords.is_remembered(&key), "a new hash is a new password");
        clock.advance(REMEMBERED_FOR);
        let key = passwords.key("ci", slow.get("ci").expect("ci"), &Secret::new("secret".into()));
        assert!(!passwords.is_remembered(&key));
    }

    #[tokio::test]
    async fn the_password_of_the_decoy_opens_no_unknown_door() {
        let ((passwords, _), users) = (passwords(), users(4));
        assert!(is_right(&login(&passwords, &users, HERE, "ci", "secret").await));
        for _ in 0..2 {
            assert_eq!(login(&passwords, &users, HERE, "eve", "secret").await, Verdict::Wrong);
        }
    }

    #[tokio::test]
    async fn guesses_with_a_zero_byte_are_failures_too() {
        let ((passwords, _), users) = (passwords(), users(4));
        for _ in 0..5 {
            assert_eq!(login(&passwords, &users, HERE, "ci", "secret\0").await, Verdict::Wrong);
        }
        assert!(matches!(
            login(&passwords, &users, HERE, "ci", "secret").await,
            Verdict::Later { .. }
        ));
    }

    #[tokio::test]
    async fn an_attempt_that_nobody_can_take_on_is_told_when_to_come_back() {
        let ((passwords, _), users) = (passwords(), users(4));
        passwords.hashing.close();
        let verdict = login(&passwords, &users, HERE, "ci", "secret").await;
        assert_eq!(verdict, Verdict::Later { retry_after: CROWDED });
    }
}
