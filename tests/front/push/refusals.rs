//! What a registry refuses is told as a refusal, once, and in its own words; and what it takes is
//! taken, however it says so.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use roadstead::config::{Credential, Login as Configured, Writes};
use roadstead::oci::Pattern;
use roadstead::secret::Secret;

use crate::support::access_log;
use crate::support::content::Blob;
use crate::support::image::Image;
use crate::support::origin::{Auth, Bearer, Fault, Kind, Login, On, Origin};
use crate::support::proxy::{Proxy, blob, manifest};
use crate::support::push::{anyone, ending, location, open_to_all, proxy_keeping_pushes, uploads};

const QUOTA: &str = "adding 12 MiB to a/token goes above the limit of 10 MiB; that is invalid";

/// distribution's error document.
fn document(code: &str, message: &str) -> Bytes {
    serde_json::json!({ "errors": [{ "code": code, "message": message }] }).to_string().into()
}

fn json(status: u16, code: &str, message: &str) -> Fault {
    Fault::Instead(status, "application/json", document(code, message))
}

/// A registry that wants a login, and a proxy that has it.
async fn with_login(origin: &Origin, auth: fn(Login) -> Auth) -> Proxy {
    origin.require(auth(Login { username: "robot", password: "hunter2" }));
    let mut setup = open_to_all(origin, Writes::Kept);
    let password = Secret::new("hunter2".into());
    setup.upstream("registry.test", origin).writes = Writes::Kept;
    setup.upstream("registry.test", origin).credentials = vec![Credential {
        when_rejected: roadstead::config::WhenRejected::default(),
        images: Pattern::parse("**").expect("a pattern"),
        login: Configured::Fixed { username: "robot".into(), password },
    }];
    setup.start().await
}

fn tokens(login: Login) -> Auth {
    Auth::Bearer(Bearer { login: Some(login), expires_in: Some(300), ..Bearer::default() })
}

