//! The address of an upload: ours to look at, the registry's to read, and good for whoever was
//! given it.

use bytes::Bytes;
use http::Method;
use roadstead::config::{Rule, Writes};
use roadstead::identity::Identity;

use crate::support::content::Blob;
use crate::support::eventually;
use crate::support::origin::{Auth, Bearer, Dialect, Fault, Kind, Login, On, Origin};
use crate::support::proxy::{Setup, blob};
use crate::support::push::{
    ALL, Client, anyone, ending, location, open_to_all, proxy_keeping_pushes, uploads, writes,
};
use crate::support::vendor::{Vendor, basic, rule};

const LAYER: u64 = 10_000;

/// A registry that `ci` and `ops@acme.test` may push to, `ci` with the rights of a publisher.
async fn two_who_push() -> Vendor {
    Vendor::start_with(|setup| {
        setup.config.upstreams[0].writes = Writes::Kept;
        let everything =
            rule(Identity::User("ops@acme.test".to_owned()), ALL, &["registry.test/**"]);
        setup.config.access.rules.push(everything);
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_below_the_image_and_shows_nothing_of_the_registrys() {
    let origin = Origin::start().await;
    let other = Origin::start().await;
    let absolute = format!("http://{}", other.authority());
    for prefix in ["", "https://storage.example:8443", "http://127.0.0.1:1", &absolute] {
        origin.behave(Dialect { location: prefix.to_owned(), ..Dialect::default() });
        let proxy = proxy_keeping_pushes(&origin).await;
        let (client, layer) = (anyone(&proxy), Blob::seeded(1, LAYER));
        let begun = client.post(&uploads("registry.test/a/b")).await;
        let sent = client.patch(&location(&begun), layer.bytes()).await;
        for answer in [&begun, &sent] {
            let session = location(answer);
            let session = session
                .strip_prefix("/v2/registry.test/a/b/blobs/uploads/")
                .expect("below the image");
            assert!(
                session.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)),
                "{session}"
            );
            let readable =
                base64::Engine::decode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, session)
                    .expect("base64");
            let readable = String::from_utf8_lossy(&readable).into_owned();
            for secret in ["upload-", "_state", "/v2/", "example", "127.0.0.1"] {
                assert!(!readable.contains(secret) && !session.contains(secret), "{session}");
            }
        }
        assert_ne!(location(&begun), location(&sent));
        let done = client.put(&location(&sent), &layer.digest, Bytes::new()).await;
        assert_eq!((done.status, proxy.lookups()), (201, vec![]), "{prefix}: {done:?}");
    }
    assert_eq!(
        other.connections(),
        0,
        "the registry that is configured is asked, whatever it says"
    );
}

