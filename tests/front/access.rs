//! Who may do what, through the front door (ACCESS §1 to §5).

use std::time::Duration;

use http::Method;
use roadstead::config::{self, Credential, UnknownCredentials};
use roadstead::licence::Licence;
use roadstead::oci::Pattern;
use roadstead::secret::Secret;
use tokio::time::Instant;

use crate::support::client::Answer;
use crate::support::eventually;
use crate::support::image::Image;
use crate::support::proxy::Setup;
use crate::support::vendor::{DAY, Vendor, basic};

const MYAPP: &str = "/v2/registry.test/myapp/worker/manifests/1.0";
const OTHER: &str = "/v2/registry.test/other/worker/manifests/1.0";
const PUBLIC: &str = "/v2/registry.test/public/base/manifests/1.0";

async fn get(vendor: &Vendor, authorization: &str, path: &str) -> Answer {
    vendor.proxy.request(Method::GET, path, &[("authorization", authorization)]).await
}

async fn token(vendor: &Vendor, authorization: &str) -> String {
    let answer =
        get(vendor, authorization, "/token?service=x&scope=repository:any/thing:pull,push").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let document = answer.json();
    assert_eq!(document["token"], document["access_token"]);
    assert!(document.get("refresh_token").is_none());
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    format!("Bearer {}", document["token"].as_str().expect("a token"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_challenged_once_and_told_where_to_go() {
    let vendor = Vendor::start().await;
    let authority = vendor.proxy.authority();
    let answer = vendor.proxy.get("/v2/").await;
    let expected = format!(r#"Bearer realm="http://{authority}/token",service="{authority}""#);
    assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some(expected.as_str())));
    assert_eq!(answer.header("docker-distribution-api-version"), Some("registry/2.0"));
    let answer = vendor.proxy.get(MYAPP).await;
    let scope = r#",scope="repository:registry.test/myapp/worker:pull""#;
    assert_eq!(answer.header("www-authenticate"), Some(format!("{expected}{scope}").as_str()));
    assert_eq!(vendor.proxy.get("/v2/_catalog").await.status, 401);
    assert_eq!(vendor.proxy.get(PUBLIC).await.status, 200, "what anybody may pull needs no login");
    assert_eq!(vendor.registry.count(|request| request.path.contains("myapp")), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_means_something_everywhere() {
    let vendor = Vendor::start().await;
    let wrong =
        ["ci:wrong", "eve:ci-secret", "ci:"].map(|pair| pair.split_once(':').expect("a pair"));
    for (user, password) in wrong {
        vendor.proxy.clock().advance(Duration::from_mins(1));
        for path in ["/v2/", "/token", MYAPP, PUBLIC] {
            let answer = get(&vendor, &basic(user, password), path).await;
            assert_eq!(
                (answer.status, answer.message().as_str()),
                (401, "wrong user, password or licence"),
                "{user} {path}"
            );
        }
    }
    for (user, password) in [("ci", "ci-secret"), ("ops@acme.test", "ops-secret")] {
        assert_eq!(vendor.status(&basic(user, password), "/v2/").await, 200);
        let bearer = token(&vendor, &basic(user, password)).await;
        assert_eq!(vendor.status(&bearer, "/v2/").await, 200);
        assert_eq!(vendor.status(&bearer, MYAPP).await, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_a_token_for_nobody_only_where_that_opens_something() {
    let vendor = Vendor::start().await;
    for empty in ["Basic Og==", ""] {
        let headers: &[(&'static str, &str)] =
            if empty.is_empty() { &[] } else { &[("authorization", empty)] };
        let answer = vendor.proxy.request(Method::GET, "/token", headers).await;
        assert_eq!(answer.status, 200);
        let bearer = format!("Bearer {}", answer.json()["token"].as_str().expect("a token"));
        assert_eq!(vendor.status(&bearer, "/v2/").await, 200);
        assert_eq!(vendor.status(&bearer, PUBLIC).await, 200);
        let refused = get(&vendor, &bearer, MYAPP).await;
        assert_eq!(refused.status, 401);
        assert!(
            refused
                .header("www-authenticate")
                .expect("a challenge")
                .ends_with(r#",error="insufficient_scope""#)
        );
    }
    let closed = Vendor::start_with(|setup| setup.config.access.rules.clear()).await;
    assert_eq!(closed.proxy.get("/token").await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_licence_pulls_its_application_by_either_name_and_nothing_else() {
    let vendor = Vendor::start().await;
    let customer = vendor.customer("acme-prod", &["myapp"]);
    let bearer = token(&vendor, &customer).await;
    for authorization in [&customer, &bearer] {
        for (path, status) in [
            ("/v2/", 200),
            (MYAPP, 200),
            ("/v2/registry.test/myapp/worker/tags/list", 200),
            ("/v2/quay.io/acme/api/manifests/2.0", 200),
            ("/v2/proxy/myapp/quay.io/acme/api/manifests/2.0", 200),
            ("/v2/proxy/myapp/registry.test/myapp/worker/manifests/1.0", 200),
            ("/v2/proxy/other/registry.test/other/worker/manifests/1.0", 404),
            ("/v2/proxy/myapp/registry.test/other/worker/manifests/1.0", 404),
            ("/v2/proxy/myapp/registry.test/public/base/manifests/1.0", 404),
            (OTHER, 404),
            (PUBLIC, 200),
            ("/v2/registry.test/hidden/secret/manifests/1.0", 404),
            ("/v2/nowhere.test/a/manifests/1.0", 404),
        ] {
            assert_eq!(vendor.status(authorization, path).await, status, "{path}");
        }
    }
    let by_email =
        basic("it@customer.test", &vendor.sign(&vendor.licence("acme-prod", &["myapp"], DAY)));
    assert_eq!(vendor.status(&by_email, MYAPP).await, 200);
    let by_other = basic("somebody", &vendor.sign(&vendor.licence("acme-prod", &["myapp"], DAY)));
    assert_eq!(vendor.status(&by_other, MYAPP).await, 401);
    assert_eq!(
        vendor
            .registry
            .count(|request| request.path.contains("other") || request.path.contains("hidden")),
        0
    );
    assert_eq!(vendor.registry.count(|request| request.header("authorization").is_some()), 0);
}

/// As `docker login --password-stdin` sends it, from an e-mail or from a terminal.
#[tokio::test(flavor = "multi_thread")]
async fn a_licence_is_good_however_its_token_was_wrapped_or_pasted() {
    let vendor = Vendor::start().await;
    let token = vendor.sign(&vendor.licence("acme-prod", &["myapp"], DAY));
    let lines = |length: usize, end: &str| {
        let chunks = token.as_bytes().chunks(length);
        let lines: Vec<_> = chunks.map(|line| std::str::from_utf8(line).expect("ASCII")).collect();
        lines.join(end)
    };
    for wrapped in [
        format!("{token}\n"),
        format!(" \t{token} \r\n"),
        lines(76, "\r\n"),
        lines(64, "\n  "),
        lines(20, "\u{a0}"),
    ] {
        let answer = get(&vendor, &basic("acme-prod", &wrapped), MYAPP).await;
        assert_eq!(answer.status, 200, "{wrapped:?}: {}", answer.text());
        let url = format!("http://{}/token", vendor.proxy.authority());
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "password").append_pair("username", "acme-prod");
        let request = client
            .post(url)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form.append_pair("password", &wrapped).finish());
        assert_eq!(request.send().await.expect("an answer").status(), 200, "{wrapped:?}");
    }
    let cut = format!("{}\n", &token[..token.len() - 9]);
    assert_eq!(vendor.status(&basic("acme-prod", &cut), MYAPP).await, 401);
    let spaced = vendor.status(&basic("ci", "ci-secret\n"), MYAPP).await;
    assert_eq!(spaced, 401, "blanks are part of a password");
}

#[tokio::test(flavor = "multi_thread")]
async fn absent_and_forbidden_look_the_same() {
    let vendor = Vendor::start().await;
    let warm = vendor.customer("other-co", &["other"]);
    assert_eq!(vendor.status(&warm, OTHER).await, 200);
    let digest = get(&vendor, &warm, OTHER).await.digest();
    let customer = vendor.customer("acme-prod", &["myapp"]);
    let kinds = [
        "manifests/1.0".to_owned(),
        format!("manifests/{digest}"),
        format!("blobs/{digest}"),
        "tags/list".to_owned(),
    ];
    for kind in kinds {
        let mut answers = Vec::new();
        for name in [
            "registry.test/other/worker",
            "registry.test/other/missing",
            "registry.test/missing",
            "gone.test/a",
        ] {
            let mut answer = get(&vendor, &customer, &format!("/v2/{name}/{kind}")).await;
            answer.headers.remove("date");
            answer.headers.remove("x-request-id");
            answers.push((answer.status, answer.headers, answer.body));
        }
        assert!(
            answers.iter().all(|answer| *answer == answers[0] && answer.0 == 404),
            "{kind}: {answers:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_are_refused_with_a_sentence_to_those_who_are_known() {
    let vendor = Vendor::start().await;
    let customer = vendor.customer("acme-prod", &["myapp"]);
    let upload = |name: &str| format!("/v2/{name}/blobs/uploads/");
    let post = async |authorization: &str, name: &str| {
        vendor.proxy.request(Method::POST, &upload(name), &[("authorization", authorization)]).await
    };
    let refused = post(&customer, "registry.test/other/worker").await;
    assert_eq!(
        (refused.refusal(), refused.message()),
        ((403, "DENIED".into()), "licence:acme-prod may not push here".into())
    );
    assert_eq!(post(&customer, "registry.test/myapp/worker").await.status, 405);
    assert_eq!(post("Basic Og==", "registry.test/other/worker").await.status, 401);
    assert_eq!(vendor.registry.requests().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_licence_ends_on_its_day_also_under_a_running_token() {
    let vendor = Vendor::start().await;
    let customer = basic(
        "acme-prod",
        &vendor.sign(&vendor.licence("acme-prod", &["myapp"], 10 * 60 * Duration::from_secs(1))),
    );
    let issued = get(&vendor, &customer, "/token").await.json();
    assert_eq!(issued["expires_in"], 600, "the token does not outlive the licence");
    let bearer = token(&vendor, &customer).await;
    let warned = get(&vendor, &bearer, MYAPP).await;
    assert!(
        warned.header("warning").expect("a warning").contains("licence acme-prod ends on "),
        "{:?}",
        warned.headers
    );
    vendor.proxy.clock().advance(Duration::from_secs(599));
    assert_eq!(
        (vendor.status(&customer, MYAPP).await, vendor.status(&bearer, MYAPP).await),
        (200, 200)
    );
    vendor.proxy.clock().advance(Duration::from_secs(1));
    for (authorization, path) in
        [(&customer, "/token"), (&customer, MYAPP), (&bearer, MYAPP), (&bearer, "/v2/")]
    {
        let answer = get(&vendor, authorization, path).await;
        let told = answer.message();
        assert!(
            answer.status == 401 && told.starts_with("licence acme-prod expired on "),
            "{path}: {told}"
        );
        assert!(told.ends_with("; ask Acme Inc."), "{told}");
    }
    let challenge = get(&vendor, &bearer, MYAPP).await;
    assert!(
        challenge
            .header("www-authenticate")
            .expect("a challenge")
            .contains(r#"error="invalid_token""#)
    );
    let far = vendor.customer("acme-next", &["myapp"]);
    assert_eq!(get(&vendor, &far, MYAPP).await.header("warning"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_password_ends_the_tokens_of_its_user() {
    let vendor = Vendor::start().await;
    let bearer = token(&vendor, &basic("ci", "ci-secret")).await;
    let other = token(&vendor, &basic("ops@acme.test", "ops-secret")).await;
    let file = vendor.proxy.directory().join("users");
    let users = std::fs::read_to_string(&file).expect("users");
    let others =
        users.lines().filter(|line| !line.starts_with("ci:")).collect::<Vec<_>>().join("\n");
    std::fs::write(&file, others).expect("writable");
    vendor.proxy.reload();
    let loaded = || {
        vendor.proxy.metric("roadstead_reloads_total", &[("part", "users"), ("outcome", "loaded")])
    };
    eventually("the users are read", || loaded() == 1).await;
    assert_eq!(
        (vendor.status(&bearer, MYAPP).await, vendor.status(&other, MYAPP).await),
        (401, 200)
    );
    let revoked = [("scheme", "bearer"), ("outcome", "token_revoked")];
    assert_eq!(vendor.proxy.metric("roadstead_auth_attempts_total", &revoked), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_an_open_name_an_unknown_credential_is_as_good_as_none() {
    let open = |setup: &mut crate::support::proxy::Setup| {
        setup.config.hosts[0].unknown_credentials = UnknownCredentials::Anonymous;
    };
    let vendor = Vendor::start_with(open).await;
    for uninvited in
        [basic("hub-user", "hub-password"), "Bearer x.y.z".to_owned(), "Digest x".to_owned()]
    {
        assert_eq!(vendor.status(&uninvited, "/v2/").await, 200);
        assert_eq!(vendor.status(&uninvited, PUBLIC).await, 200);
        assert_eq!(vendor.status(&uninvited, MYAPP).await, 401);
        assert_eq!(vendor.status(&uninvited, "/v2/a/b/manifests/1?ns=unknown.test").await, 404);
    }
    let ignored =
        |outcome| vendor.proxy.metric("roadstead_auth_attempts_total", &[("outcome", outcome)]);
    for outcome in ["ignored_unknown_user", "ignored_token_invalid", "ignored_malformed"] {
        assert_eq!(ignored(outcome), 4, "{outcome}");
    }
    assert_eq!(vendor.status(&vendor.customer("acme-prod", &["myapp"]), MYAPP).await, 200);
}

/// A wrong answer that has no time left to take as long as any would tell names apart.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_ends_at_the_deadline_of_its_request_and_tells_nothing_then() {
    let vendor = Vendor::start_with(|setup| {
        let hash = bcrypt::hash("ci-secret", 12).expect("a hash");
        setup.config.access.users = Some(setup.file("slow-users", &format!("ci:{hash}\n")));
        setup.limits.head = Duration::from_millis(200);
    })
    .await;
    for user in ["ci", "eve"] {
        let begun = Instant::now();
        let answer = get(&vendor, &basic(user, "wrong"), "/v2/").await;
        assert_eq!((answer.status, answer.header("retry-after")), (429, Some("2")), "{user}");
        assert!(begun.elapsed() >= Duration::from_millis(200), "{user}");
    }
    let labels = [("scheme", "basic"), ("outcome", "overloaded")];
    assert_eq!(vendor.proxy.metric("roadstead_auth_attempts_total", &labels), 2);
}

/// Every reason has its word for the operator, whatever the client is told.
#[tokio::test(flavor = "multi_thread")]
async fn what_came_of_a_login_is_counted_by_reason() {
    let vendor = Vendor::start().await;
    let licence = |id: &str, good_for| vendor.licence(id, &["myapp"], good_for);
    let ended = vendor.sign(&licence("acme-old", Duration::from_secs(1)));
    let begins = vendor.proxy.clock().now().plus(DAY);
    let future = vendor.sign(&Licence { not_before: begins, ..licence("acme-next", 2 * DAY) });
    let good = vendor.sign(&licence("acme-prod", DAY));
    let bearer = token(&vendor, &basic("ci", "ci-secret")).await;
    vendor.proxy.clock().advance(Duration::from_secs(1));
    for (authorization, scheme, outcome) in [
        (basic("ci", "ci-secret"), "basic", "accepted"),
        (bearer.clone(), "bearer", "accepted"),
        ("Digest x".to_owned(), "unreadable", "malformed"),
        (basic("eve", "ci-secret"), "basic", "unknown_user"),
        (basic("ci", "wrong"), "basic", "wrong_password"),
        (basic("acme-old", &ended), "basic", "licence_expired"),
        (basic("acme-next", &future), "basic", "licence_not_yet"),
        (basic("acme-prod", &good[..good.len() - 2]), "basic", "licence_invalid"),
        (basic("ci", &good), "basic", "licence_user_mismatch"),
        ("Bearer x.y.z".to_owned(), "bearer", "token_invalid"),
    ] {
        let counted = || {
            let labels = [("scheme", scheme), ("outcome", outcome)];
            vendor.proxy.metric("roadstead_auth_attempts_total", &labels)
        };
        let before = counted();
        get(&vendor, &authorization, "/v2/").await;
        assert_eq!(counted(), before + 1, "{authorization}: {outcome}");
    }
    let count =
        |outcome| vendor.proxy.metric("roadstead_auth_attempts_total", &[("outcome", outcome)]);
    for guess in ["wrong", "1", "2", "3", "4", "5"] {
        get(&vendor, &basic("ci", guess), "/v2/").await;
    }
    assert_eq!(
        (count("wrong_password"), count("throttled")),
        (6, 1),
        "five different ones a minute"
    );
    vendor.proxy.clock().advance(Duration::from_mins(62));
    get(&vendor, &bearer, "/v2/").await;
    assert_eq!(count("token_expired"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_given_to_posts_and_refresh_tokens_to_nobody() {
    let vendor = Vendor::start().await;
    let post = async |form: &str| {
        let url = format!("http://{}/token", vendor.proxy.authority());
        let request = reqwest::Client::builder().no_proxy().build().expect("a client").post(url);
        let request = request
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form.to_owned());
        let answer = request.send().await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("a body"))
    };
    let (status, body) = post(
        "grant_type=password&username=ci&password=ci-secret&scope=repository:a:pull&service=x",
    )
    .await;
    let document: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((status, &document["scope"]), (200, &"repository:a:pull".into()));
    let bearer = format!("Bearer {}", document["access_token"].as_str().expect("a token"));
    assert_eq!(vendor.status(&bearer, MYAPP).await, 200);
    assert_eq!(post("grant_type=password&username=ci&password=wrong").await.0, 401);
    assert_eq!(post("grant_type=refresh_token&refresh_token=x").await.0, 401);
    assert_eq!(
        post(&format!("grant_type=password&username=ci&password={}", "x".repeat(70_000))).await.0,
        400
    );
    let deleted = vendor.proxy.request(Method::DELETE, "/token", &[]).await;
    assert_eq!((deleted.status, deleted.header("allow")), (405, Some("GET, HEAD, POST")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_sees_which_licences_are_used() {
    let vendor = Vendor::start().await;
    assert_eq!(vendor.proxy.admin("/licences").await.json(), serde_json::json!([]));
    let customer = vendor.customer("acme-prod", &["myapp"]);
    assert_eq!(
        (vendor.status(&customer, MYAPP).await, vendor.status(&customer, OTHER).await),
        (200, 404)
    );
    let listed = vendor.proxy.admin("/licences").await.json();
    assert_eq!(
        (&listed[0]["id"], &listed[0]["image"]),
        (&"acme-prod".into(), &"registry.test/myapp/worker".into())
    );
    assert_eq!(listed.as_array().map(Vec::len), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_not_ours_is_misdirected() {
    let vendor = Vendor::start().await;
    let answer = vendor.proxy.request(Method::GET, "/v2/", &[("host", "evil.example")]).await;
    assert_eq!(answer.status, 421);
}

/// ACCESS §4.9.
#[tokio::test(flavor = "multi_thread")]
async fn a_customers_own_proxy_mirrors_the_vendors_with_nothing_but_the_licence() {
    let vendor = Vendor::start().await;
    let (id, token) =
        ("acme-prod", vendor.sign(&vendor.licence("acme-prod", &["myapp"], 90 * DAY)));
    let mut setup = Setup::new();
    setup.upstream("registry.test", &vendor.registry);
    let upstream = &mut setup.config.upstreams[0];
    upstream.url = format!("http://{}", vendor.proxy.authority()).parse().expect("a URL");
    upstream.credentials = vec![Credential {
        images: Pattern::parse("**").expect("a glob"),
        when_rejected: roadstead::config::WhenRejected::default(),
        login: config::Login::Fixed { username: id.to_owned(), password: Secret::new(token) },
    }];
    let customer = setup.start().await;
    let image = Image::new(100, &[70_000]);
    let blob =
        format!("/v2/registry.test/registry.test/myapp/worker/blobs/{}", image.layers[0].digest);
    let clients = (0..32).map(|_| customer.get(&blob));
    for answer in futures_util::future::join_all(clients).await {
        assert!(answer.status == 200 && answer.body == image.layers[0].bytes());
    }
    assert_eq!(
        vendor.registry.blob_gets(&image.layers[0].digest),
        1,
        "32 cold clients behind two proxies"
    );
    let manifest = customer.get("/v2/registry.test/registry.test/myapp/worker/manifests/1.0").await;
    assert_eq!((manifest.status, manifest.body), (200, image.manifest.bytes));
    let other = customer.get("/v2/registry.test/registry.test/other/worker/manifests/1.0").await;
    assert_eq!(other.status, 404);
}
