//! A registry that rejects our login: what is cached is served as in an outage, or withheld where
//! the refusal is its issuer's last word (UP-6, UP-9, UP-13).

use std::time::Duration;

use bytes::Bytes;
use roadstead::config::{self, Credential, WhenRejected};
use roadstead::oci::Pattern;
use roadstead::secret::Secret;

use crate::support::image::Image;
use crate::support::origin::{Auth, Bearer, Fault, Kind, Login, On, Origin};
use crate::support::proxy::{Proxy, Setup, manifest};
use crate::support::pulled::{paths, pull};
use crate::support::vendor::{DAY, Vendor};

/// Longer than a tag and a proof are believed.
const OLD: Duration = Duration::from_secs(601);
const RIGHT: Login = Login { username: "robot", password: "right" };
const OTHER: Login = Login { username: "robot", password: "other" };
const EXPIRED: &str =
    r#"{"errors":[{"code":"DENIED","message":"Your authorization token has expired."}]}"#;

fn credential(login: &Login, when_rejected: WhenRejected) -> Credential {
    let (username, password) = (login.username.to_owned(), Secret::new(login.password.to_owned()));
    let login = config::Login::Fixed { username, password };
    Credential { images: Pattern::parse("**").expect("a glob"), login, when_rejected }
}

fn bearer(login: Login) -> Auth {
    Auth::Bearer(Bearer { login: Some(login), expires_in: Some(60), ..Bearer::default() })
}

/// A proxy that has pulled `a/b:v1` whole with its login.
async fn pulled(auth: Auth, when_rejected: WhenRejected) -> (Origin, Image, Proxy) {
    let image = Image::new(1, &[300_000]);
    let origin = Origin::with("a/b", "v1", &image).await;
    origin.require(auth);
    let mut setup = Setup::new();
    setup.upstream("docker.io", &origin).credentials = vec![credential(&RIGHT, when_rejected)];
    let proxy = setup.start().await;
    pull(&proxy, &image).await;
    (origin, image, proxy)
}

fn rejected(proxy: &Proxy) -> i64 {
    proxy.metric("roadstead_upstream_credential_rejected", &[("upstream", "docker.io")])
}

