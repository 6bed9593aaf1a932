//! The one thread that hashes, and the attempts that wait for it.
//!
//! An attempt belongs to no request: equal ones join it, and it ends when it was hashed, even if
//! every client has hung up by then. So failures are counted here and not where the answer is
//! awaited; a guesser who hangs up early would otherwise never be counted.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::attempt::{Attempt, Verdict, Waiter};
use super::failures::{Failures, LoginPair};
use super::lanes::{AttemptKey, Lane, Lanes, Turn};
use super::right::RightPasswords;

/// How far the thread stands behind those that answer requests, as `nice` counts.
const NICENESS: i32 = 5;

/// How much slower than it is thought to be a hash may be and count as usual.
const SLOWER_MAX: u32 = 4;

/// Starts a thread, and ends it when dropped.
#[derive(Debug)]
pub(super) struct Hashing {
    shared: Arc<HashingQueue>,
}

#[derive(Debug)]
struct HashingQueue {
    failures: Arc<Failures>,
    right: Arc<RightPasswords>,
    work: Mutex<Work>,
    changed: Condvar,
}

#[derive(Debug)]
struct Work {
    lanes: Lanes,
    /// The job of every key in a lane, and of the one that is being hashed.
    jobs: HashMap<AttemptKey, Job>,
    /// What the slowest hashes have taken lately.
    slowest: Duration,
    closed: bool,
}

#[derive(Debug)]
struct Job {
    attempt: Attempt,
    waiters: Vec<Waiter>,
}

impl Hashing {
    /// # Errors
    /// If the system gives no thread.
    pub(super) fn start(
        failures: Arc<Failures>,
        right: Arc<RightPasswords>,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(HashingQueue::new(failures, right));
        let worker = Arc::clone(&shared);
        std::thread::Builder::new().name("passwords".to_owned()).spawn(move || {
            // On Linux this is for this thread alone: requests go before hashes that may be for
            // nothing. If it fails, they wait a little longer.
            let _ = rustix::process::nice(NICENESS);
            worker.run();
        })?;
        Ok(Self { shared })
    }

    /// Joins an equal attempt, or queues this one; none if the thread has ended.
    pub(super) fn join(
        &self,
        key: AttemptKey,
        pair: LoginPair,
        attempt: Attempt,
    ) -> Option<oneshot::Receiver<Verdict>> {
        self.shared.join(key, pair, attempt)
    }

    #[cfg(test)]
    pub(super) fn close(&self) {
        self.shared.close();
    }

    /// Nothing is hashed for a long time.
    #[cfg(test)]
    pub(super) fn stall(&self) {
        self.shared.lock().lanes.failed(Instant::now(), Duration::from_hours(1));
    }
}