/// Whether the prefix or `ns` decided, the client is sent back the same way.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_leads_back_the_way_it_was_asked_for() {
    let origin = Origin::start().await;
    let proxy = proxy_keeping_pushes(&origin).await;
    let (client, layer) = (anyone(&proxy), Blob::seeded(1, LAYER));
    for (path, shape) in [
        ("/registry.test/v2/a/b/blobs/uploads/", "/registry.test/v2/a/b/blobs/uploads/"),
        ("/v2/a/b/blobs/uploads/?ns=registry.test", "/v2/a/b/blobs/uploads/"),
        (
            "/v2/proxy/registry.test/a/b/blobs/uploads/",
            "/v2/proxy/registry.test/a/b/blobs/uploads/",
        ),
        ("/v2/a/b/blobs/uploads", "/v2/a/b/blobs/uploads/"),
    ] {
        let begun = client.post(path).await;
        let at = location(&begun);
        assert!(
            at.starts_with(shape) && at.ends_with("?ns=registry.test") == path.contains("?ns"),
            "{at}"
        );
        assert_eq!(client.put(&at, &layer.digest, layer.bytes()).await.status, 201);
    }
    assert!(proxy.has_stored(&layer.digest));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_opens_for_nobody_and_nothing_else() {
    let vendor = two_who_push().await;
    let (ci, ops) = (basic("ci", "ci-secret"), basic("ops@acme.test", "ops-secret"));
    let ci = Client { proxy: &vendor.proxy, authorization: Some(&ci) };
    let ops = Client { proxy: &vendor.proxy, authorization: Some(&ops) };
    let layer = Blob::seeded(1, LAYER);
    let at = ci.begin("registry.test/myapp/worker").await;
    let asked = writes(&vendor.registry);
    let session = at.rsplit_once('/').expect("a path").1;
    let elsewhere = format!("/v2/registry.test/myapp/api/blobs/uploads/{session}");
    let mut altered: Vec<String> =
        (0..session.len()).step_by(7).map(|i| alter(&at, at.len() - session.len() + i)).collect();
    altered.extend([
        at[..at.len() - 1].to_owned(),
        format!("{at}A"),
        uploads("registry.test/myapp/worker") + "x",
    ]);
    let strangers = [(ops, at.clone()), (ci, elsewhere)];
    let strangers = strangers.into_iter().chain(altered.into_iter().map(|altered| (ci, altered)));
    for (client, path) in strangers {
        for method in [Method::PATCH, Method::PUT, Method::GET, Method::DELETE] {
            let path =
                if method == Method::PUT { ending(&path, &layer.digest) } else { path.clone() };
            let body = if method == Method::GET { Bytes::new() } else { layer.bytes() };
            let refused = client.send(method, &path, &[], body).await;
            assert_eq!(refused.refusal(), (404, "BLOB_UPLOAD_UNKNOWN".into()), "{path}");
        }
    }
    assert_eq!(writes(&vendor.registry), asked, "nothing was asked upstream");
    assert_eq!(ci.put(&at, &layer.digest, layer.bytes()).await.status, 201);
}

