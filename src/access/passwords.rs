//! Checking passwords without letting strangers spend our processor (ACCESS §5.3, RELIABILITY §2.6).
//!
//! A right password that was checked in the last minutes is known by a keyed hash of it. Everything else goes to one
//! thread, by one of two short queues: those whose address has failed lately wait behind the others. After a failure the
//! thread rests for three times what it took, so that failures cost at most a quarter of a core, however many there are.
//! Equal attempts under way are one.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use moka::sync::Cache;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::users::{StoredHash, Users};
use crate::clock::{Clock, Timestamp};
use crate::config::Secret;

const REMEMBERED: u64 = 1024;
const REMEMBERED_FOR: Duration = Duration::from_mins(5);
/// Failures of one user from one address in [`WINDOW`].
const FAILURES: u32 = 5;
const WINDOW: Duration = Duration::from_mins(1);
/// Addresses and users whose failures are counted.
const COUNTED: u64 = 65_536;
const QUEUE: usize = 8;
/// Rest after a failure, in multiples of what it took.
const REST: u32 = 3;
const QUEUE_IS_FULL: Duration = Duration::from_secs(2);

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
    shared: Arc<Shared>,
    secret: hmac::Key,
    clock: Clock,
    verified: Cache<Key, Timestamp>,
    failures: Cache<(IpAddr, Box<str>), Failures>,
    /// Addresses that have failed lately.
    suspects: Cache<IpAddr, Timestamp>,
}

/// An attempt: user, stored hash and password, under a key that lives as long as the process.
type Key = [u8; 32];

#[derive(Clone, Copy, Debug)]
struct Failures {
    since: Timestamp,
    count: u32,
}

#[derive(Debug, Default)]
struct Shared {
    work: Mutex<Work>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Work {
    jobs: HashMap<Key, Job>,
    calm: VecDeque<Key>,
    suspect: VecDeque<Key>,
    closed: bool,
}

#[derive(Debug)]
struct Job {
    hash: StoredHash,
    password: Secret,
    waiting: Vec<oneshot::Sender<bool>>,
}

impl Passwords {
    /// Starts the thread, which ends with the value.
    ///
    /// # Errors
    /// If the system gives no randomness or no thread.
    pub(super) fn new(clock: Clock) -> std::io::Result<Self> {
        let secret = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
            .map_err(|_| std::io::Error::other("the system gives no randomness"))?;
        let shared = Arc::new(Shared::default());
        let worker = Arc::clone(&shared);
        std::thread::Builder::new().name("passwords".to_owned()).spawn(move || worker.run())?;
        let bounded = |entries| Cache::builder().max_capacity(entries);
        Ok(Self {
            shared,
            secret,
            clock,
            verified: bounded(REMEMBERED).time_to_live(REMEMBERED_FOR).build(),
            failures: Cache::builder().max_capacity(COUNTED).time_to_live(WINDOW).build(),
            suspects: Cache::builder().max_capacity(COUNTED).time_to_live(WINDOW).build(),
        })
    }

    /// Whether this is the user's password. Somebody unknown takes as long as anybody.
    pub(super) async fn verify(&self, users: &Users, source: IpAddr, user: &str, password: &Secret) -> Verdict {
        let source = network(source);
        let (known, hash) = match (users.get(user), users.decoy()) {
            (Some(hash), _) => (true, hash),
            (None, Some(decoy)) => (false, decoy),
            (None, None) => return Verdict::Wrong,
        };
        if let Some(retry_after) = self.locked_out(source, user) {
            return Verdict::Later { retry_after };
        }
        let key = self.key(user, hash, password);
        if known && self.is_remembered(&key) {
            return Verdict::Right { fingerprint: hash.fingerprint() };
        }
        // No password has a zero byte, and C programs that wrote the hash would have stopped there.
        let matches = if password.expose().contains('\0') {
            false
        } else {
            let suspect = self.is_suspect(source);
            let Some(answer) = self.shared.join(key, hash, password, suspect) else {
                return Verdict::Later { retry_after: QUEUE_IS_FULL };
            };
            // The thread is gone only when the process ends.
            answer.await.unwrap_or(false)
        };
        if known && matches {
            self.verified.insert(key, self.clock.now());
            return Verdict::Right { fingerprint: hash.fingerprint() };
        }
        self.count_failure(source, user);
        Verdict::Wrong
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
        self.verified.get(key).is_some_and(|at| self.clock.now().since(at) < REMEMBERED_FOR)
    }