impl Drop for Hashing {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl HashingQueue {
    fn new(failures: Arc<Failures>, right: Arc<RightPasswords>) -> Self {
        let (lanes, jobs, slowest) = (Lanes::new(Instant::now()), HashMap::new(), Duration::ZERO);
        let work = Work { lanes, jobs, slowest, closed: false };
        Self { failures, right, work: Mutex::new(work), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Work> {
        // Nothing panics while it holds the lock; if it ever does, the lanes are still whole.
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Joins an equal attempt, or queues this one; none if the thread has ended.
    ///
    /// A normal attempt by an unknown name is not hashed: made-up names cost a stranger nothing,
    /// and their hashes would crowd out real users. The answer that it is wrong takes as long as
    /// any other ([`Passwords::verify`](super::Passwords)), and a second one by the same name is
    /// hashed like anybody's.
    fn join(
        &self,
        key: AttemptKey,
        pair: LoginPair,
        attempt: Attempt,
    ) -> Option<oneshot::Receiver<Verdict>> {
        let (answer, verdict) = oneshot::channel();
        let waiters = Waiter { pair, answer };
        let mut work = self.lock();
        if let Some(job) = work.jobs.get_mut(&key) {
            job.waiters.push(waiters);
            return Some(verdict);
        }
        let lane = self.lane(&work, pair);
        if work.closed {
            return None;
        }
        if lane == Lane::Normal && !attempt.known {
            work.lanes.spared(Instant::now(), attempt.slowest);
            drop(work);
            self.failures.count(pair, &key);
            waiters.tell(Verdict::Wrong);
            return Some(verdict);
        }
        let crowded_out = work.lanes.enter(lane, key).and_then(|oldest| work.jobs.remove(&oldest));
        work.jobs.insert(key, Job { attempt, waiters: vec![waiters] });
        drop(work);
        self.changed.notify_all();
        for one in crowded_out.into_iter().flat_map(|job| job.waiters) {
            self.failures.crowded_out(one.pair.source);
            one.tell(Verdict::CrowdedOut);
        }
        Some(verdict)
    }

    /// Which lane an attempt belongs in.
    ///
    /// At most one queued attempt per address and per name is normal; a pair that has logged in
    /// before is normal anyway, one at a time, whatever others do at that address or by that name.
    fn lane(&self, work: &Work, pair: LoginPair) -> Lane {
        let waits = |is: &dyn Fn(LoginPair) -> bool| {
            work.jobs.values().any(|job| job.waiters.iter().any(|one| is(one.pair)))
        };
        if self.right.is_familiar(pair)
            && !self.failures.has_failed(pair)
            && !waits(&|other| other == pair)
        {
            Lane::Normal
        } else if self.failures.is_failing(pair.source) || waits(&|o| o.source == pair.source) {
            Lane::Failing
        } else if self.failures.is_guessed(pair.name) || waits(&|o| o.name == pair.name) {
            Lane::Guessed
        } else {
            Lane::Normal
        }
    }

    /// The thread.
    fn run(&self) {
        while let Some(key) = self.next() {
            let Some(attempt) = self.begin(&key) else { continue };
            let started = Instant::now();
            let verdict = attempt.verdict(attempt.hash.verify(attempt.password.expose()));
            if verdict == Verdict::Wrong {
                self.linger(&attempt, started);
            }
            self.finish(&key, &verdict, started.elapsed());
        }
    }

    /// Waits until the slowest hash would be done as well. What a failure takes, and the rest that
    /// it adds, would else tell those who guess at two users which of them has the cheaper hash, and
    /// with that who is none (ACCESS §5.3).
    fn linger(&self, attempt: &Attempt, started: Instant) {
        let mut work = self.lock();
        let until = started + work.time_of_failure(attempt, started.elapsed());
        while !work.closed && Instant::now() < until {
            let wait = until.saturating_duration_since(Instant::now());
            work = self.changed.wait_timeout(work, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for an attempt whose turn it is; none when it is time to end. This is the real clock
    /// and not [`Clock`](crate::clock::Clock), which tests move: the rest is for real work.
    fn next(&self) -> Option<AttemptKey> {
        let mut work = self.lock();
        while !work.closed {
            work = match work.lanes.turn(Instant::now()) {
                Turn::Hash(key) => return Some(key),
                Turn::Rest(wait) => {
                    self.changed.wait_timeout(work, wait).unwrap_or_else(PoisonError::into_inner).0
                }
                Turn::Idle => self.changed.wait(work).unwrap_or_else(PoisonError::into_inner),
            };
        }
        None
    }

    /// The attempt, if a waiter is left. Those who have hung up do not count, and those who have
    /// been locked out since they came are told so instead: a burst of guesses is not worth more
    /// hashes than the failures that are allowed.
    fn begin(&self, key: &AttemptKey) -> Option<Attempt> {
        let mut work = self.lock();
        let mut job = work.jobs.remove(key)?;
        let mut waiters = Vec::with_capacity(job.waiters.len());
        for one in job.waiters.into_iter().filter(|one| !one.answer.is_closed()) {
            match self.failures.locked_out(one.pair) {
                Some(retry_after) => one.tell(Verdict::Throttled { retry_after }),
                None => waiters.push(one),
            }
        }
        if waiters.is_empty() {
            return None;
        }
        job.waiters = waiters;
        let attempt = job.attempt.clone();
        work.jobs.insert(*key, job);
        Some(attempt)
    }

    fn finish(&self, key: &AttemptKey, verdict: &Verdict, taken: Duration) {
        let mut work = self.lock();
        let Some(Job { waiters, .. }) = work.jobs.remove(key) else { return };
        let wrong = *verdict == Verdict::Wrong;
        if wrong {
            work.lanes.failed(Instant::now(), taken);
        }
        drop(work);
        for one in waiters {
            if wrong {
                self.failures.count(one.pair, key);
            } else {
                self.right.remember(one.pair, *key);
            }
            one.tell(verdict.clone());
        }
    }
}

impl Work {
    /// How long a failure takes the thread, if its hash has `taken` that long: as the slowest ones
    /// did lately, and no less than they are thought to take.
    fn time_of_failure(&mut self, attempt: &Attempt, taken: Duration) -> Duration {
        // Only the slowest ones show that the machine has become faster.
        let is_slowest = attempt.hash.usual_time() >= attempt.slowest;
        let before = if is_slowest { self.slowest * 15 / 16 } else { self.slowest };
        // A moment without a core is nothing to go by.
        let most = attempt.slowest * SLOWER_MAX;
        self.slowest = taken.max(before).clamp(attempt.slowest, most);
        self.slowest
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::access::passwords::failures::SourceNetwork;
    use crate::access::users::Users;
    use crate::clock::Clock;
    use crate::secret::Secret;

    /// Without a thread, so that nothing depends on how fast it is.
    fn idle() -> (HashingQueue, Attempt) {
        let users = format!("ci:{}", bcrypt::hash("secret", 4).expect("a hash"));
        let hash = Users::parse(&users).expect("a user").get("ci").expect("ci").clone();
        let password = Secret::new("secret".to_owned());
        let clock = Clock::manual(Duration::from_secs(1_000_000));
        (
            HashingQueue::new(
                Arc::new(Failures::new(clock.clone())),
                Arc::new(RightPasswords::new(clock)),
            ),
            Attempt { hash, password, known: true, slowest: Duration::from_millis(80) },
        )
    }

    fn source(last: u8) -> SourceNetwork {
        SourceNetwork::from(IpAddr::from([192, 0, 2, last]))
    }

    fn pair(shared: &HashingQueue, last: u8, user: &str) -> LoginPair {
        shared.failures.pair(source(last), user)
    }

    fn ci(shared: &HashingQueue, last: u8) -> LoginPair {
        pair(shared, last, "ci")
    }

    fn fail(shared: &HashingQueue, last: u8, user: &str) {
        shared.failures.count(pair(shared, last, user), &[99; 32]);
    }

    /// What the thread does, once.
    fn work(shared: &HashingQueue, verdict: &Verdict) -> bool {
        let key = shared.next().expect("an attempt");
        let begun = shared.begin(&key).is_some();
        shared.finish(&key, verdict, Duration::ZERO);
        begun
    }

    #[tokio::test]
    async fn equal_attempts_are_hashed_once() {
        let (shared, attempt) = idle();
        let waiters: Vec<_> = (0..100)
            .map(|n| shared.join([7; 32], ci(&shared, n), attempt.clone()).expect("room"))
            .collect();
        let right = attempt.verdict(attempt.hash.verify("secret"));
        assert!(work(&shared, &right));
        for verdict in waiters {
            assert_eq!(verdict.await, Ok(right.clone()));
        }
        assert!(shared.lock().jobs.is_empty());
        assert_eq!(shared.lock().lanes.turn(Instant::now()), Turn::Idle);
    }

    #[test]
    fn a_failure_takes_as_long_as_with_the_slowest_hash() {
        let (shared, cheap) = idle();
        let (slowest, ms) = (cheap.slowest, Duration::from_millis);
        let slow = Attempt { slowest: cheap.hash.usual_time(), ..cheap.clone() };
        let slow = Attempt { slowest, hash: slow_hash(), ..slow };
        let mut work = shared.lock();
        assert_eq!(work.time_of_failure(&cheap, ms(1)), slowest, "before any slow one");
        assert_eq!(work.time_of_failure(&slow, ms(160)), ms(160), "on a slow machine");
        assert_eq!(work.time_of_failure(&cheap, ms(1)), ms(160));
        assert_eq!(work.time_of_failure(&slow, ms(100)), ms(150), "it becomes faster");
        assert_eq!(work.time_of_failure(&cheap, ms(1)), ms(150));
        assert_eq!(
            work.time_of_failure(&slow, ms(9000)),
            slowest * SLOWER_MAX,
            "stopped meanwhile"
        );
    }

    fn slow_hash() -> crate::access::users::StoredHash {
        let users = "ci:$2y$10$9.jo8ITCZ3aWJrApmzvVAeSwEupNWwEqyRkmMOUsXUcT.1NEh836q";
        Users::parse(users).expect("a user").get("ci").expect("ci").clone()
    }

    #[tokio::test]
    async fn whoever_leaves_does_not_stop_what_others_joined() {
        let (shared, attempt) = idle();
        let first = shared.join([1; 32], ci(&shared, 1), attempt.clone()).expect("room");
        let second = shared.join([1; 32], ci(&shared, 2), attempt.clone()).expect("room");
        drop(first);
        assert!(work(&shared, &Verdict::Wrong));
        assert_eq!(second.await, Ok(Verdict::Wrong));
    }

    #[test]
    fn what_nobody_waits_for_is_not_hashed() {
        let (shared, attempt) = idle();
        drop(shared.join([1; 32], ci(&shared, 1), attempt).expect("room"));
        assert!(!work(&shared, &Verdict::Wrong));
        assert!(shared.lock().jobs.is_empty());
    }

    #[test]
    fn a_failure_counts_also_if_nobody_hears_of_it() {
        let (shared, attempt) = idle();
        for number in 0..5 {
            let leaving = shared.join([number; 32], ci(&shared, 1), attempt.clone()).expect("room");
            let key = shared.next().expect("an attempt");
            assert!(shared.begin(&key).is_some());
            drop(leaving);
            shared.finish(&key, &Verdict::Wrong, Duration::ZERO);
        }
        assert!(shared.failures.locked_out(ci(&shared, 1)).is_some());
        assert!(shared.failures.is_failing(source(1)));
    }

    #[tokio::test]
    async fn a_burst_of_guesses_is_hashed_five_times() {
        let (shared, attempt) = idle();
        let burst: Vec<_> =
            (0..9).filter_map(|n| shared.join([n; 32], ci(&shared, 1), attempt.clone())).collect();
        assert_eq!(burst.len(), 9, "one is normal, eight wait as failing addresses");
        assert_eq!((0..9).filter(|_| work(&shared, &Verdict::Wrong)).count(), 5);
        let mut verdicts = Vec::new();
        for verdict in burst {
            verdicts.push(verdict.await.expect("an answer"));
        }
        let (wrong, later): (Vec<_>, Vec<_>) =
            verdicts.iter().partition(|verdict| **verdict == Verdict::Wrong);
        assert_eq!(wrong.len(), 5);
        assert!(
            later.iter().all(|verdict| matches!(verdict, Verdict::Throttled { .. })),
            "{verdicts:?}"
        );
    }

    #[test]
    fn an_address_has_one_normal_attempt_at_a_time_and_none_after_a_failure() {
        let (shared, attempt) = idle();
        let join =
            |key, from| shared.join([key; 32], ci(&shared, from), attempt.clone()).expect("room");
        let (one, two, three) = (join(1, 1), join(2, 1), join(3, 2));
        let order: Vec<u8> = (0..3).map(|_| shared.next().expect("an attempt")[0]).collect();
        assert_eq!(order, [1, 3, 2]);
        drop((one, two, three));
        shared.lock().jobs.clear();
        fail(&shared, 1, "eve");
        let (four, five) = (join(4, 1), join(5, 2));
        assert_eq!([shared.next(), shared.next()], [Some([5; 32]), Some([4; 32])]);
        drop((four, five));
    }

    #[test]
    fn first_guesses_at_names_that_are_nobodys_take_no_turn() {
        let (shared, attempt) = idle();
        let nobody = Attempt { known: false, ..attempt.clone() };
        for number in 0..100 {
            let pair = pair(&shared, number, &format!("nobody{number}"));
            let mut verdict = shared.join([number; 32], pair, nobody.clone()).expect("room");
            assert_eq!(verdict.try_recv(), Ok(Verdict::Wrong));
        }
        let again = pair(&shared, 201, "nobody1");
        assert!(shared.failures.is_failing(source(1)) && shared.failures.is_guessed(again.name));
        let right = shared.join([200; 32], ci(&shared, 200), attempt.clone()).expect("room");
        assert_eq!(shared.next(), Some([200; 32]));
        drop(right);
        shared.lock().jobs.clear();
        let queued = shared.join([1; 32], again, nobody).expect("room");
        assert_eq!(shared.next(), Some([1; 32]), "the second guess is hashed as anybody's");
        drop(queued);
    }

    #[tokio::test]
    async fn the_oldest_attempt_gives_way_and_is_told() {
        let (shared, attempt) = idle();
        let named = |n: u8| pair(&shared, n, &format!("user{n}"));
        let mut all: Vec<_> = (0..9)
            .map(|n| shared.join([n; 32], named(n), attempt.clone()).expect("room"))
            .collect();
        assert_eq!(all.remove(0).await, Ok(Verdict::CrowdedOut));
        assert!(shared.failures.is_failing(source(0)) && !shared.failures.is_failing(source(1)));
        assert_eq!(shared.lock().jobs.len(), 8);
        assert_eq!(shared.next(), Some([8; 32]));
    }

    #[test]
    fn a_login_by_a_name_that_nobody_guesses_at_goes_before_all_guesses() {
        let (shared, attempt) = idle();
        fail(&shared, 100, "eve");
        let eve = |from| pair(&shared, from, "eve");
        let join = |key, from| shared.join([key; 32], eve(from), attempt.clone()).expect("room");
        let new: Vec<_> = (0..9).map(|n| join(n, n)).collect();
        let old: Vec<_> = (0..9).map(|n| join(n + 50, 100)).collect();
        assert_eq!(shared.lock().jobs.len(), 16, "both lanes are full");
        let login = shared.join([200; 32], ci(&shared, 200), attempt.clone()).expect("room");
        assert_eq!(shared.next(), Some([200; 32]));
        assert_eq!(
            shared.lock().lanes.turn(Instant::now()),
            Turn::Hash([8; 32]),
            "a new address goes before an old one"
        );
        drop((new, old, login));
    }

    #[tokio::test]
    async fn who_has_logged_in_from_there_before_is_normal_until_a_failure() {
        let (shared, attempt) = idle();
        let first = shared.join([1; 32], ci(&shared, 1), attempt.clone()).expect("room");
        let right = attempt.verdict(true);
        assert!(work(&shared, &right));
        assert_eq!(first.await, Ok(right));
        fail(&shared, 2, "ci");
        fail(&shared, 1, "eve");
        let lane = |from| shared.lane(&shared.lock(), ci(&shared, from));
        assert_eq!((lane(1), lane(2), lane(3)), (Lane::Normal, Lane::Failing, Lane::Guessed));
        let waiters = shared.join([2; 32], ci(&shared, 1), attempt).expect("room");
        assert_eq!(lane(1), Lane::Failing, "one at a time");
        drop(waiters);
        shared.lock().jobs.clear();
        fail(&shared, 1, "ci");
        assert_eq!(lane(1), Lane::Failing);
    }

    #[test]
    fn the_password_of_a_decoy_opens_no_unknown_door() {
        let (_, attempt) = idle();
        assert!(matches!(attempt.verdict(true), Verdict::Right { .. }));
        assert_eq!(attempt.verdict(false), Verdict::Wrong);
        assert_eq!(Attempt { known: false, ..attempt }.verdict(true), Verdict::Wrong);
    }

    #[test]
    fn there_is_one_thread_and_it_ends_with_its_owner() {
        let (shared, attempt) = idle();
        let hashing = Hashing::start(Arc::clone(&shared.failures), Arc::clone(&shared.right))
            .expect("a thread");
        let worker = Arc::downgrade(&hashing.shared);
        assert_eq!(worker.strong_count(), 2, "the owner's and one thread's");
        let waiters: Vec<_> =
            (0..8).filter_map(|n| hashing.join([n; 32], ci(&shared, n), attempt.clone())).collect();
        for verdict in waiters {
            assert!(matches!(verdict.blocking_recv(), Ok(Verdict::Right { .. })));
        }
        assert_eq!(worker.strong_count(), 2, "work starts no others");
        drop(hashing);
        let deadline = Instant::now() + Duration::from_secs(10);
        while worker.strong_count() > 0 {
            assert!(Instant::now() < deadline, "the thread goes on");
            std::thread::yield_now();
        }
    }
}
