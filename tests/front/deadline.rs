//! One deadline from a request's arrival to its response headers, however many waits there are on
//! the way (DESIGN §14.8).

use std::time::Duration;

use http::Method;
use tokio::time::Instant;

use crate::support::origin::{Fault, Gate, On, Origin};
use crate::support::proxy::{Setup, blob};
use crate::support::vendor::{Vendor, basic};

/// A stored hash whose check takes long on this machine, and how long.
fn slow_hash(password: &str) -> (String, Duration) {
    for cost in 8.. {
        let hash = bcrypt::hash(password, cost).expect("a hash");
        let began = Instant::now();
        assert!(bcrypt::verify(password, &hash).expect("it was just made"));
        let took = began.elapsed();
        if took >= Duration::from_millis(1500) {
            return (hash, took);
        }
    }
    unreachable!("bcrypt's cost doubles each time")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_login_and_a_silent_upstream_share_the_time_of_one_request() {
    let (hash, hashing) = slow_hash("slow-secret");
    let limit = hashing * 3;
    let vendor = Vendor::start_with(|setup| {
        setup.limits.head = limit;
        let users = setup.file("users", &format!("ops@acme.test:{hash}\n"));
        setup.config.access.users = Some(users);
    })
    .await;
    vendor.registry.fault(On::any(), Fault::HoldHead(Gate::new()));

    let began = Instant::now();
    let credential = basic("ops@acme.test", "slow-secret");
    let path = "/v2/registry.test/public/base/manifests/1.0";
    let headers = [("authorization", credential.as_str())];
    let answer = vendor.proxy.request(Method::GET, path, &headers).await;
    let took = began.elapsed();

    assert_eq!(answer.refusal(), (504, "UNAVAILABLE".to_owned()));
    // With a deadline for each of them the answer would come after the hash and the limit.
    assert!(took >= limit && took < limit + hashing / 2, "{took:?} with a limit of {limit:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_credential_helper_and_a_silent_upstream_share_the_time_of_one_download() {
    let limit = Duration::from_secs(3);
    let origin = Origin::start().await;
    let layer = origin.blob("acme/app", 1, 1000);
    origin.fault(On::path(&layer.digest), Fault::HoldHead(Gate::new()));
    let mut setup = Setup::of(&origin);
    setup.limits.flight_head = limit;
    let login = r#"sleep 2; echo '{"ServerURL":"x","Username":"robot","Secret":"secret"}'"#;
    let credential = setup.helper("**", login);
    setup.config.upstreams[0].credentials = vec![credential];
    let proxy = setup.start().await;

    let began = Instant::now();
    let answer = proxy.get(&blob("acme/app", &layer.digest)).await;
    let took = began.elapsed();

    assert_eq!(answer.refusal(), (504, "UNAVAILABLE".to_owned()));
    // With a deadline for each of them the answer would come after two and three seconds.
    assert!(took >= limit && took < limit + Duration::from_secs(1), "{took:?}");
}