    fn is_suspect(&self, source: IpAddr) -> bool {
        self.suspects.get(&source).is_some_and(|at| self.clock.now().since(at) < WINDOW)
    }

    /// How long until another failure may be risked.
    fn locked_out(&self, source: IpAddr, user: &str) -> Option<Duration> {
        let failures = self.failures.get(&(source, user.into()))?;
        let passed = self.clock.now().since(failures.since);
        (failures.count >= FAILURES && passed < WINDOW).then(|| WINDOW.saturating_sub(passed))
    }

    fn count_failure(&self, source: IpAddr, user: &str) {
        let now = self.clock.now();
        self.suspects.insert(source, now);
        self.failures.entry((source, user.into())).and_upsert_with(|entry| match entry {
            Some(entry) if now.since(entry.value().since) < WINDOW => {
                Failures { count: entry.value().count + 1, ..*entry.value() }
            }
            Some(_) | None => Failures { since: now, count: 1 },
        });
    }
}

impl Drop for Passwords {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Work> {
        // Nothing panics while it holds the lock; if it ever does, the queues are still whole.
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins an equal attempt, or queues one; none if the queue is full or nobody works on it any more.
    fn join(&self, key: Key, hash: &StoredHash, password: &Secret, suspect: bool) -> Option<oneshot::Receiver<bool>> {
        let (answer, waiter) = oneshot::channel();
        let mut work = self.lock();
        let work = &mut *work;
        if let Some(job) = work.jobs.get_mut(&key) {
            job.waiting.push(answer);
            return Some(waiter);
        }
        let lane = if suspect { &mut work.suspect } else { &mut work.calm };
        if lane.len() >= QUEUE || work.closed {
            return None;
        }
        lane.push_back(key);
        work.jobs.insert(key, Job { hash: hash.clone(), password: password.clone(), waiting: vec![answer] });
        self.changed.notify_all();
        Some(waiter)
    }

    /// The thread.
    fn run(&self) {
        while let Some((key, hash, password)) = self.next() {
            let started = Instant::now();
            let matches = hash.verify(password.expose());
            let took = started.elapsed();
            self.finish(&key, matches);
            if !matches && !self.rest(took * REST) {
                return;
            }
        }
    }