/// With another character at this place.
fn alter(text: &str, place: usize) -> String {
    let mut bytes = text.to_owned().into_bytes();
    bytes[place] = if bytes[place] == b'A' { b'B' } else { b'A' };
    String::from_utf8(bytes).expect("ASCII")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_good_for_other_tokens_of_the_same_user() {
    let vendor = two_who_push().await;
    let login = basic("ci", "ci-secret");
    let token = async || {
        let answer =
            vendor.proxy.request(Method::GET, "/token", &[("authorization", login.as_str())]).await;
        format!("Bearer {}", answer.json()["token"].as_str().expect("a token"))
    };
    let first = token().await;
    let at = Client { proxy: &vendor.proxy, authorization: Some(&first) }
        .begin("registry.test/myapp/worker")
        .await;
    vendor.proxy.clock().advance(std::time::Duration::from_mins(30));
    let second = token().await;
    assert_ne!(first, second);
    let (layer, client) =
        (Blob::seeded(1, LAYER), Client { proxy: &vendor.proxy, authorization: Some(&second) });
    assert_eq!(client.put(&at, &layer.digest, layer.bytes()).await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_outlives_one_change_of_the_key_and_not_two() {
    let origin = Origin::start().await;
    let mut setup = open_to_all(&origin, Writes::Kept);
    setup.config.access.key_file = Some(setup.file("key", &"1".repeat(64)));
    let mut proxy = setup.start().await;
    let layer = Blob::seeded(1, LAYER);
    let at = [anyone(&proxy).begin("a/b").await, anyone(&proxy).begin("a/b").await];
    for (n, (at, status)) in at.iter().zip([201, 404]).enumerate() {
        let loaded =
            || proxy.metric("roadstead_reloads_total", &[("part", "key"), ("outcome", "loaded")]);
        let before = loaded();
        std::fs::write(proxy.directory().join("key"), (n + 2).to_string().repeat(64))
            .expect("writable");
        proxy.reload();
        eventually("the key is loaded", || loaded() > before).await;
        assert_eq!(
            anyone(&proxy).put(at, &layer.digest, layer.bytes()).await.status,
            status,
            "change {n}"
        );
    }
    proxy.stop().await;
}

/// Also where it takes two scopes in one token (UPL-7), and where bytes cannot be sent a second
/// time after a challenge.
#[tokio::test(flavor = "multi_thread")]
async fn every_step_works_with_a_registry_that_gives_out_tokens() {
    let origin = Origin::start().await;
    let login = Login { username: "robot", password: "hunter2" };
    origin.require(Auth::Bearer(Bearer { login: Some(login), ..Bearer::default() }));
    let layer = Blob::seeded(1, LAYER);
    origin.put_blob("c/d", &layer);
    let mut proxy = with_login(&origin).start().await;
    let steps = Blob::seeded(2, LAYER);
    let at = anyone(&proxy).begin("a/b").await;
    proxy.restart().await;
    // The first that this process asks of the registry is a body that it can send once.
    let sent = anyone(&proxy).patch(&at, steps.bytes()).await;
    assert_eq!(sent.status, 202, "{sent:?}");
    assert_eq!(anyone(&proxy).put(&location(&sent), &steps.digest, Bytes::new()).await.status, 201);
    let at = anyone(&proxy).begin("a/b").await;
    let status = proxy.get(&at).await;
    assert_eq!((status.status, anyone(&proxy).delete(&location(&status)).await.status), (204, 204));
    let mount = format!("{}?mount={}&from=c/d", uploads("a/b"), layer.digest);
    assert_eq!(anyone(&proxy).post(&mount).await.status, 201);
    assert_eq!(anyone(&proxy).delete(&blob("a/b", &layer.digest)).await.status, 202);
    let scopes = origin.requests().into_iter().filter(|request| request.kind == Kind::Token);
    let scopes: Vec<_> = scopes.map(|request| request.parameters("scope")).collect();
    assert!(
        scopes.contains(&vec![
            "repository:c/d:pull".to_owned(),
            "repository:a/b:pull,push".to_owned()
        ]),
        "{scopes:?}"
    );
}

fn with_login(origin: &Origin) -> Setup {
    let mut setup = open_to_all(origin, Writes::Kept);
    setup.config.upstreams[0].credentials = vec![roadstead::config::Credential {
        images: roadstead::oci::Pattern::parse("**").expect("a glob"),
        when_rejected: roadstead::config::WhenRejected::default(),
        login: roadstead::config::Login::Fixed {
            username: "robot".to_owned(),
            password: roadstead::secret::Secret::new("hunter2".to_owned()),
        },
    }];
    setup
}

/// The registry has forgotten the token, which nobody knew: that is no denial, and the next try has
/// a better one.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_ends_early_costs_one_step_and_is_not_taken_for_a_denial() {
    let origin = Origin::start().await;
    let login = Login { username: "robot", password: "hunter2" };
    origin.require(Auth::Bearer(Bearer { login: Some(login), ..Bearer::default() }));
    let proxy = with_login(&origin).start().await;
    let (client, layer) = (anyone(&proxy), Blob::seeded(1, LAYER));
    let at = client.begin("a/b").await;
    origin.forget_tokens();
    let refused = client.patch(&at, layer.bytes()).await;
    assert_eq!(refused.refusal(), (503, "UNAVAILABLE".into()));
    assert!(refused.header("retry-after").is_some());
    assert_eq!(client.put(&at, &layer.digest, layer.bytes()).await.status, 201);
    // A registry that refuses its own fresh token denies it.
    origin.fault(On::kind(Kind::Upload), Fault::Status(403));
    assert_eq!(client.post(&uploads("a/b")).await.refusal(), (403, "DENIED".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_may_be_for_whoever_comes_without_a_name() {
    let origin = Origin::start().await;
    let mut setup = open_to_all(&origin, Writes::Kept);
    let rule: &mut Rule = &mut setup.config.access.rules[0];
    rule.networks = vec!["127.0.0.0/8".parse().expect("a network")];
    let proxy = setup.start().await;
    assert_eq!(anyone(&proxy).blob("a/b", &Blob::seeded(1, LAYER)).await.status, 201);
}