/// The status and message of one push, by the way that ends in `method`.
async fn push(proxy: &Proxy, method: &str, layer: &Blob) -> (u16, String) {
    let answer = match method {
        "POST" => {
            let whole = ending(&uploads("a/b"), &layer.digest);
            anyone(proxy).send(Method::POST, &whole, &[], layer.bytes()).await
        }
        "PATCH" => anyone(proxy).patch(&anyone(proxy).begin("a/b").await, layer.bytes()).await,
        _ => anyone(proxy).blob("a/b", layer).await,
    };
    (answer.status, if answer.status < 400 { String::new() } else { answer.message() })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_final_refusal_is_told_after_one_new_token_and_not_as_send_it_again() {
    let insufficient = |origin: &Origin| {
        format!(
            r#"Bearer realm="{}token",service="scripted",error="insufficient_scope""#,
            origin.url()
        )
    };
    for (auth, method, status) in [
        (tokens as fn(Login) -> Auth, "PUT", 403),
        (tokens, "PATCH", 403),
        (tokens, "POST", 403),
        (tokens, "PUT", 401),
        (Auth::Basic, "PUT", 403),
    ] {
        let origin = Origin::start().await;
        let proxy = with_login(&origin, auth).await;
        // A token for this repository is there from now on. Before a POST there is none: the ping
        // fetches it, and the refusal one more.
        if method != "POST" {
            assert_eq!(anyone(&proxy).blob("a/b", &Blob::seeded(9, 10)).await.status, 201);
        }
        let on = || On::path("/a/b/blobs/uploads/").method(method);
        origin.fault(on(), json(status, "DENIED", QUOTA));
        if status == 401 {
            origin.fault(on(), Fault::Header("WWW-Authenticate", Some(insufficient(&origin))));
        }
        let before = origin.count(|request| request.kind == Kind::Token);
        let mut told = Vec::new();
        for seed in 1..=4 {
            told.push(push(&proxy, method, &Blob::seeded(seed, 1_000)).await);
        }
        // The first may be taken for a token that has ended.
        assert!(matches!(told[0].0, 403 | 503), "{method} {status}: {told:?}");
        for (told, message) in &told[1..] {
            assert_eq!(*told, 403, "{method} {status}");
            assert!(message.ends_with(QUOTA), "{message}");
        }
        let asked = origin.count(|request| request.kind == Kind::Token) - before;
        let most = if method == "POST" { 2 } else { 1 };
        assert!(asked <= most, "{method} {status}: {asked} tokens");
        // The same token may end nevertheless, which is told as such.
        origin.repair();
        origin.forget_tokens();
        let ended = push(&proxy, method, &Blob::seeded(5, 1_000)).await;
        assert!(matches!(ended.0, 201 | 202 | 503), "{method} {status}: {ended:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_has_ended_is_replaced_each_time_that_one_ends() {
    let origin = Origin::start().await;
    let proxy = with_login(&origin, tokens).await;
    for seed in 1..=3 {
        let layer = Blob::seeded(seed, 1_000);
        let at = anyone(&proxy).begin("a/b").await;
        origin.forget_tokens();
        let refused = anyone(&proxy).put(&at, &layer.digest, layer.bytes()).await;
        assert_eq!(refused.status, 503, "{refused:?}");
        assert_eq!(anyone(&proxy).blob("a/b", &layer).await.status, 201);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_that_gets_no_token_is_an_upload() {
    for status in [400, 401, 403] {
        let origin = Origin::start().await;
        let layer = origin.blob("c/d", 1, 1_000);
        let proxy = with_login(&origin, tokens).await;
        anyone(&proxy).begin("a/b").await;
        // What is there is a token for one of the two; the other is refused.
        origin.fault(On::kind(Kind::Token).gets(), Fault::Status(status));
        origin.fault(On::kind(Kind::Token).method("POST"), Fault::Status(401));
        let mount = format!("{}?mount={}&from=c/d", uploads("a/b"), layer.digest);
        let begun = anyone(&proxy).post(&mount).await;
        assert_eq!(begun.status, 202, "{status}: {begun:?}");
        let taken = anyone(&proxy).put(&location(&begun), &layer.digest, layer.bytes()).await;
        assert_eq!(taken.status, 201);
    }
}

/// With what docker's and containerd's pushers take.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_registry_takes_with_another_success_is_taken() {
    let at = || Fault::Header("Location", Some("/v2/a/b/blobs/uploads/1?_state=x".into()));
    let (layer, image) = (Blob::seeded(1, 1_000), Image::new(1, &[]));
    for status in [200, 202, 204] {
        let origin = Origin::start().await;
        let proxy = proxy_keeping_pushes(&origin).await;
        let empty = || Fault::Instead(status, "text/plain", Bytes::new());
        for method in ["POST", "PATCH"] {
            origin.fault(On::kind(Kind::Upload).method(method), empty());
            origin.fault(On::kind(Kind::Upload).method(method), at());
        }
        origin.fault(On::kind(Kind::Upload).method("PUT"), empty());
        origin.fault(On::kind(Kind::Manifest).method("PUT"), empty());
        let begun = anyone(&proxy).begin("a/b").await;
        let patched = anyone(&proxy).patch(&begun, layer.bytes()).await;
        assert_eq!(patched.status, 202, "{status}");
        let put = anyone(&proxy).put(&location(&patched), &layer.digest, Bytes::new()).await;
        assert_eq!(put.status, 201, "{status}: {put:?}");
        assert_eq!(put.header("docker-content-digest"), Some(layer.digest.as_str()));
        let put = anyone(&proxy).manifest("a/b", "v1", &image.manifest).await;
        assert_eq!(put.status, 201, "{status}: {put:?}");
        assert_eq!(proxy.get(&blob("a/b", &layer.digest)).await.body, layer.bytes());
        assert_eq!(origin.blob_gets(&layer.digest), 0, "it was kept");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_registrys_reason_reaches_the_client_and_the_log() {
    access_log::gather();
    let origin = Origin::start().await;
    let proxy = proxy_keeping_pushes(&origin).await;
    let image = Image::new(1, &[]);
    let long = "ä".repeat(5_000);
    let rows = [
        (400, "TAG_INVALID", "the tag v1 is immutable", "the tag v1 is immutable"),
        (403, "DENIED", QUOTA, QUOTA),
        (
            412,
            "PRECONDITION",
            "signature\r\nX-Evil: 1\u{1b}[31m missing",
            "signature X-Evil: 1 [31m missing",
        ),
        (409, "CONFLICT", long.as_str(), "…"),
    ];
    let mut asked = 0;
    for (status, code, said, told) in rows {
        origin.repair();
        origin.fault(On::kind(Kind::Manifest).method("PUT"), json(status, code, said));
        let answer = anyone(&proxy).manifest("acme/reasons", "v1", &image.manifest).await;
        assert_eq!(answer.status, status);
        assert!(answer.message().ends_with(told), "{}", answer.message());
        assert!(answer.message().chars().count() < 450, "{}", answer.message());
        asked += 1;
        let line = access_log::line("acme/reasons", asked).await;
        let logged = line.values().any(|value| value.contains(told));
        assert!(logged, "{line:?}");
    }
    // What is no error document is nobody's words.
    origin.repair();
    let page = Fault::Instead(403, "text/html", "<h1>Denied by the firewall</h1>".into());
    origin.fault(On::kind(Kind::Manifest).method("PUT"), page);
    let answer = anyone(&proxy).manifest("acme/reasons", "v1", &image.manifest).await;
    assert_eq!(answer.refusal(), (403, "DENIED".into()));
    assert!(!answer.message().contains("firewall"));
    // Who reads is not told what the registry says (ERR-4).
    origin.repair();
    origin.fault(On::kind(Kind::Manifest), json(403, "DENIED", QUOTA));
    let answer = proxy.get(&manifest("acme/unread", "v1")).await;
    assert!(!answer.text().contains("limit"), "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn words_in_a_sentence_make_no_rejected_login() {
    for (auth, status) in
        [(tokens as fn(Login) -> Auth, 403), (Auth::Basic as fn(Login) -> Auth, 403), (tokens, 400)]
    {
        let origin = Origin::start().await;
        let proxy = with_login(&origin, auth).await;
        let image = Image::new(1, &[]);
        origin.fault(On::kind(Kind::Manifest).method("PUT"), json(status, "DENIED", QUOTA));
        let answer = anyone(&proxy).manifest("a/token", "v1", &image.manifest).await;
        assert_eq!(answer.refusal(), (status, "DENIED".into()));
        assert!(answer.message().ends_with(QUOTA), "{}", answer.message());
    }
}

/// As many clients do that send all before they read.
#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_stops_reading_is_told_to_a_client_that_is_still_sending() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let origin = Origin::start().await;
    let mut setup = open_to_all(&origin, Writes::Kept);
    setup.limits.upstream_idle = Duration::from_millis(300);
    let proxy = setup.start().await;
    let at = anyone(&proxy).begin("a/b").await;
    let gate = crate::support::origin::Gate::new();
    origin.fault(On::kind(Kind::Upload).method("PATCH"), Fault::TakeUpTo(0, gate));
    // More than what is read before the answer is sent, and than any buffer in between.
    let (pieces, piece) = (96, vec![7; 1 << 20]);
    for says in [format!("Content-Length: {}", pieces << 20), "Transfer-Encoding: chunked".into()] {
        let chunked = says.starts_with("Transfer");
        let mut stream = proxy.connect().await;
        let head = format!("PATCH {at} HTTP/1.1\r\nHost: localhost\r\n{says}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("it reads");
        for _ in 0..pieces {
            if chunked {
                stream.write_all(b"100000\r\n").await.expect("it reads");
            }
            stream.write_all(&piece).await.expect("it reads on");
            if chunked {
                stream.write_all(b"\r\n").await.expect("it reads");
            }
        }
        if chunked {
            stream.write_all(b"0\r\n\r\n").await.expect("it reads");
        }
        let mut answer = vec![0; 4096];
        let read = crate::support::soon("an answer", stream.read(&mut answer)).await;
        let answer = String::from_utf8_lossy(&answer[..read.expect("an answer")]).into_owned();
        assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    }
    proxy.settled().await;
}
