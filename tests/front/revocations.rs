//! Licences that their issuer has taken back (ACCESS §4.4): each line by itself, at once, and good
//! again only when that seems to be meant.

use std::time::Duration;

use roadstead::licence::{LicenceId, revocation_line};

use crate::support::access_log::{gather, warnings};
use crate::support::eventually;
use crate::support::vendor::{DAY, Vendor};

const MYAPP: &str = "/v2/registry.test/myapp/worker/manifests/1.0";
const NEVER: Duration = Duration::from_hours(24);
const AT_ONCE: Duration = Duration::ZERO;

/// A vendor whose lists have to be without a line for that long.
async fn vendor(good_again: Duration) -> Vendor {
    Vendor::start_with(|setup| {
        setup.limits.good_again = good_again;
        setup.limits.watch = Duration::from_millis(20);
    })
    .await
}

fn reloads(vendor: &Vendor, outcome: &str) -> i64 {
    let labels = [("part", "revocations"), ("outcome", outcome)];
    vendor.proxy.metric("roadstead_reloads_total", &labels)
}

/// Writes the list, and waits until it was read.
async fn write(vendor: &Vendor, text: &str, outcome: &str) {
    let before = reloads(vendor, outcome);
    std::fs::write(vendor.proxy.directory().join("revoked"), text).expect("writable");
    eventually("the list is read", || reloads(vendor, outcome) > before).await;
}

