//! Checking passwords without letting strangers spend our processor (ACCESS §5.3, RELIABILITY
//! §2.6).
//!
//! A password that was right is recognised by a keyed hash of it and costs nothing more (`right`);
//! one that was wrong at the same address within a minute is known to be wrong (`failures`).
//! Everything else goes to one thread (`hashing`), which takes attempts in an order that strangers
//! cannot buy their way into and rests after failures (`lanes`). A user who has failed with too
//! many passwords from one address is turned away before that. Equal attempts under way are hashed
//! once.
//!
//! What this guarantees while strangers guess:
//!
//! 1. A right login is hashed next, behind others of its kind, if neither its address nor its user
//!    name has failed within a minute. So is one of a user who has logged in from this address
//!    before and not failed there within a minute, whatever others have done there or under this
//!    name since.
//! 2. A right login by a name that somebody guesses at, from a new address, comes after those, but
//!    before every address that has failed or was crowded out lately. Among addresses as new as its
//!    own it is one of many: nothing tells it from a guess before it is hashed.
//! 3. That a password is wrong is answered after a time that does not depend on whether there is
//!    such a user, nor on what was hashed; nor does what others wait for it. A wrong password takes
//!    the thread as long as the slowest hash of all users would.
//! 4. At one user, one address gets at most five hashes a minute, whether its guesses come one by
//!    one or at once, and whether it waits for their answers or not. The same wrong password again
//!    is no other hash and no other failure: a machine with an old one locks nobody out.
//! 5. A login that was right from its address before passes while that address is locked out. What
//!    is remembered of right passwords answers one address at most 300 guesses an hour at each
//!    user: no more than could be hashed in that time. After that it answers nothing there, and a
//!    right password is hashed, or locked out, as one that has never been seen.
//! 6. What is remembered of wrong passwords tells nothing: not in a lockout, not at another
//!    address, and for a name that is nobody's the same is remembered.
//! 7. All of it is bounded, and only right logins take a place among the right ones, so no stranger
//!    can have one of them forgotten.
//! 8. What is remembered belongs to one stored hash. When a user changes the password or is gone,
//!    nothing of it counts any more: what was right is hashed again, and so is what was wrong.

mod attempt;
mod failures;
mod hashing;
mod lanes;
mod right;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use tokio::time::{Instant, sleep_until, timeout_at};

use self::attempt::{Attempt, Verdict};
use self::failures::{Failures, LoginPair, SourceNetwork};
use self::hashing::Hashing;
use self::lanes::AttemptKey;
use self::right::RightPasswords;
use super::rejection::Rejection;
use super::users::{StoredHash, Users};
use crate::clock::Clock;
use crate::secret::Secret;

/// How long an attempt waits for the thread at most. In the last lane its turn may never come.
const HASHING_WAIT_MAX: Duration = Duration::from_secs(10);
/// When to come back if there was no room, or no time.
const OVERLOADED_RETRY_AFTER: Duration = Duration::from_secs(2);

/// Checks passwords; one for the process.
#[derive(Debug)]
pub(super) struct Passwords {
    hashing: Hashing,
    secret: hmac::Key,
    failures: Arc<Failures>,
    right: Arc<RightPasswords>,
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
        let right = Arc::new(RightPasswords::new(clock));
        let hashing = Hashing::start(Arc::clone(&failures), Arc::clone(&right))?;
        Ok(Self { hashing, secret, failures, right })
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
        let pair = self.failures.pair(SourceNetwork::from(login.address), user);
        let key = self.key(user, hash, password);
        let verdict = match self.recall(pair, &key, known.then_some(hash)) {
            Some(verdict) => verdict,
            // No password has a zero byte, and C programs that wrote the hash would have stopped
            // there.
            None if password.expose().contains('\0') => {
                self.failures.count(pair, &key);
                Verdict::Wrong
            }
            None => {
                let (hash, password) = (hash.clone(), password.clone());
                let slowest = users.slowest_hash();
                let attempt = Attempt { hash, password, known, slowest };
                self.hash(key, pair, attempt, login.deadline).await
            }
        };
        match verdict {
            Verdict::Right { fingerprint } => Ok(fingerprint),
            Verdict::Wrong if known => Err(Rejection::WrongPassword),
            Verdict::Wrong => Err(Rejection::UnknownUser),
            Verdict::Throttled { retry_after } => Err(Rejection::Throttled { retry_after }),
            Verdict::CrowdedOut => Err(overloaded()),
        }
    }

    /// What is known of an attempt without hashing it; `hash` is that of a user, none of nobody.
    fn recall(
        &self,
        pair: LoginPair,
        key: &AttemptKey,
        hash: Option<&StoredHash>,
    ) -> Option<Verdict> {
        let locked_out = self.failures.locked_out(pair);
        let throttled = locked_out.map(|retry_after| Verdict::Throttled { retry_after });
        // In a lockout that is no answer, or whoever is locked out could ask what others at the
        // address have tried.
        if self.failures.is_wrong(pair, key) {
            return throttled.or(Some(Verdict::Wrong));
        }
        let right = hash.filter(|_| self.right.recognises(pair, key, locked_out.is_some()));
        right.map(|hash| Verdict::Right { fingerprint: hash.fingerprint() }).or(throttled)
    }

    /// Waits for the thread, whose turn may not come in time, and which may end.
    async fn hash(
        &self,
        key: AttemptKey,
        pair: LoginPair,
        attempt: Attempt,
        deadline: Instant,
    ) -> Verdict {
        let Some(turn) = self.hashing.join(key, pair, attempt) else {
            return Verdict::CrowdedOut;
        };
        let until = deadline.min(Instant::now() + HASHING_WAIT_MAX);
        timeout_at(until, turn).await.ok().and_then(Result::ok).unwrap_or(Verdict::CrowdedOut)
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
}

