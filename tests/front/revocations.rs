//! Licences that their issuer has taken back (ACCESS §4.4): each line by itself, at once, and good
//! again only when that seems to be meant.

use std::time::Duration;

use roadstead::licence::{LicenceId, PrivateKey, revocation_line};

use crate::support::access_log::{gather, warnings};
use crate::support::disk::Disk;
use crate::support::eventually;
use crate::support::origin::Origin;
use crate::support::proxy::Setup;
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

/// Whether a customer may pull, of two; the list as it is when the first is revoked and then, with a
/// line below that revokes the second, becomes a line that nobody can read.
struct Garbled {
    vendor: Vendor,
    customers: [String; 2],
}

impl Garbled {
    async fn new(name: &str) -> Self {
        let vendor = vendor(NEVER).await;
        let ids = [1, 2].map(|n| format!("{name}-{n}"));
        let customers = ids.clone().map(|id| vendor.customer(&id, &["myapp"]));
        write(&vendor, &line(&vendor, &ids[0]), "loaded").await;
        let text = format!("{} yesterday\n{}", ids[0], line(&vendor, &ids[1]));
        write(&vendor, &text, "refused").await;
        Self { vendor, customers }
    }

    async fn statuses(&self) -> [u16; 2] {
        let [first, second] = &self.customers;
        [self.vendor.status(first, MYAPP).await, self.vendor.status(second, MYAPP).await]
    }