fn line(vendor: &Vendor, id: &str) -> String {
    let id = LicenceId::parse(id).expect("an id");
    revocation_line(&id, vendor.proxy.clock().now(), Some("left"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_counts_at_once_and_for_what_was_issued_before() {
    let vendor = vendor(NEVER).await;
    let customer = vendor.customer("acme-prod", &["myapp"]);
    assert_eq!(vendor.status(&customer, MYAPP).await, 200);
    // As an editor on Windows saves it.
    let text = format!("\u{feff}{}", line(&vendor, "acme-prod").replace('\n', "\r\n"));
    write(&vendor, &text, "loaded").await;
    let headers = [("authorization", customer.as_str())];
    let answer = vendor.proxy.request(http::Method::GET, MYAPP, &headers).await;
    assert_eq!(answer.status, 401);
    assert!(answer.message().starts_with("licence acme-prod was revoked on "));
    vendor.proxy.clock().advance(2 * DAY);
    let later = vendor.customer("acme-prod", &["myapp"]);
    assert_eq!(vendor.status(&later, MYAPP).await, 200, "issued after the revocation");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_line_keeps_no_other_one_out_and_takes_nothing_back() {
    gather();
    let vendor = vendor(AT_ONCE).await;
    let [first, second] = ["wrong-1", "wrong-2"].map(|id| vendor.customer(id, &["myapp"]));
    write(&vendor, &line(&vendor, "wrong-1"), "loaded").await;
    // Somebody edits the first line, and adds another below.
    let text = format!("wrong-1 yesterday\n{}", line(&vendor, "wrong-2"));
    write(&vendor, &text, "refused").await;
    assert_eq!(vendor.status(&first, MYAPP).await, 401, "it may be what the wrong line says");
    assert_eq!(vendor.status(&second, MYAPP).await, 401, "the later line counts");
    let said = warnings("key", "licences.revoked");
    assert!(
        said.iter().any(|line| line.contains("revoked:1: ") && line.contains("yesterday")),
        "{said:?}"
    );
    let state = vendor.proxy.metric("roadstead_config_last_reload_successful", &[]);
    assert_eq!(state, 0, "what is on disk is not in use as it is");
    write(&vendor, &line(&vendor, "wrong-2"), "loaded").await;
    eventually("the list is taken", || !warnings("licences", "wrong-1").is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_in_the_place_of_a_list_or_of_users_keeps_nothing_else_waiting() {
    let mut vendor = Vendor::start_with(|setup| {
        setup.limits.watch = Duration::from_millis(20);
    })
    .await;
    let customer = vendor.customer("piped-1", &["myapp"]);
    write(&vendor, &line(&vendor, "piped-1"), "loaded").await;
    for (file, part) in [("revoked", "revocations"), ("users", "users")] {
        let refused = |vendor: &Vendor| {
            let labels = [("part", part), ("outcome", "refused")];
            vendor.proxy.metric("roadstead_reloads_total", &labels)
        };
        let before = refused(&vendor);
        let path = vendor.proxy.directory().join(file);
        std::fs::remove_file(&path).expect("it is ours");
        let made = std::process::Command::new("mkfifo").arg(&path).status().expect("coreutils");
        assert!(made.success());
        eventually("the pipe is refused", || refused(&vendor) > before).await;
        assert_eq!(vendor.status(&customer, MYAPP).await, 401, "what was revoked is");
    }
    std::fs::remove_file(vendor.proxy.directory().join("revoked")).expect("it is ours");
    let customer = vendor.customer("piped-2", &["myapp"]);
    write(&vendor, &line(&vendor, "piped-2"), "loaded").await;
    assert_eq!(vendor.status(&customer, MYAPP).await, 401, "the other inputs go on");
    vendor.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_list_makes_no_licence_good_at_once() {
    gather();
    let vendor = vendor(NEVER).await;
    let customer = vendor.customer("emptied-1", &["myapp"]);
    let revoked = line(&vendor, "emptied-1");
    write(&vendor, &revoked, "loaded").await;
    for text in ["", &line(&vendor, "emptied-2"), &revoked, ""] {
        write(&vendor, text, "loaded").await;
        assert_eq!(vendor.status(&customer, MYAPP).await, 401, "{text}");
    }
    // SIGHUP is no reason either.
    let before = reloads(&vendor, "loaded");
    vendor.proxy.reload();
    eventually("everything is read", || reloads(&vendor, "loaded") > before).await;
    assert_eq!(vendor.status(&customer, MYAPP).await, 401);
    let said = warnings("licences", "emptied-1");
    assert!(said.iter().all(|line| line.contains("have lost lines")), "{said:?}");
    assert_eq!(said.len(), 2, "once for each loss: {said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_stays_without_a_line_is_taken_and_tells_who_is_good_again() {
    gather();
    let vendor = vendor(Duration::from_millis(100)).await;
    let customer = vendor.customer("back-1", &["myapp"]);
    write(&vendor, &format!("{}{}", line(&vendor, "back-1"), line(&vendor, "back-2")), "loaded")
        .await;
    write(&vendor, &line(&vendor, "back-2"), "loaded").await;
    let good_again =
        || warnings("licences", "back-1").iter().any(|line| line.contains("good again"));
    eventually("it is told", good_again).await;
    eventually("it is taken", || reloads(&vendor, "loaded") == 3).await;
    assert_eq!(vendor.status(&customer, MYAPP).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_gone_takes_nothing_back() {
    let vendor = vendor(AT_ONCE).await;
    let customer = vendor.customer("gone-1", &["myapp"]);
    write(&vendor, &line(&vendor, "gone-1"), "loaded").await;
    std::fs::remove_file(vendor.proxy.directory().join("revoked")).expect("it was there");
    eventually("it is missed", || reloads(&vendor, "refused") == 1).await;
    assert_eq!(vendor.status(&customer, MYAPP).await, 401);
}

/// The list as it is: a start knows no other.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_takes_the_list_as_it_is_line_by_line() {
    gather();
    let mut vendor = vendor(NEVER).await;
    let [first, second] = ["start-1", "start-2"].map(|id| vendor.customer(id, &["myapp"]));
    write(&vendor, &line(&vendor, "start-1"), "loaded").await;
    let text = format!("start-1 yesterday\n{}", line(&vendor, "start-2"));
    write(&vendor, &text, "refused").await;
    vendor.proxy.restart().await;
    assert_eq!(vendor.status(&first, MYAPP).await, 200);
    assert_eq!(vendor.status(&second, MYAPP).await, 401);
}