/// Its name, how the origin authenticates, and what makes it reject the login.
type Rejection = (&'static str, Auth, Box<dyn Fn(&Origin)>);

/// Ways in which a login that was good is rejected.
fn rejections() -> Vec<Rejection> {
    let denied = |status, text: &'static str| {
        move |on: On, origin: &Origin| {
            origin.fault(on, Fault::Instead(status, "application/json", text.into()));
        }
    };
    let (expired, refused) = (denied(403, EXPIRED), denied(403, "{}"));
    let basic = || Auth::Basic(RIGHT);
    vec![
        ("Basic 401", basic(), Box::new(|origin| origin.require(Auth::Basic(OTHER)))),
        ("ECR's 403", basic(), Box::new(move |origin| expired(On::any(), origin))),
        ("a token service's 401", bearer(RIGHT), Box::new(|origin| origin.require(bearer(OTHER)))),
        (
            "a token service's 403",
            bearer(RIGHT),
            Box::new(move |origin| {
                origin.forget_tokens();
                refused(On::kind(Kind::Token), origin);
            }),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn while_our_login_is_rejected_what_is_cached_is_served_and_the_rest_is_502() {
    for (what, auth, reject) in rejections() {
        let (origin, image, proxy) = pulled(auth.clone(), WhenRejected::ServeStale).await;
        assert_eq!(rejected(&proxy), 0, "{what}");
        reject(&origin);
        proxy.clock().advance(OLD);
        for _ in 0..2 {
            for path in paths(&image) {
                let answer = proxy.get(&path).await;
                let warns = answer.headers.contains_key("warning");
                assert_eq!((answer.status, warns), (200, path.ends_with("/v1")), "{what}: {path}");
            }
        }
        let other = proxy.get(&manifest("a/b", "v2")).await;
        assert_eq!(other.refusal(), (502, "UNAVAILABLE".into()), "{what}");
        assert_eq!(rejected(&proxy), 1, "{what}");
        proxy.clock().advance(25 * Duration::from_hours(1));
        for path in paths(&image) {
            assert_eq!(proxy.get(&path).await.status, 502, "{what}: too old: {path}");
        }
        origin.repair();
        origin.require(auth);
        for path in paths(&image) {
            assert_eq!(proxy.get(&path).await.status, 200, "{what}: accepted again: {path}");
        }
        assert_eq!(rejected(&proxy), 0, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_refusal_is_final_nothing_is_served_and_its_reason_is_told() {
    const WHY: &str = "{\"errors\":[{\"code\":\"UNAUTHORIZED\",\"message\":\"licence acme-prod was \
        revoked\\u001b[31m on 1 May;\\nask sales@acme.test\"}]}";
    for (auth, on) in [(Auth::Basic(RIGHT), On::any()), (bearer(RIGHT), On::kind(Kind::Token))] {
        let (origin, image, proxy) = pulled(auth.clone(), WhenRejected::Withhold).await;
        origin.forget_tokens();
        origin.fault(on, Fault::Instead(401, "application/json", Bytes::from(WHY)));
        proxy.clock().advance(Duration::from_secs(301));
        for path in paths(&image) {
            let answer = proxy.get(&path).await;
            assert_eq!((answer.status, answer.code()), (403, "DENIED".into()), "{path}");
            let message = answer.message();
            let said = "licence acme-prod was revoked [31m on 1 May; ask sales@acme.test";
            assert!(message.contains(said), "{path}: {message}");
            assert!(!message.chars().any(char::is_control), "{message:?}");
        }
        assert_eq!(rejected(&proxy), 1);
        origin.repair();
        origin.require(auth);
        for path in paths(&image) {
            assert_eq!(proxy.get(&path).await.status, 200, "accepted again: {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_licence_that_has_ended_is_told_by_the_vendor_to_the_customers_client() {
    let vendor = Vendor::start().await;
    let licence = vendor.licence("acme-prod", &["myapp"], 90 * DAY);
    let mut setup = Setup::new();
    setup.upstream("registry.test", &vendor.registry);
    let upstream = &mut setup.config.upstreams[0];
    upstream.url = format!("http://{}", vendor.proxy.authority()).parse().expect("a URL");
    let password = Secret::new(vendor.sign(&licence));
    let login = config::Login::Fixed { username: "acme-prod".to_owned(), password };
    let images = Pattern::parse("**").expect("a glob");
    upstream.credentials =
        vec![Credential { images, login, when_rejected: WhenRejected::Withhold }];
    let customer = setup.start().await;
    let path = "/v2/registry.test/registry.test/myapp/worker/manifests/1.0";
    assert_eq!(customer.get(path).await.status, 200);
    vendor.proxy.clock().advance(91 * DAY);
    customer.clock().advance(OLD);
    let answer = customer.get(path).await;
    assert_eq!(answer.refusal(), (403, "DENIED".into()));
    assert!(answer.message().contains("acme-prod"), "{}", answer.message());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_token_that_is_refused_once_is_shown_once_more() {
    let image = Image::new(1, &[1000]);
    let origin = Origin::with("a/b", "v1", &image).await;
    origin.require(Auth::Bearer(Bearer::default()));
    let realm = format!("Bearer realm=\"{}token\",service=\"scripted\"", origin.url());
    for error in ["", ",error=\"invalid_token\""] {
        let proxy = Proxy::of(&origin).await;
        let tokens = origin.count(|request| request.kind == Kind::Token);
        // Without a token, and with one that is not valid yet by the registry's clock.
        let on = || On::kind(Kind::Manifest).times(2);
        origin.fault(on(), Fault::Status(401));
        origin.fault(on(), Fault::Header("WWW-Authenticate", Some(format!("{realm}{error}"))));
        assert_eq!(proxy.get(&manifest("a/b", "v1")).await.body, image.manifest.bytes, "{error}");
        assert_eq!(origin.count(|request| request.kind == Kind::Token), tokens + 1, "{error}");
    }
}
