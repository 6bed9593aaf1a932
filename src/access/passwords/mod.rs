//! Checking passwords without letting strangers spend our processor (ACCESS §5.3, RELIABILITY
//! §2.6).
//!
//! A right password that was checked in the last minutes is recognised by a keyed hash of it, and
//! costs nothing more. Everything else goes to one thread (`hashing`), which takes attempts in an
//! order that strangers cannot buy their way into and rests after failures (`lanes`). A user who
//! has failed too often from one address is turned away before that (`failures`). Equal attempts
//! under way are hashed once.
//!
//! What this guarantees while strangers guess:
//!
//! 1. A right login is hashed next, behind others of its kind, if neither its address nor its user
//!    name has failed within a minute.
//! 2. So is one of a user who has logged in from this address before, whatever others have done
//!    there or under this name since.
//! 3. A right login by a name that somebody guesses at, from a new address, comes after those, but
//!    before every address that has failed or was crowded out lately. Among addresses as new as its
//!    own it is one of many: nothing tells it from a guess before it is hashed.
//! 4. That a password is wrong is answered after a time that does not depend on whether there is
//!    such a user, nor on what was hashed.

mod failures;
mod hashing;
mod lanes;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use tokio::time::{Instant, sleep_until, timeout_at};

use self::failures::{Failures, SourceNetwork};
use self::hashing::{Attempt, Hashing, Verdict};
use self::lanes::AttemptKey;
use super::rejection::Rejection;
use super::users::{StoredHash, Users};
use crate::clock::Clock;
use crate::expiring::ExpiringCache;
use crate::secret::Secret;

/// Right passwords that are recognised, and for how long.
const VERIFIED_MAX: u64 = 1024;
const VERIFIED_FOR: Duration = Duration::from_mins(5);
/// How long an attempt waits for the thread at most. In the last lane its turn may never come.
const HASHING_WAIT_MAX: Duration = Duration::from_secs(10);
/// When to come back if there was no room, or no time.
const OVERLOADED_RETRY_AFTER: Duration = Duration::from_secs(2);

/// Checks passwords; one for the process.
#[derive(Debug)]
pub(super) struct Passwords {
    hashing: Hashing,
    secret: hmac::Key,
    /// Right passwords, under the keys of their attempts.
    verified: ExpiringCache<AttemptKey, ()>,
    failures: Arc<Failures>,
}

/// One login by user and password.
#[derive(Clone, Copy, Debug)]
pub(super) struct PasswordLogin<'a> {
    pub(super) address: IpAddr,
    pub(super) user: &'a str,
    pub(super) password: &'a Secret,
    /// Until when an answer is wanted.
    pub(super) deadline: Instant,
}

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
            verified: ExpiringCache::new(VERIFIED_MAX, clock),
            failures,
        })
    }

    /// Checks a password; the answer is the fingerprint of the hash that it was checked against.
    /// Waits for the thread until the deadline, 10 s at most.
    ///
    /// # Errors
    /// [`Rejection::UnknownUser`] and [`Rejection::WrongPassword`] both at the same time after the
    /// call, [`Rejection::Throttled`] at once, [`Rejection::Overloaded`] if there was no room or no
    /// time.
    pub(super) async fn verify(
        &self,
        users: &Users,
        login: PasswordLogin<'_>,
    ) -> Result<String, Rejection> {
        let wrong_at = Instant::now() + users.wrong_answer_delay();
        let checked = self.check(users, login).await;
        if let Err(Rejection::UnknownUser | Rejection::WrongPassword) = checked {
            // A client may leave less time than that, by sending a form slowly. The user would be
            // unknown or hashed in time or not: only the same answer for all three keeps that
            // secret.
            if login.deadline < wrong_at {
                sleep_until(login.deadline).await;
                return Err(overloaded());
            }
            sleep_until(wrong_at).await;
        }
        checked
    }

    async fn check(&self, users: &Users, login: PasswordLogin<'_>) -> Result<String, Rejection> {
        let PasswordLogin { user, password, .. } = login;
        let (known, hash) = match (users.get(user), users.decoy()) {
            (Some(hash), _) => (true, hash),
            (None, Some(decoy)) => (false, decoy),
            (None, None) => return Err(Rejection::UnknownUser),
        };
        let wrong = || if known { Rejection::WrongPassword } else { Rejection::UnknownUser };
        let source = SourceNetwork::from(login.address);
        if let Some(retry_after) = self.failures.locked_out(source, user) {
            return Err(Rejection::Throttled { retry_after });
        }
        let key = self.key(user, hash, password);
        if known && self.is_verified(&key) {
            return Ok(hash.fingerprint());
        }
        // No password has a zero byte, and C programs that wrote the hash would have stopped there.
        if password.expose().contains('\0') {
            self.failures.count(source, user);
            return Err(wrong());
        }
        let attempt =
            Attempt { user: user.into(), hash: hash.clone(), password: password.clone(), known };
        let turn = self.hashing.join(key, source, attempt).ok_or_else(overloaded)?;
        let until = login.deadline.min(Instant::now() + HASHING_WAIT_MAX);
        // Its turn may not come in time, and the thread may end.
        let verdict = timeout_at(until, turn).await.ok().and_then(Result::ok);
        match verdict.unwrap_or(Verdict::CrowdedOut) {
            Verdict::Right { fingerprint } => {
                self.verified.insert(key, (), VERIFIED_FOR);
                Ok(fingerprint)
            }
            Verdict::Wrong => Err(wrong()),
            Verdict::Throttled { retry_after } => Err(Rejection::Throttled { retry_after }),
            Verdict::CrowdedOut => Err(overloaded()),
        }
    }

    /// What is told apart are user, stored hash and password; each with its length before it, so
    /// that no two triples run together.
    fn key(&self, user: &str, hash: &StoredHash, password: &Secret) -> AttemptKey {
        let mut context = hmac::Context::with_key(&self.secret);
        for part in [user, hash.text(), password.expose()] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        let mut key = AttemptKey::default();
        key.copy_from_slice(context.sign().as_ref());
        key
    }

    fn is_verified(&self, key: &AttemptKey) -> bool {
        self.verified.contains(key)
    }
}

