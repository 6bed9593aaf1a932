//! Old passwords that some machine still has, beside right ones from the same address, and beside
//! guesses (ACCESS §5.3).

use std::collections::HashMap;
use std::time::Duration;

use futures_util::future::join_all;
use http::Method;

use crate::support::client::Answer;
use crate::support::eventually;
use crate::support::vendor::{Vendor, basic};

const MYAPP: &str = "/v2/registry.test/myapp/worker/manifests/1.0";

async fn login(vendor: &Vendor, user: &str, password: &str) -> Answer {
    let authorization = basic(user, password);
    vendor.proxy.request(Method::GET, "/token", &[("authorization", &authorization)]).await
}

async fn status(vendor: &Vendor, user: &str, password: &str) -> u16 {
    login(vendor, user, password).await.status
}

fn attempts(vendor: &Vendor, outcome: &str) -> i64 {
    vendor.proxy.metric("roadstead_auth_attempts_total", &[("outcome", outcome)])
}

/// `ci` with another password, and the other user as before.
async fn change_password(vendor: &Vendor, password: &str) {
    let file = vendor.proxy.directory().join("users");
    let text = std::fs::read_to_string(&file).expect("a users file");
    let hash = bcrypt::hash(password, 4).expect("a hash");
    let other = text.lines().find(|line| line.starts_with("ops@")).expect("the other user");
    std::fs::write(&file, format!("ci:{hash}\n{other}\n")).expect("writable");
    let loaded = || {
        let labels = [("part", "users"), ("outcome", "loaded")];
        vendor.proxy.metric("roadstead_reloads_total", &labels)
    };
    let before = loaded();
    vendor.proxy.reload();
    eventually("the users are read", || loaded() > before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_password_locks_nobody_out_at_its_address() {
    let vendor = Vendor::start().await;
    assert_eq!(status(&vendor, "ci", "ci-secret").await, 200);
    for _ in 0..12 {
        assert_eq!(status(&vendor, "ci", "old").await, 401, "wrong, and no lockout");
        assert_eq!(status(&vendor, "ci", "ci-secret").await, 200);
    }
    assert_eq!(vendor.status(&basic("ci", "ci-secret"), MYAPP).await, 200, "a pull, too");
    assert_eq!(status(&vendor, "ops@acme.test", "ops-secret").await, 200, "another user");
    assert_eq!(attempts(&vendor, "throttled"), 0);
}

/// As after a restart: nothing is remembered yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_stale_password_that_comes_first_costs_one_failure_however_often_it_comes() {
    let vendor = Vendor::start().await;
    for _ in 0..20 {
        assert_eq!(status(&vendor, "ci", "old").await, 401);
    }
    assert_eq!(status(&vendor, "ci", "ci-secret").await, 200, "never seen before");
    for guess in ["2", "3", "4", "5"] {
        assert_eq!(status(&vendor, "ci", guess).await, 401, "{guess}");
    }
    assert_eq!(status(&vendor, "ci", "6").await, 429, "the first and these four were five");
    assert_eq!(status(&vendor, "ci", "old").await, 429, "a lockout says nothing of any password");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_was_good_from_there_passes_while_others_are_locked_out() {
    let vendor = Vendor::start().await;
    assert_eq!(status(&vendor, "ci", "ci-secret").await, 200);
    // Long enough for a password to be hashed again that is not known from there.
    vendor.proxy.clock().advance(Duration::from_hours(1));
    for number in 0..50 {
        let expected = if number < 5 { 401 } else { 429 };
        assert_eq!(status(&vendor, "ci", &format!("guess {number}")).await, expected);
        assert_eq!(status(&vendor, "ci", "ci-secret").await, 200, "after {number}");
    }
    assert_eq!(vendor.status(&basic("ci", "ci-secret"), MYAPP).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lockout_says_why_and_until_when() {
    let vendor = Vendor::start().await;
    // Of a name that is nobody's as of a user's.
    for user in ["ci", "eve"] {
        for guess in ["1", "2", "3", "4", "5"] {
            assert_eq!(status(&vendor, user, guess).await, 401);
        }
        vendor.proxy.clock().advance(Duration::from_secs(20));
        let refused = login(&vendor, user, "6").await;
        assert_eq!((refused.status, refused.header("retry-after")), (429, Some("40")));
        let told = "too many failed logins of this user from this address; try again in 40 s";
        assert_eq!(refused.message(), told);
    }
    vendor.proxy.clock().advance(Duration::from_secs(40));
    assert_eq!(status(&vendor, "ci", "ci-secret").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn different_passwords_are_judged_five_times_a_minute_one_by_one_or_at_once() {
    let vendor = Vendor::start().await;
    for minute in 0..2 {
        let guesses = (0..40).map(|number| format!("guess {minute} {number}"));
        let mut told: HashMap<u16, usize> = HashMap::new();
        if minute == 0 {
            for guess in guesses {
                *told.entry(status(&vendor, "ci", &guess).await).or_default() += 1;
            }
        } else {
            let all: Vec<String> = guesses.collect();
            for status in join_all(all.iter().map(|guess| status(&vendor, "ci", guess))).await {
                *told.entry(status).or_default() += 1;
            }
        }
        assert_eq!(told, HashMap::from([(401, 5), (429, 35)]), "minute {minute}");
        vendor.proxy.clock().advance(Duration::from_mins(1));
    }
    assert_eq!(attempts(&vendor, "wrong_password"), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_password_ends_what_was_remembered_of_right_and_wrong_ones() {
    let vendor = Vendor::start().await;
    assert_eq!(status(&vendor, "ci", "ci-secret").await, 200);
    assert_eq!(status(&vendor, "ci", "newer").await, 401, "somebody was early");
    change_password(&vendor, "newer").await;
    for _ in 0..7 {
        assert_eq!(status(&vendor, "ci", "ci-secret").await, 401, "known as right before");
        assert_eq!(status(&vendor, "ci", "newer").await, 200, "known as wrong before");
    }
}