    fn kept(&self) -> std::path::PathBuf {
        self.vendor.proxy.directory().join("cache/keys/revoked")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_line_makes_nobody_good_again_at_a_start() {
    gather();
    let mut garbled = Garbled::new("start").await;
    for start in 0..2 {
        garbled.vendor.proxy.restart().await;
        assert_eq!(garbled.statuses().await, [401, 401], "start {start}");
        let state = garbled.vendor.proxy.metric("roadstead_config_last_reload_successful", &[]);
        assert_eq!(state, 0, "what is on disk is not in use as it is");
    }
    let list = garbled.vendor.proxy.directory().join("revoked").display().to_string();
    let said = warnings("key", "licences.revoked");
    let told = said.iter().filter(|said| said.contains(&format!("{list}:1: ")));
    assert_eq!(told.count(), 3, "by the reload and by each start: {said:?}");
    // Somebody mends the list, without the line.
    garbled.vendor.proxy.setup().limits.good_again = AT_ONCE;
    garbled.vendor.proxy.restart().await;
    write(&garbled.vendor, &line(&garbled.vendor, "start-2"), "loaded").await;
    eventually("the list is taken", || !warnings("licences", "start-1").is_empty()).await;
    eventually("it is in use", || reloads(&garbled.vendor, "loaded") >= 2).await;
    assert_eq!(garbled.statuses().await, [200, 401]);
    garbled.vendor.proxy.restart().await;
    assert_eq!(garbled.statuses().await, [200, 401], "nothing older comes back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_finds_an_emptied_list_as_a_reload_does() {
    gather();
    let mut vendor = vendor(NEVER).await;
    let customer = vendor.customer("restarted-1", &["myapp"]);
    write(&vendor, &line(&vendor, "restarted-1"), "loaded").await;
    vendor.proxy.stop().await;
    std::fs::write(vendor.proxy.directory().join("revoked"), "").expect("writable");
    for start in 0..2 {
        vendor.proxy.start().await;
        assert_eq!(vendor.status(&customer, MYAPP).await, 401, "start {start}");
        vendor.proxy.stop().await;
    }
    vendor.proxy.setup().limits.good_again = Duration::from_millis(100);
    vendor.proxy.start().await;
    let good_again =
        || warnings("licences", "restarted-1").iter().any(|line| line.contains("good again"));
    eventually("it is told", good_again).await;
    eventually("it is taken", || reloads(&vendor, "loaded") == 1).await;
    assert_eq!(vendor.status(&customer, MYAPP).await, 200);
}

/// A lost cache, or something else in the place of the file: the lists alone count, and that is told.
#[tokio::test(flavor = "multi_thread")]
async fn without_what_was_kept_a_start_takes_the_lists_line_by_line() {
    gather();
    let mut garbled = Garbled::new("lost").await;
    let elsewhere = garbled.vendor.proxy.directory().join("elsewhere");
    std::fs::write(&elsewhere, "precious").expect("writable");
    for place in ["nothing", "a link", "a folder"] {
        garbled.vendor.proxy.stop().await;
        std::fs::remove_file(garbled.kept()).expect("it is kept");
        match place {
            "a link" => std::os::unix::fs::symlink(&elsewhere, garbled.kept()).expect("ours"),
            "a folder" => std::fs::create_dir(garbled.kept()).expect("ours"),
            _ => {}
        }
        garbled.vendor.proxy.start().await;
        assert_eq!(garbled.statuses().await, [200, 401], "{place}");
        assert_eq!(std::fs::read(&elsewhere).expect("there"), b"precious", "{place}");
    }
    let said = warnings("path", &garbled.kept().display().to_string());
    let of_all = ["cannot be read", "cannot be kept"];
    assert!(of_all.iter().all(|word| said.iter().any(|said| said.contains(word))), "{said:?}");
    std::fs::remove_dir(garbled.kept()).expect("left alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_kept_is_read_line_by_line_and_set_aside_when_it_is_damaged() {
    gather();
    let mut garbled = Garbled::new("damaged").await;
    garbled.vendor.proxy.stop().await;
    let kept = std::fs::read_to_string(garbled.kept()).expect("it is kept");
    let damaged = format!("{kept}\u{1}\u{2} no line of ours\n");
    std::fs::write(garbled.kept(), &damaged).expect("ours");
    garbled.vendor.proxy.start().await;
    assert_eq!(garbled.statuses().await, [401, 401], "the other lines count");
    let aside = garbled.kept().with_extension("damaged");
    assert_eq!(std::fs::read_to_string(aside).expect("set aside"), damaged);
    assert_eq!(std::fs::read_to_string(garbled.kept()).expect("written anew"), kept);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_disk_did_not_take_is_kept_as_soon_as_it_does() {
    gather();
    let vendor = vendor(NEVER).await;
    write(&vendor, &line(&vendor, "unkept-1"), "loaded").await;
    let kept = vendor.proxy.directory().join("cache/keys/revoked");
    std::fs::remove_file(&kept).expect("it is kept");
    std::fs::create_dir(&kept).expect("ours");
    let both = format!("{}{}", line(&vendor, "unkept-1"), line(&vendor, "unkept-2"));
    write(&vendor, &both, "loaded").await;
    std::fs::remove_dir(&kept).expect("left alone");
    let is_kept = || {
        std::fs::read_to_string(&kept)
            .is_ok_and(|text| text.contains("unkept-1 ") && text.contains("unkept-2 "))
    };
    eventually("it is kept", is_kept).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_revoked_is_kept_for_licences_that_come_with_a_reload() {
    let origin = Origin::start().await;
    let text = |more: &str| {
        format!(
            "cache: {{ path: CACHE, min_free: 0 }}\nhosts: [127.0.0.1]\n\
             upstreams: {{ registry.test: {{ url: '{}' }} }}\n{more}",
            origin.url()
        )
    };
    let mut setup = Setup::written(&text(""));
    setup.limits.watch = Duration::from_millis(20);
    let id = LicenceId::parse("late-1").expect("an id");
    let key = PrivateKey::generate().expect("randomness").public().to_pem();
    let key = setup.file("licence.pub", &key);
    let mut proxy = setup.start().await;
    let list = revocation_line(&id, proxy.clock().now(), None);
    let list = proxy.setup().file("revoked", &list);
    let licences = format!(
        "licences: {{ issuer: Acme, public_keys: ['{}'], revoked: '{}' }}\n\
         applications: {{ myapp: {{ images: [registry.test/myapp/*] }} }}",
        key.display(),
        list.display()
    );
    proxy.setup().write(&text(&licences));
    let kept = proxy.directory().join("cache/keys/revoked");
    let is_kept = || std::fs::read_to_string(&kept).is_ok_and(|text| text.starts_with("late-1 "));
    eventually("it is kept", is_kept).await;
}

/// As a file server does that is not there.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_hangs_holds_up_no_revocation() {
    let Some(disk) = Disk::freezable() else { return };
    let vendor = Vendor::start_with(|setup| {
        setup.limits.good_again = NEVER;
        setup.limits.watch = Duration::from_millis(20);
        setup.config.cache.path = disk.path("cache");
    })
    .await;
    let customers = ["hung-1", "hung-2"].map(|id| vendor.customer(id, &["myapp"]));
    disk.set_frozen(true);
    let first = line(&vendor, "hung-1");
    write(&vendor, &first, "loaded").await;
    assert_eq!(vendor.status(&customers[0], MYAPP).await, 401);
    write(&vendor, &format!("{first}{}", line(&vendor, "hung-2")), "loaded").await;
    assert_eq!(vendor.status(&customers[1], MYAPP).await, 401);
    disk.set_frozen(false);
    let kept = disk.path("cache/keys/revoked");
    let is_kept = || std::fs::read_to_string(&kept).is_ok_and(|text| text.contains("hung-2 "));
    eventually("all of it is kept", is_kept).await;
}
