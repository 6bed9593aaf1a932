//! The scripted origin itself: right where nothing is wrong, and wrong as told.

use std::time::Duration;

use http::Method;
use roadstead::oci::{Algorithm, Digest};

use super::{Auth, Bearer, Dialect, Fault, Gate, Kind, Login, On, Origin};
use crate::support::client::{Answer, Reading};
use crate::support::content::Blob;
use crate::support::image::{Image, Manifest, OCI_MANIFEST};
use crate::support::proxy::{blob, manifest};
use crate::support::{eventually, soon};

/// Asks an origin directly.
async fn ask(origin: &Origin, method: Method, path: &str, headers: &[(&str, &str)]) -> Reading {
    let client =
        reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build();
    let url = origin.url().join(path).expect("a path");
    let request = client.expect("a client").request(method, url);
    let request =
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    Reading::new(soon(path, request.send()).await.expect("the origin answers"))
}

async fn get(origin: &Origin, path: &str) -> Answer {
    ask(origin, Method::GET, path, &[]).await.finish().await
}

async fn get_range(origin: &Origin, path: &str, range: &str) -> Answer {
    ask(origin, Method::GET, path, &[("range", range)]).await.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_answers_as_distribution_does() {
    let image = Image::new(1, &[100_000]);
    let origin = Origin::with("a/b", "v1", &image).await;

    let by_tag = get(&origin, &manifest("a/b", "v1")).await;
    assert_eq!((by_tag.status, &by_tag.body), (200, &image.manifest.bytes));
    assert_eq!(by_tag.header("docker-content-digest"), Some(image.manifest.digest.as_str()));
    assert_eq!(by_tag.header("content-type"), Some(OCI_MANIFEST));

    let layer = &image.layers[0];
    let path = blob("a/b", &layer.digest);
    let whole = get(&origin, &path).await;
    assert_eq!((whole.status, whole.digest()), (200, layer.digest.clone()));
    let head = ask(&origin, Method::HEAD, &path, &[]).await.finish().await;
    assert_eq!((head.header("content-length"), head.body.len()), (Some("100000"), 0));

    let part = get_range(&origin, &path, "bytes=70000-70009").await;
    assert_eq!((part.status, &part.body), (206, &layer.content.slice(70_000..70_010)));
    assert_eq!(part.header("content-range"), Some("bytes 70000-70009/100000"));
    assert_eq!(
        get_range(&origin, &path, "bytes=-7").await.body,
        layer.content.slice(99_993..100_000)
    );
    assert_eq!(get_range(&origin, &path, "bytes=100000-").await.status, 416);

    let unknown = get(&origin, &blob("other", &layer.digest)).await;
    assert_eq!(
        (unknown.status, &unknown.json()["errors"][0]["code"]),
        (404, &"BLOB_UNKNOWN".into())
    );
    let unknown = get(&origin, &manifest("a/b", "v2")).await;
    assert_eq!(
        (unknown.status, &unknown.json()["errors"][0]["code"]),
        (404, &"MANIFEST_UNKNOWN".into())
    );
    assert_eq!(origin.blob_gets(&layer.digest), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_body_ends_at_the_byte_it_was_told_to() {
    let origin = Origin::start().await;
    let layer = origin.blob("a", 1, 300_000);
    origin.fault(On::path(&layer.digest).once(), Fault::CutAfter(123_456));
    let cut = get(&origin, &blob("a", &layer.digest)).await;
    assert_eq!((cut.body.len(), cut.complete), (123_456, false));
    assert!(get(&origin, &blob("a", &layer.digest)).await.complete, "once means once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_body_stops_at_its_gate() {
    let origin = Origin::start().await;
    let layer = origin.blob("a", 1, 300_000);
    let gate = origin.hold_at(&layer.digest, 200_000);
    let mut reading = ask(&origin, Method::GET, &blob("a", &layer.digest), &[]).await;
    assert_eq!(reading.read(200_000).await, 200_000);
    eventually("the gate is reached", || gate.reached() == 1).await;
    let more = tokio::time::timeout(Duration::from_millis(20), reading.read(200_001)).await;
    assert!(more.is_err(), "nothing comes before the gate opens");
    gate.open();
    assert_eq!(reading.finish().await.digest(), layer.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_and_wrong_lengths_are_as_told() {
    let origin = Origin::start().await;
    let layer = origin.blob("a", 1, 100_000);
    let path = blob("a", &layer.digest);
    let whole = layer.bytes();

    origin.fault(On::any().once(), Fault::Flip(70_000));
    let flipped = get(&origin, &path).await.body;
    let wrong: Vec<usize> = (0..whole.len()).filter(|i| flipped[*i] != whole[*i]).collect();
    assert_eq!(wrong, [70_000]);

    origin.fault(On::any().once(), Fault::LengthOff(10));
    let short = get(&origin, &path).await;
    assert_eq!((short.header("content-length"), short.complete), (Some("100010"), false));

    origin.fault(On::any().once(), Fault::Extra(10));
    assert_eq!(get(&origin, &path).await.body.len(), 100_010);

    for framing in [Fault::Chunked, Fault::UntilClose] {
        origin.fault(On::any().once(), framing);
        let unknown = get(&origin, &path).await;
        assert_eq!(
            (unknown.header("content-length"), unknown.digest()),
            (None, layer.digest.clone())
        );
    }

    origin.fault(On::any().once(), Fault::IgnoreRange);
    assert_eq!(get_range(&origin, &path, "bytes=5-").await.status, 200);
    origin.fault(On::any().once(), Fault::Partial);
    assert_eq!(get(&origin, &path).await.status, 206);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_stops_refuses_and_comes_back_on_its_port() {
    let origin = Origin::start().await;
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    assert_eq!(get(&origin, "/v2/").await.status, 200);
    origin.stop().await;
    let refused = client.get(origin.url()).send().await.expect_err("nobody listens");
    assert!(refused.is_connect());
    origin.resume();
    assert_eq!(get(&origin, "/v2/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_open_one_repository() {
    let origin = Origin::start().await;
    let layer = origin.blob("a", 1, 10);
    let login = Login { username: "robot", password: "hunter2" };
    origin.require(Auth::Bearer(Bearer { login: Some(login.clone()), ..Bearer::default() }));
    let refused = get(&origin, &blob("a", &layer.digest)).await;
    let expected = format!(
        "Bearer realm=\"{}token\",service=\"scripted\",scope=\"repository:a:pull\"",
        origin.url()
    );
    assert_eq!(
        (refused.status, refused.header("www-authenticate")),
        (401, Some(expected.as_str()))
    );
    assert_eq!(get(&origin, "/token?scope=repository:a:pull").await.status, 401);

    origin.require(Auth::Bearer(Bearer::default()));
    let token = get(&origin, "/token?scope=repository%3Aa%3Apull").await.json()["token"].clone();
    let bearer = format!("Bearer {}", token.as_str().expect("a token"));
    let headers = [("authorization", bearer.as_str())];
    let read = ask(&origin, Method::GET, &blob("a", &layer.digest), &headers).await;
    assert_eq!(read.status(), 200);
    assert_eq!(ask(&origin, Method::GET, &blob("b", &layer.digest), &headers).await.status(), 401);

    origin.require(Auth::Basic(login));
    assert_eq!(get(&origin, "/v2/").await.status, 401);
    let basic = [("authorization", "Basic cm9ib3Q6aHVudGVyMg==")];
    assert_eq!(ask(&origin, Method::GET, "/v2/", &basic).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn storage_refuses_a_credential_and_redirects_lead_to_it() {
    let cdn = Origin::start().await;
    let origin = Origin::start().await;
    let layer = origin.blob("a", 1, 10);
    cdn.put_blob("any", &layer);
    origin.fault(On::kind(Kind::Blob), Fault::Redirect(format!("{}storage/{{digest}}", cdn.url())));
    let moved = get(&origin, &blob("a", &layer.digest)).await;
    let to = format!("{}storage/{}", cdn.url(), layer.digest);
    assert_eq!((moved.status, moved.header("location")), (307, Some(to.as_str())));
    let path = format!("/storage/{}", layer.digest);
    assert_eq!(get(&cdn, &path).await.digest(), layer.digest);
    assert_eq!(ask(&cdn, Method::GET, &path, &[("authorization", "Bearer x")]).await.status(), 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn statuses_headers_and_gates_before_the_head_add_up() {
    let origin = Origin::start().await;
    let gate = Gate::new();
    let on = || On::kind(Kind::Ping).once();
    origin.fault(on(), Fault::Status(429));
    origin.fault(on(), Fault::Header("Retry-After", Some("30".into())));
    origin.fault(on(), Fault::HoldHead(gate.clone()));
    let asked = get(&origin, "/v2/");
    let (answer, ()) = tokio::join!(asked, async {
        eventually("the gate is reached", || gate.reached() == 1).await;
        gate.open();
    });
    assert_eq!((answer.status, answer.header("retry-after")), (429, Some("30")));
    assert_eq!(get(&origin, "/v2/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_come_in_pages() {
    let origin = Origin::start().await;
    let odd = Manifest::new(OCI_MANIFEST, "{ }");
    origin.put_manifest("a", &odd);
    (0..5).for_each(|n| origin.tag("a", &format!("v{n}"), &odd.digest));
    origin.page(2, true);
    let page = get(&origin, "/v2/a/tags/list").await;
    assert_eq!(page.json()["tags"], serde_json::json!(["v0", "v1"]));
    let next = format!("<{}v2/a/tags/list?last=v1&n=2>; rel=\"next\"", origin.url());
    assert_eq!(page.header("link"), Some(next.as_str()));
    let last = get(&origin, "/v2/a/tags/list?last=v3").await;
    assert_eq!(
        (last.json()["tags"].clone(), last.header("link")),
        (serde_json::json!(["v4"]), None)
    );
}

/// Sends a body to an origin directly.
async fn send(origin: &Origin, method: Method, path: &str, body: &'static str) -> Answer {
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let request = client.request(method, origin.url().join(path).expect("a path")).body(body);
    Reading::new(soon(path, request.send()).await.expect("the origin answers")).finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_takes_an_upload_and_minds_its_address() {
    let origin = Origin::start().await;
    origin.behave(Dialect { location: "https://elsewhere.test".into(), ..Dialect::default() });
    let location = |answer: &Answer| {
        let location = answer.header("location").expect("a Location");
        location.strip_prefix("https://elsewhere.test").expect("elsewhere").to_owned()
    };
    let digest = Digest::of(Algorithm::Sha256, b"abcd");
    let begun = location(&send(&origin, Method::POST, "/v2/a/blobs/uploads/", "").await);
    for altered in [
        begun.replace("%2f", "%2F"),
        begun.replace("==", "%3D="),
        begun.split_once('?').expect("a query").0.into(),
    ] {
        assert_eq!(send(&origin, Method::PATCH, &altered, "ab").await.status, 404, "{altered}");
    }
    let sent = send(&origin, Method::PATCH, &begun, "ab").await;
    assert_eq!((sent.status, sent.header("range")), (202, Some("0-1")));
    assert_eq!(
        send(&origin, Method::PATCH, &begun, "cd").await.status,
        404,
        "it has another address by now"
    );
    let end = |of: &Digest| format!("{}&digest={of}", location(&sent));
    let wrong = Digest::of(Algorithm::Sha256, b"x");
    assert_eq!(send(&origin, Method::PUT, &end(&wrong), "cd").await.status, 400);
    assert_eq!(send(&origin, Method::PUT, &end(&digest), "cd").await.status, 201);
    assert_eq!(get(&origin, &blob("a", &digest)).await.text(), "abcd");
    assert_eq!(origin.requests().last().map(|request| request.received), Some(0));
}

#[test]
fn seeded_content_is_the_same_whichever_way_it_is_cut() {
    let blob = Blob::seeded(7, 200_000);
    let whole = blob.bytes();
    assert_eq!(Digest::of(Algorithm::Sha256, &whole), blob.digest);
    assert_eq!(blob.content.slice(65_530..131_080), whole.slice(65_530..131_080));
    assert_ne!(Blob::seeded(8, 200_000).digest, blob.digest);
}