fn overloaded() -> Rejection {
    Rejection::Overloaded { retry_after: OVERLOADED_RETRY_AFTER }
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

    fn wrong(user: &str) -> Rejection {
        if user == "ci" { Rejection::WrongPassword } else { Rejection::UnknownUser }
    }

    async fn login(
        passwords: &Passwords,
        users: &Users,
        address: &str,
        user: &str,
        password: &str,
    ) -> Result<String, Rejection> {
        let deadline = Instant::now() + Duration::from_secs(25);
        login_until(deadline, passwords, users, (address, user, password)).await
    }

    async fn login_until(
        deadline: Instant,
        passwords: &Passwords,
        users: &Users,
        (address, user, password): (&str, &str, &str),
    ) -> Result<String, Rejection> {
        let password = &Secret::new(password.to_owned());
        let address = address.parse().expect(address);
        passwords.verify(users, PasswordLogin { address, user, password, deadline }).await
    }

    #[tokio::test]
    async fn right_is_right_and_everything_else_is_wrong() {
        let ((passwords, _), users) = (passwords(), users(4));
        let expected = users.get("ci").expect("ci").fingerprint();
        assert_eq!(login(&passwords, &users, HERE, "ci", "secret").await, Ok(expected));
        for (user, password, reason) in [
            ("ci", "Secret", Rejection::WrongPassword),
            ("ci", "", Rejection::WrongPassword),
            ("eve", "secret", Rejection::UnknownUser),
            ("", "secret", Rejection::UnknownUser),
            ("ci", "secret\0", Rejection::WrongPassword),
        ] {
            assert_eq!(
                login(&passwords, &users, HERE, user, password).await,
                Err(reason),
                "{user} {password:?}"
            );
        }
        assert_eq!(
            login(&passwords, &Users::default(), HERE, "ci", "secret").await,
            Err(Rejection::UnknownUser)
        );
    }

    #[tokio::test]
    async fn no_answer_that_it_is_wrong_comes_early() {
        let ((passwords, _), users) = (passwords(), users(4));
        // The first is not hashed, the second and the third are.
        for (source, user, password) in
            [(HERE, "eve", "x"), ("192.0.2.2", "ci", "x"), (HERE, "eve", "y"), (HERE, "", "\0")]
        {
            let begun = Instant::now();
            let answer = login(&passwords, &users, source, user, password).await;
            assert_eq!(answer, Err(wrong(user)));
            assert!(begun.elapsed() >= users.wrong_answer_delay(), "{user} {password:?}");
        }
    }

    #[tokio::test]
    async fn who_leaves_too_little_time_does_not_learn_who_is_a_user() {
        let ((passwords, _), users) = (passwords(), users(4));
        let deadline = Instant::now() + users.wrong_answer_delay() / 2;
        for user in ["ci", "eve"] {
            let guess = ("192.0.2.2", user, "wrong");
            let answer = login_until(deadline, &passwords, &users, guess).await;
            assert_eq!(answer, Err(overloaded()), "{user}");
            assert!(Instant::now() >= deadline);
        }
        assert!(Instant::now() < deadline + HASHING_WAIT_MAX, "nothing waits past it");
        let right = (HERE, "ci", "secret");
        assert!(login(&passwords, &users, HERE, "ci", "secret").await.is_ok());
        assert!(login_until(deadline, &passwords, &users, right).await.is_ok(), "without waiting");
    }

    #[tokio::test]
    async fn an_attempt_waits_for_its_turn_no_longer_than_its_deadline() {
        let ((passwords, _), users) = (passwords(), users(4));
        passwords.hashing.stall();
        let begun = Instant::now();
        let deadline = begun + Duration::from_millis(50);
        let answer = login_until(deadline, &passwords, &users, (HERE, "ci", "secret")).await;
        assert_eq!(answer, Err(overloaded()));
        assert!((deadline..begun + Duration::from_secs(5)).contains(&Instant::now()));
    }

    #[tokio::test]
    async fn five_failures_lock_one_user_out_at_one_address_for_a_minute() {
        let ((passwords, clock), users) = (passwords(), users(4));
        for _ in 0..5 {
            assert_eq!(login(&passwords, &users, HERE, "ci", "wrong").await, Err(wrong("ci")));
        }
        clock.advance(Duration::from_secs(20));
        let later = Err(Rejection::Throttled { retry_after: Duration::from_secs(40) });
        for password in ["wrong", "secret"] {
            assert_eq!(login(&passwords, &users, HERE, "ci", password).await, later);
        }
        assert!(
            login(&passwords, &users, "192.0.2.2", "ci", "secret").await.is_ok(),
            "another address"
        );
        assert_eq!(
            login(&passwords, &users, HERE, "eve", "x").await,
            Err(Rejection::UnknownUser),
            "another user"
        );
        clock.advance(Duration::from_secs(40));
        assert!(login(&passwords, &users, HERE, "ci", "secret").await.is_ok(), "a minute later");
    }

    #[tokio::test]
    async fn one_ipv6_customer_is_one_source() {
        let ((passwords, _), users) = (passwords(), users(4));
        for i in 0..5 {
            let address = format!("2001:db8:0:1::{i}");
            let answer = login(&passwords, &users, &address, "ci", "wrong").await;
            assert_eq!(answer, Err(wrong("ci")));
        }
        let verdict = login(&passwords, &users, "2001:db8:0:1::ffff", "ci", "secret").await;
        assert!(matches!(verdict, Err(Rejection::Throttled { .. })), "{verdict:?}");
        assert!(login(&passwords, &users, "2001:db8:0:2::1", "ci", "secret").await.is_ok());
    }

    #[tokio::test]
    async fn a_remembered_password_waits_for_nobody_and_is_forgotten_in_time() {
        let ((passwords, clock), slow) = (passwords(), users(4));
        assert!(login(&passwords, &slow, HERE, "ci", "secret").await.is_ok());
        passwords.hashing.close();
        assert!(login(&passwords, &slow, HERE, "ci", "secret").await.is_ok(), "without the thread");
        assert!(!passwords.is_verified(&passwords.key(
            "ci",
            slow.get("ci").expect("ci"),
            &Secret::new("x".into())
        )));
        let changed = users(4);
        let key =
            passwords.key("ci", changed.get("ci").expect("ci"), &Secret::new("secret".into()));
        assert!(!passwords.is_verified(&key), "a new hash is a new password");
        clock.advance(VERIFIED_FOR);
        let key = passwords.key("ci", slow.get("ci").expect("ci"), &Secret::new("secret".into()));
        assert!(!passwords.is_verified(&key));
    }

    #[tokio::test]
    async fn the_password_of_the_decoy_opens_no_unknown_door() {
        let ((passwords, _), users) = (passwords(), users(4));
        assert!(login(&passwords, &users, HERE, "ci", "secret").await.is_ok());
        for _ in 0..2 {
            assert_eq!(login(&passwords, &users, HERE, "eve", "secret").await, Err(wrong("eve")));
        }
    }

    #[tokio::test]
    async fn guesses_with_a_zero_byte_are_failures_too() {
        let ((passwords, _), users) = (passwords(), users(4));
        for _ in 0..5 {
            assert_eq!(login(&passwords, &users, HERE, "ci", "secret\0").await, Err(wrong("ci")));
        }
        assert!(matches!(
            login(&passwords, &users, HERE, "ci", "secret").await,
            Err(Rejection::Throttled { .. })
        ));
    }

    #[tokio::test]
    async fn an_attempt_that_nobody_can_take_on_is_told_when_to_come_back() {
        let ((passwords, _), users) = (passwords(), users(4));
        passwords.hashing.close();
        let verdict = login(&passwords, &users, HERE, "ci", "secret").await;
        assert_eq!(verdict, Err(overloaded()));
    }
}