    /// Waits for an attempt; none when it is time to end.
    fn next(&self) -> Option<(Key, StoredHash, Secret)> {
        let mut work = self.lock();
        loop {
            if work.closed {
                return None;
            }
            if let Some(key) = work.calm.pop_front().or_else(|| work.suspect.pop_front()) {
                // Every queued key has its job until `finish`.
                let Some(job) = work.jobs.get(&key) else { continue };
                return Some((key, job.hash.clone(), job.password.clone()));
            }
            work = self.changed.wait(work).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn finish(&self, key: &Key, matches: bool) {
        let job = self.lock().jobs.remove(key);
        for waiter in job.into_iter().flat_map(|job| job.waiting) {
            // Whoever has left needs no answer.
            let _ = waiter.send(matches);
        }
    }

    /// Whether there is still something to rest for.
    fn rest(&self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        let mut work = self.lock();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || work.closed {
                return !work.closed;
            }
            let waited = self.changed.wait_timeout(work, left);
            work = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// What counts as one source: an IPv4 address, or the /64 that one customer of an IPv6 network has.
fn network(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
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
        Users::parse(&format!("ci:{}", bcrypt::hash("secret", cost).expect("a hash"))).expect("a user")
    }

    async fn login(passwords: &Passwords, users: &Users, source: &str, user: &str, password: &str) -> Verdict {
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
        for (user, password) in [("ci", "Secret"), ("ci", ""), ("eve", "secret"), ("", "secret"), ("ci", "secret\0")] {
            assert_eq!(login(&passwords, &users, HERE, user, password).await, Verdict::Wrong, "{user} {password:?}");
        }
        assert_eq!(login(&passwords, &Users::default(), HERE, "ci", "secret").await, Verdict::Wrong);
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
        assert!(is_right(&login(&passwords, &users, "192.0.2.2", "ci", "secret").await), "another address");
        assert_eq!(login(&passwords, &users, HERE, "eve", "x").await, Verdict::Wrong, "another user");
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
        passwords.shared.lock().closed = true;
        passwords.shared.changed.notify_all();
        assert!(is_right(&login(&passwords, &slow, HERE, "ci", "secret").await), "without the thread");
        assert!(!passwords.is_remembered(&passwords.key("ci", slow.get("ci").expect("ci"), &Secret::new("x".into()))));
        let changed = users(4);
        let key = passwords.key("ci", changed.get("ci").expect("ci"), &Secret::new("secret".into()));
        assert!(!passwords.is_remembered(&key), "a new hash is a new password");
        clock.advance(REMEMBERED_FOR);
        let key = passwords.key("ci", slow.get("ci").expect("ci"), &Secret::new("secret".into()));
        assert!(!passwords.is_remembered(&key));
    }

    /// Queues attempts by hand, so that nothing depends on how fast the thread is.
    fn idle() -> (Shared, Users) {
        (Shared::default(), users(4))
    }

    fn join(shared: &Shared, users: &Users, number: u8, suspect: bool) -> Option<oneshot::Receiver<bool>> {
        let hash = users.get("ci").expect("ci");
        shared.join([number; 32], hash, &Secret::new("secret".to_owned()), suspect)
    }

    #[tokio::test]
    async fn equal_attempts_are_hashed_once() {
        let (shared, users) = idle();
        let waiting: Vec<_> = (0..100).map(|_| join(&shared, &users, 7, false).expect("room")).collect();
        assert_eq!(shared.lock().calm.len(), 1);
        let (key, hash, password) = shared.next().expect("an attempt");
        shared.finish(&key, hash.verify(password.expose()));
        for answer in waiting {
            assert_eq!(answer.await, Ok(true));
        }
        assert!(shared.lock().jobs.is_empty());
    }

    #[test]
    fn suspects_wait_behind_the_others_and_neither_queue_grows() {
        let (shared, users) = idle();
        for number in 0..8 {
            assert!(join(&shared, &users, number, true).is_some());
        }
        assert!(join(&shared, &users, 8, true).is_none(), "the suspects' queue is full");
        for number in 10..18 {
            assert!(join(&shared, &users, number, false).is_some());
        }
        assert!(join(&shared, &users, 18, false).is_none(), "and so is the other");
        let order: Vec<u8> = (0..16).map(|_| shared.next().expect("an attempt").0[0]).collect();
        assert_eq!(order, [10, 11, 12, 13, 14, 15, 16, 17, 0, 1, 2, 3, 4, 5, 6, 7]);
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
    async fn an_attempt_that_nobody_can_take_on_is_told_when_to_come_back() {
        let ((passwords, _), users) = (passwords(), users(4));
        passwords.shared.lock().closed = true;
        let verdict = login(&passwords, &users, HERE, "ci", "secret").await;
        assert_eq!(verdict, Verdict::Later { retry_after: QUEUE_IS_FULL });
    }

    #[test]
    fn the_thread_rests_after_a_failure_and_ends_when_told() {
        let shared = Shared::default();
        let started = Instant::now();
        assert!(shared.rest(Duration::from_millis(20)));
        assert!(started.elapsed() >= Duration::from_millis(20));
        shared.lock().closed = true;
        assert!(!shared.rest(Duration::from_hours(1)));
        assert!(shared.next().is_none());
    }
}