fn overloaded() -> Rejection {
    Rejection::Overloaded { retry_after: OVERLOADED_RETRY_AFTER }
}

#[cfg(test)]
mod tests {
    use super::right::{COMPARISONS_MAX, VERIFIED_FOR};
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

    /// One with a cheap hash beside one with a dear one: guesses at either take what the dear one
    /// takes, with the rest in between.
    #[tokio::test]
    async fn guesses_at_a_cheap_hash_take_as_long_as_at_a_dear_one() {
        let (passwords, _) = passwords();
        let hash = |cost| bcrypt::hash("secret", cost).expect("a hash");
        let users = Users::parse(&format!("ci:{}\nops:{}", hash(4), hash(10))).expect("users");
        let slowest = users.slowest_hash();
        let started = Instant::now();
        let guess = async |n: u32| {
            let password = format!("wrong {n}");
            let refused = login(&passwords, &users, HERE, "ci", &password).await;
            assert_eq!(refused, Err(Rejection::WrongPassword));
        };
        tokio::join!(guess(1), guess(2), guess(3), guess(4), guess(5));
        let least = slowest * 5 + Duration::from_millis(500);
        assert!(started.elapsed() > least, "{:?}, not {least:?}", started.elapsed());
        let right = Instant::now();
        let other = "192.0.2.9";
        assert!(login(&passwords, &users, other, "ci", "secret").await.is_ok());
        assert!(right.elapsed() < Duration::from_secs(10), "whoever is right does not linger");
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

    /// Five different wrong passwords.
    async fn lock_out(passwords: &Passwords, users: &Users, address: &str, user: &str) {
        for guess in ["1", "2", "3", "4", "5"] {
            assert_eq!(login(passwords, users, address, user, guess).await, Err(wrong(user)));
        }
    }

    #[tokio::test]
    async fn five_wrong_passwords_lock_one_user_out_at_one_address_for_a_minute() {
        let ((passwords, clock), users) = (passwords(), users(4));
        lock_out(&passwords, &users, HERE, "ci").await;
        clock.advance(Duration::from_secs(20));
        let later = Err(Rejection::Throttled { retry_after: Duration::from_secs(40) });
        for password in ["1", "6", "secret"] {
            assert_eq!(login(&passwords, &users, HERE, "ci", password).await, later);
        }
        assert!(
            login(&passwords, &users, "192.0.2.2", "ci", "secret").await.is_ok(),
            "another address"
        );
        assert_eq!(login(&passwords, &users, HERE, "ci", "secret").await, later, "not seen here");
        assert_eq!(
            login(&passwords, &users, HERE, "eve", "x").await,
            Err(Rejection::UnknownUser),
            "another user"
        );
        clock.advance(Duration::from_secs(40));
        assert!(login(&passwords, &users, HERE, "ci", "secret").await.is_ok(), "a minute later");
    }

    #[tokio::test]
    async fn the_same_wrong_password_is_hashed_once_and_is_one_failure() {
        for user in ["ci", "eve"] {
            let ((passwords, clock), users) = (passwords(), users(4));
            assert_eq!(login(&passwords, &users, HERE, user, "old").await, Err(wrong(user)));
            passwords.hashing.close();
            let begun = Instant::now();
            for _ in 0..9 {
                assert_eq!(login(&passwords, &users, HERE, user, "old").await, Err(wrong(user)));
            }
            assert!(begun.elapsed() >= users.wrong_answer_delay() * 9, "and no answer is early");
            clock.advance(Duration::from_mins(1));
            assert_eq!(
                login(&passwords, &users, HERE, user, "old").await,
                Err(overloaded()),
                "after a minute it would be hashed again"
            );
        }
    }

    #[tokio::test]
    async fn what_was_right_from_there_passes_in_a_lockout_whatever_strangers_have_done() {
        let ((passwords, clock), users) = (passwords(), users(4));
        assert!(login(&passwords, &users, HERE, "ci", "secret").await.is_ok());
        clock.advance(VERIFIED_FOR);
        lock_out(&passwords, &users, HERE, "ci").await;
        // More strangers than there are places for right passwords from anywhere.
        let hash = users.get("ci").expect("ci");
        for number in 0..2_000 {
            let source = IpAddr::from(std::net::Ipv4Addr::from_bits(0x0a00_0000 + number)).into();
            let (pair, guess) = (passwords.failures.pair(source, "ci"), [1; 32]);
            assert_eq!(passwords.recall(pair, &guess, Some(hash)), None);
            passwords.failures.count(pair, &guess);
        }
        passwords.hashing.close();
        assert!(login(&passwords, &users, HERE, "ci", "secret").await.is_ok());
        let elsewhere = login(&passwords, &users, "192.0.2.2", "ci", "secret").await;
        assert_eq!(elsewhere, Err(overloaded()), "it would have to be hashed");
    }

    /// Otherwise a lockout would stop nobody who guesses at a password that is in use.
    #[tokio::test]
    async fn a_lockout_lets_nobody_find_what_is_remembered() {
        let ((passwords, clock), users) = (passwords(), users(4));
        assert!(login(&passwords, &users, HERE, "ci", "secret").await.is_ok());
        lock_out(&passwords, &users, HERE, "ci").await;
        let throttled = |answer| matches!(answer, Err(Rejection::Throttled { .. }));
        for number in 0..COMPARISONS_MAX {
            let guess = format!("guess {number}");
            assert!(throttled(login(&passwords, &users, HERE, "ci", &guess).await), "{guess}");
        }
        assert!(throttled(login(&passwords, &users, HERE, "ci", "secret").await));
        clock.advance(Duration::from_mins(1));
        assert!(login(&passwords, &users, HERE, "ci", "secret").await.is_ok(), "hashed");
        lock_out(&passwords, &users, HERE, "ci").await;
        assert!(login(&passwords, &users, HERE, "ci", "secret").await.is_ok(), "known anew");
    }

    #[tokio::test]
    async fn a_new_hash_or_none_ends_what_was_remembered() {
        let ((passwords, _), before) = (passwords(), users(4));
        assert!(login(&passwords, &before, HERE, "ci", "secret").await.is_ok());
        assert_eq!(login(&passwords, &before, HERE, "ci", "newer").await, Err(wrong("ci")));
        let hash = bcrypt::hash("newer", 4).expect("a hash");
        let after = Users::parse(&format!("ci:{hash}")).expect("a user");
        assert_eq!(login(&passwords, &after, HERE, "ci", "secret").await, Err(wrong("ci")));
        assert!(login(&passwords, &after, HERE, "ci", "newer").await.is_ok());
        // Somebody else has a copy of the line, and it is what strangers are checked against.
        let gone = Users::parse(&format!("copy:{hash}")).expect("a user");
        assert_eq!(
            login(&passwords, &gone, HERE, "ci", "newer").await,
            Err(Rejection::UnknownUser)
        );
    }

    #[tokio::test]
    async fn one_ipv6_customer_is_one_source() {
        let ((passwords, _), users) = (passwords(), users(4));
        for i in 0..5 {
            let address = format!("2001:db8:0:1::{i}");
            let answer = login(&passwords, &users, &address, "ci", &format!("wrong {i}")).await;
            assert_eq!(answer, Err(wrong("ci")));
        }
        let verdict = login(&passwords, &users, "2001:db8:0:1::ffff", "ci", "secret").await;
        assert!(matches!(verdict, Err(Rejection::Throttled { .. })), "{verdict:?}");
        assert!(login(&passwords, &users, "2001:db8:0:2::1", "ci", "secret").await.is_ok());
    }

    #[tokio::test]
    async fn a_remembered_password_waits_for_nobody_and_elsewhere_is_forgotten_in_time() {
        let ((passwords, clock), users) = (passwords(), users(4));
        assert!(login(&passwords, &users, HERE, "ci", "secret").await.is_ok());
        passwords.hashing.close();
        for address in [HERE, "192.0.2.2"] {
            let answer = login(&passwords, &users, address, "ci", "secret").await;
            assert!(answer.is_ok(), "{address}: without the thread");
        }
        clock.advance(VERIFIED_FOR);
        let answer = login(&passwords, &users, "192.0.2.3", "ci", "secret").await;
        assert_eq!(answer, Err(overloaded()));
        assert!(login(&passwords, &users, "192.0.2.2", "ci", "secret").await.is_ok());
    }

    #[tokio::test]
    async fn the_password_of_the_decoy_opens_no_unknown_door() {
        let ((passwords, _), users) = (passwords(), users(4));
        assert!(login(&passwords, &users, HERE, "ci", "secret").await.is_ok());
        for _ in 0..2 {
            assert_eq!(login(&passwords, &users, HERE, "eve", "secret").await, Err(wrong("eve")));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_comes_at_the_deadline_is_in_time() {
        let ((passwords, _), users) = (passwords(), Users::default());
        let nobody = (HERE, "eve", "x");
        let answer = login_until(Instant::now(), &passwords, &users, nobody).await;
        assert_eq!(answer, Err(Rejection::UnknownUser));
    }

    #[tokio::test]
    async fn guesses_with_a_zero_byte_are_failures_too() {
        let ((passwords, _), users) = (passwords(), users(4));
        // They need no hash.
        passwords.hashing.close();
        for guess in ["1\0", "2\0", "3\0", "4\0", "secret\0"] {
            assert_eq!(login(&passwords, &users, HERE, "ci", guess).await, Err(wrong("ci")));
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
