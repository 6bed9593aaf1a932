//! What the tests arrange and act with: an `Image` at an `Origin`, and a `Proxy` in front of it.

pub(crate) mod access_log;
pub(crate) mod client;
pub(crate) mod commands;
pub(crate) mod content;
pub(crate) mod control;
pub(crate) mod disk;
pub(crate) mod forward;
pub(crate) mod image;
pub(crate) mod origin;
mod panics;
pub(crate) mod proxy;
pub(crate) mod pulled;
pub(crate) mod push;
mod setup;
pub(crate) mod tls;
pub(crate) mod vendor;
pub(crate) mod wire;

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

/// No test waits longer than this for anything.
const DEADLINE: Duration = Duration::from_secs(20);

/// Waits until `holds`; fails the test if that takes too long.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < end, "never happened: {what}");
        sleep(Duration::from_millis(2)).await;
    }
}

/// The same for what has to be asked for.
pub(crate) async fn eventually_true(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !holds().await {
        assert!(Instant::now() < end, "never happened: {what}");
        sleep(Duration::from_millis(2)).await;
    }
}

/// The outcome of `future`; fails the test if it takes too long.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("took too long: {what}"))
}

/// How often a campaign repeats itself, if the variable `name` does not say.
pub(crate) fn how_often(name: &str, short: u64) -> u64 {
    let told = std::env::var(name).ok();
    told.map_or(short, |told| told.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}
