//! What ends by itself is told before it does: the certificate for clients, and licences that
//! upstreams are presented.

use std::time::Duration;

use roadstead::clock::Timestamp;
use roadstead::config::{Credential, Login};
use roadstead::licence::{Licence, LicenceId, PrivateKey};
use roadstead::oci::Pattern;
use roadstead::secret::Secret;

use crate::support::access_log;
use crate::support::eventually;
use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, Setup};
use crate::support::tls::{Authority, tls};
use crate::support::vendor::{DAY, slug};

/// A licence that ends so long after the clock of `setup`.
fn credential(setup: &Setup, id: &str, ends: Duration) -> (Credential, Timestamp) {
    let now = Timestamp::from_unix(Duration::from_secs(setup.clock.now().unix().as_secs()));
    let licence = Licence {
        id: LicenceId::parse(id).expect(id),
        issuer: "Acme Inc.".to_owned(),
        customer: "Customer GmbH".to_owned(),
        email: None,
        applications: vec![slug("myapp")],
        hosts: vec!["registry.acme.test".to_owned()],
        issued: now,
        not_before: now,
        expires: now.plus(ends),
    };
    let token = PrivateKey::generate().and_then(|key| key.sign(&licence)).expect("a token");
    let login = Login::Fixed { username: id.to_owned(), password: Secret::new(token) };
    (
        Credential {
            images: Pattern::parse("**").expect("a glob"),
            login,
            when_rejected: roadstead::config::WhenRejected::default(),
        },
        licence.expires,
    )
}

async fn presenting(id: &str, ends: Duration) -> (Proxy, Timestamp) {
    let origin = Origin::start().await;
    let mut setup = Setup::of(&origin);
    setup.limits.expiry_check = Duration::from_millis(5);
    let (credential, expires) = credential(&setup, id, ends);
    setup.config.upstreams[0].credentials = vec![credential];
    (setup.start().await, expires)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_licence_for_an_upstream_is_warned_of_daily_from_14_days_before_its_end() {
    access_log::gather();
    let (proxy, _) = presenting("ends-soon", 15 * DAY).await;
    let told = || access_log::warnings("licence", "ends-soon");
    assert_eq!(told(), Vec::<String>::new(), "15 days are not soon");
    proxy.clock().advance(DAY);
    eventually("it is told", || told().len() == 1).await;
    let first = told().remove(0);
    assert!(first.contains("docker.io ends on") && first.contains("Acme Inc."), "{first}");
    proxy.clock().advance(DAY);
    eventually("it is told again", || told().len() == 2).await;
    proxy.clock().advance(13 * DAY);
    eventually("its end is told", || told().len() > 2).await;
    assert_eq!(told().len(), 3, "once a day, however often it is looked at");
    assert!(told()[2].contains("has ended on"), "{:?}", told());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_has_its_end_as_a_metric() {
    let (proxy, expires) = presenting("measured", 90 * DAY).await;
    let scrape = proxy.admin("/metrics").await;
    let line = format!(
        "roadstead_licence_expiry_timestamp_seconds{{licence=\"measured\",upstream=\"docker.io\"}} {}",
        expires.unix().as_secs()
    );
    assert!(scrape.text().lines().any(|found| found == line), "{}", scrape.text());
    assert!(!scrape.text().contains("\nroadstead_certificate_expiry"), "there is no certificate");

    let origin = Origin::start().await;
    let mut setup = Setup::of(&origin);
    setup.config.tls = Some(tls(&setup, &Authority::new(), None));
    let proxy = setup.start().await;
    let scrape = proxy.admin("/metrics").await;
    // The end of the year 4000.
    let line = "roadstead_certificate_expiry_timestamp_seconds 64092124801";
    assert!(scrape.text().lines().any(|found| found == line), "{}", scrape.text());
}
