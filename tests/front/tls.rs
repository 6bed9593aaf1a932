//! TLS, HTTP/2 and client certificates, through the front door (ACCESS §8).

use std::time::Duration;

use roadstead::config::{Allow, ClientAuth, Host, UnknownCredentials};
use roadstead::identity::{CertificateName, Identity};
use rustls::HandshakeKind;
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::image::Image;
use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, Setup, blob};
use crate::support::tls::{Authority, client, handshake, handshakes, tls};
use crate::support::vendor::rule;
use crate::support::{eventually, soon};
use rcgen::DnType;

/// One request, and all that comes back until the end.
async fn exchange(stream: &mut TlsStream<TcpStream>, path: &str) -> String {
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: registry.test\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("the proxy reads");
    let mut answer = Vec::new();
    let _cut_off_or_closed = soon("the end", stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

async fn get(
    client: &reqwest::Client,
    proxy: &Proxy,
    path: &str,
) -> Result<(u16, bytes::Bytes), reqwest::Error> {
    let answer = client.get(format!("https://{}{path}", proxy.authority())).send().await?;
    let status = answer.status().as_u16();
    Ok((status, answer.bytes().await?))
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_images_are_pulled_over_tls_cold_and_warm() {
    let image = Image::new(1, &[3_000_000]);
    let origin = Origin::with("library/a", "1", &image).await;
    let mut setup = Setup::of(&origin);
    let authority = Authority::new();
    setup.config.tls = Some(tls(&setup, &authority, None));
    let proxy = setup.start().await;
    let client = client(&authority, None, true);
    for round in 0..2 {
        let (status, manifest) =
            get(&client, &proxy, "/v2/library/a/manifests/1").await.expect("a manifest");
        assert_eq!((status, &manifest), (200, &image.manifest.bytes), "{round}");
        let path = format!("/v2/library/a/blobs/{}", image.layers[0].digest);
        let (status, blob) = get(&client, &proxy, &path).await.expect("a blob");
        assert!(status == 200 && blob == image.layers[0].bytes(), "{round}");
    }
    assert_eq!(origin.blob_gets(&image.layers[0].digest), 1);
    proxy.settled().await;
    let served = 2 * (3_000_000 + i64::try_from(image.manifest.bytes.len()).expect("small"));
    assert_eq!(proxy.metric("roadstead_served_bytes_total", &[]), served);
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_identities_where_rules_name_them() {
    let origin = Origin::with("library/a", "1", &Image::new(1, &[10])).await;
    let mut setup = Setup::of(&origin);
    let (authority, clients) = (Authority::new(), Authority::new());
    setup.config.tls = Some(tls(&setup, &authority, Some((&clients, ClientAuth::Optional))));
    let node = Identity::Certificate(CertificateName::Dns("node.test".to_owned()));
    setup.config.access.rules = vec![rule(node, Allow { pull: true, ..Allow::default() }, &["**"])];
    let proxy = setup.start().await;
    let path = "/v2/library/a/manifests/1";
    let status = async |identity| {
        get(&client(&authority, identity, true), &proxy, path).await.map(|(status, _)| status).ok()
    };
    assert_eq!(status(Some(clients.issue("node.test"))).await, Some(200));
    assert_eq!(status(Some(clients.issue("other.test"))).await, Some(404));
    assert_eq!(status(None).await, Some(404));
    assert_eq!(status(Some(authority.issue("node.test"))).await, None, "signed by somebody else");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organisation_with_a_comma_in_its_name_is_nobody_else() {
    use DnType::{CommonName, OrganizationName};
    let origin = Origin::with("library/a", "1", &Image::new(1, &[10])).await;
    let mut setup = Setup::of(&origin);
    let (authority, clients) = (Authority::new(), Authority::new());
    setup.config.tls = Some(tls(&setup, &authority, Some((&clients, ClientAuth::Optional))));
    let allowed = ["O=Acme, CN=node", "O=Acme\\, Inc.,CN=node"];
    setup.config.access.rules = allowed
        .iter()
        .map(|subject| {
            let who = Identity::parse(&format!("certificate:subject:{subject}")).expect("a name");
            rule(who, Allow { pull: true, ..Allow::default() }, &["**"])
        })
        .collect();
    let proxy = setup.start().await;
    for (subject, expected) in [
        (&[(OrganizationName, "Acme"), (CommonName, "node")][..], 200),
        (&[(OrganizationName, "Acme, Inc."), (CommonName, "node")], 200),
        (&[(OrganizationName, "Acme, CN=node")], 404),
        (&[(OrganizationName, "Acme\\, Inc."), (CommonName, "node")], 404),
        (&[(OrganizationName, "Acme"), (CommonName, "node, O=Acme")], 404),
        (&[(CommonName, "node"), (OrganizationName, "Acme")], 404),
    ] {
        let client = client(&authority, Some(clients.issue_to(subject)), true);
        let answer = get(&client, &proxy, "/v2/library/a/manifests/1").await.expect("an answer");
        assert_eq!(answer.0, expected, "{subject:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_required_certificate_is_required() {
    let origin = Origin::with("library/a", "1", &Image::new(1, &[10])).await;
    let mut setup = Setup::of(&origin);
    let (authority, clients) = (Authority::new(), Authority::new());
    setup.config.tls = Some(tls(&setup, &authority, Some((&clients, ClientAuth::Required))));
    let proxy = setup.start().await;
    assert!(get(&client(&authority, None, true), &proxy, "/v2/").await.is_err());
    let known = client(&authority, Some(clients.issue("any.test")), true);
    assert_eq!(get(&known, &proxy, "/v2/").await.expect("an answer").0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_certificate_serves_new_connections_and_a_broken_one_changes_nothing() {
    let origin = Origin::start().await;
    let mut setup = Setup::of(&origin);
    let (first, second) = (Authority::new(), Authority::new());
    setup.config.tls = Some(tls(&setup, &first, None));
    let proxy = setup.start().await;
    let old = client(&first, None, true);
    assert_eq!(get(&old, &proxy, "/v2/").await.expect("an answer").0, 200);
    let reloads =
        |outcome| proxy.metric("roadstead_reloads_total", &[("part", "tls"), ("outcome", outcome)]);
    let (certificate, key) = second.issue("registry.test");
    std::fs::write(proxy.directory().join("tls.crt"), certificate).expect("writable");
    proxy.reload();
    eventually("the pair that does not match is seen", || reloads("refused") == 1).await;
    assert_eq!(
        get(&client(&first, None, true), &proxy, "/v2/").await.expect("the old pair").0,
        200
    );
    std::fs::write(proxy.directory().join("tls.key"), key).expect("writable");
    proxy.reload();
    eventually("the new pair is read", || reloads("loaded") == 1).await;
    assert_eq!(
        get(&client(&second, None, true), &proxy, "/v2/").await.expect("the new pair").0,
        200
    );
    assert!(get(&client(&first, None, true), &proxy, "/v2/").await.is_err());
    assert_eq!(get(&old, &proxy, "/v2/").await.expect("the open connection goes on").0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_1_2_and_1_3_and_nothing_is_said_in_clear() {
    let origin = Origin::start().await;
    let mut setup = Setup::of(&origin);
    let authority = Authority::new();
    setup.config.tls = Some(tls(&setup, &authority, None));
    let proxy = setup.start().await;
    for version in [&TLS12, &TLS13] {
        let mut stream = handshake(&handshakes(&authority, &[version], b"http/1.1", None), &proxy)
            .await
            .expect("a handshake");
        let answer = exchange(&mut stream, "/v2/").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{version:?}: {answer}");
    }
    // TLS 1.1, one cipher suite, signature algorithms: the answer is the alert protocol_version.
    let rest = [0, 0, 2, 0xC0, 0x2B, 1, 0, 0, 10, 0, 13, 0, 6, 0, 4, 4, 3, 8, 4];
    let body = [[3, 2].as_slice(), &[7; 32], &rest].concat();
    let length = u8::try_from(body.len()).expect("small");
    let hello = [[22, 3, 1, 0, length + 4, 1, 0, 0, length].as_slice(), &body].concat();
    assert_eq!(proxy.raw(&hello).await.as_bytes(), [21, 3, 3, 0, 2, 2, 70]);
    let plain = proxy.raw(b"GET /v2/ HTTP/1.1\r\nhost: registry.test\r\n\r\n").await;
    assert!(!plain.contains("HTTP/"), "{plain:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_does_not_come_is_not_waited_for() {
    let origin = Origin::start().await;
    let mut setup = Setup::of(&origin);
    let authority = Authority::new();
    setup.config.tls = Some(tls(&setup, &authority, None));
    setup.limits.handshake = Duration::from_millis(200);
    let proxy = setup.start().await;
    assert_eq!(
        (proxy.raw(b"").await, proxy.raw(&[22, 3, 1]).await),
        (String::new(), String::new())
    );
}

/// A client that leaves little room on the way: the rest of an answer lies where only TLS knows of
/// it.
async fn open_narrow(
    connector: &TlsConnector,
    proxy: &Proxy,
    path: &str,
    connection: &str,
) -> TlsStream<TcpStream> {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(16 * 1024).expect("a size");
    let socket = socket
        .connect(proxy.authority().parse().expect("an address"))
        .await
        .expect("the proxy listens");
    let name = "registry.test".try_into().expect("a name");
    let mut stream = connector.connect(name, socket).await.expect("a handshake");
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: {connection}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("the proxy reads");
    let mut status = [0; 12];
    soon("the status", stream.read_exact(&mut status)).await.expect("an answer");
    assert_eq!(&status, b"HTTP/1.1 200");
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stops_reading_over_tls_is_cut_off_and_what_has_not_left_is_not_counted() {
    const LEN: i64 = 450_000;
    let image = Image::new(1, &[LEN.unsigned_abs()]);
    let origin = Origin::with("library/a", "1", &image).await;
    let mut setup = Setup::of(&origin);
    let authority = Authority::new();
    setup.config.tls = Some(tls(&setup, &authority, None));
    setup.send_buffer = Some(32 * 1024);
    let mut proxy = setup.start().await;
    let path = blob("library/a", &image.layers[0].digest);
    let connector = handshakes(&authority, &[&TLS13], b"http/1.1", None);
    let served = |proxy: &Proxy| proxy.metric("roadstead_served_bytes_total", &[]);
    let mut late = open_narrow(&connector, &proxy, &path, "close").await;
    eventually("the blob is stored", || proxy.has_stored(&image.layers[0].digest)).await;
    soon("the rest", late.read_to_end(&mut Vec::new())).await.expect("the whole answer");
    proxy.settled().await;
    assert_eq!(served(&proxy), LEN, "the last byte counts, however long TLS had it");

    proxy.setup().limits.send_idle = Duration::from_millis(200);
    proxy.restart().await;
    for connection in ["keep-alive", "close"] {
        let _stalled = open_narrow(&connector, &proxy, &path, connection).await;
        eventually("it is cut off", || proxy.metric("roadstead_http_connections", &[]) == 0).await;
    }
    proxy.settled().await;
    assert!(served(&proxy) < LEN, "{}", served(&proxy));
}

/// A session outlives its certificate in a ticket, and an open connection does too.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_has_ended_is_none_also_where_nobody_shows_it_again() {
    for (auth, ended) in
        [(ClientAuth::Optional, "HTTP/1.1 404"), (ClientAuth::Required, "HTTP/1.1 403")]
    {
        let origin = Origin::with("library/a", "1", &Image::new(1, &[10])).await;
        let mut setup = Setup::of(&origin);
        let (authority, clients) = (Authority::new(), Authority::new());
        setup.config.tls = Some(tls(&setup, &authority, Some((&clients, auth))));
        let node = Identity::Certificate(CertificateName::Dns("node.test".to_owned()));
        setup.config.access.rules =
            vec![rule(node, Allow { pull: true, ..Allow::default() }, &["**"])];
        let proxy = setup.start().await;
        let path = "/v2/library/a/manifests/1";
        let mut connections = Vec::new();
        for version in [&TLS12, &TLS13] {
            let identity = Some(clients.issue_until("node.test", 2090));
            let connector = handshakes(&authority, &[version], b"http/1.1", identity);
            let open = handshake(&connector, &proxy).await.expect("a handshake");
            let answer =
                exchange(&mut handshake(&connector, &proxy).await.expect("a handshake"), path)
                    .await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            connections.push((connector, open));
        }
        proxy.clock().advance(Duration::from_hours(24 * 366 * 65));
        for (connector, mut open) in connections {
            let mut resumed = handshake(&connector, &proxy).await.expect("a handshake");
            assert_eq!(resumed.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
            for stream in [&mut open, &mut resumed] {
                let answer = exchange(stream, path).await;
                assert!(answer.starts_with(ended), "{auth:?}: {answer}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_authority_for_certificates_ends_the_sessions_of_the_one_before() {
    let origin = Origin::start().await;
    let mut setup = Setup::of(&origin);
    let (authority, before, after) = (Authority::new(), Authority::new(), Authority::new());
    setup.config.tls = Some(tls(&setup, &authority, Some((&before, ClientAuth::Optional))));
    let proxy = setup.start().await;
    let connectors: Vec<_> = [&TLS12, &TLS13]
        .map(|version| {
            handshakes(&authority, &[version], b"http/1.1", Some(before.issue("node.test")))
        })
        .into();
    for connector in &connectors {
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let mut stream = handshake(connector, &proxy).await.expect("a handshake");
            assert!(exchange(&mut stream, "/v2/").await.starts_with("HTTP/1.1 200"));
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(kind));
        }
    }
    std::fs::write(proxy.directory().join("clients.pem"), after.pem()).expect("writable");
    proxy.reload();
    let loaded =
        || proxy.metric("roadstead_reloads_total", &[("part", "tls"), ("outcome", "loaded")]);
    eventually("the authority is read", || loaded() == 1).await;
    for connector in &connectors {
        // With TLS 1.3 a client is done before it hears that it is refused.
        if let Ok(mut stream) = handshake(connector, &proxy).await {
            assert_eq!(exchange(&mut stream, "/v2/").await, "");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_clients_would_refuse_does_not_replace_a_good_one() {
    let origin = Origin::start().await;
    let mut setup = Setup::of(&origin);
    setup.limits.watch = Duration::from_millis(20);
    let authority = Authority::new();
    // The clock of these tests stands in 2027.
    setup.config.tls = Some(tls(&setup, &authority, None));
    setup.config.hosts = vec![Host {
        name: "registry.test".to_owned(),
        port: None,
        plain_http: false,
        unknown_credentials: UnknownCredentials::Refused,
    }];
    let mut proxy = setup.start().await;
    let reloads = |proxy: &Proxy, outcome| {
        proxy.metric("roadstead_reloads_total", &[("part", "tls"), ("outcome", outcome)])
    };
    let served = async |proxy: &Proxy| {
        let connector = handshakes(&authority, &[&TLS13], b"http/1.1", None);
        let stream = handshake(&connector, proxy).await.expect("a handshake");
        stream.get_ref().1.peer_certificates().expect("one")[0].to_vec()
    };
    let rotate = |proxy: &mut Proxy, name, years| {
        let (certificate, key) = authority.issue_for(name, years);
        proxy.setup().file("tls.key", &key);
        proxy.setup().file("tls.crt", &certificate);
    };
    let first = served(&proxy).await;
    for (name, years) in [
        ("registry.test", 2000..=2020),
        ("another.test", 2000..=2099),
        ("registry.test", 2028..=2099),
    ] {
        rotate(&mut proxy, name, years);
        let before = reloads(&proxy, "refused");
        proxy.reload();
        eventually("it is refused", || reloads(&proxy, "refused") > before).await;
        assert_eq!(served(&proxy).await, first, "the good one goes on");
    }
    let loaded = reloads(&proxy, "loaded");
    proxy.clock().advance(Duration::from_hours(24 * 370 * 2));
    // The clients of this test live in the present, and would refuse it.
    eventually("its time has come", || reloads(&proxy, "loaded") > loaded).await;
}

/// One request that leaves the connection open.
async fn ping(stream: &mut TlsStream<TcpStream>) {
    let request = b"GET /v2/ HTTP/1.1\r\nhost: registry.test\r\n\r\n";
    stream.write_all(request).await.expect("the proxy reads");
    let mut answer = Vec::new();
    while !answer.ends_with(b"{}") {
        answer.push(soon("the answer", stream.read_u8()).await.expect("a whole answer"));
    }
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test(flavor = "multi_thread")]
async fn open_connections_end_whose_certificate_nobody_vouches_for_any_more() {
    for protocol in [b"http/1.1".as_slice(), b"h2"] {
        let origin = Origin::start().await;
        let mut setup = Setup::of(&origin);
        // A client of HTTP/2 that does not answer a goodbye is cut off after this.
        setup.limits.handshake = Duration::from_secs(2);
        let [authority, kept, dropped] = [(); 3].map(|()| Authority::new());
        let mut tls = tls(&setup, &authority, Some((&kept, ClientAuth::Optional)));
        let both = format!("{}{}", kept.pem(), dropped.pem());
        tls.client_ca = Some(setup.file("clients.pem", &both));
        setup.config.tls = Some(tls);
        let proxy = setup.start().await;
        let mut streams = Vec::new();
        for identity in [None, Some(kept.issue("a.test")), Some(dropped.issue("b.test"))] {
            let connector = handshakes(&authority, &[&TLS13], protocol, identity);
            let mut stream = handshake(&connector, &proxy).await.expect("a handshake");
            if protocol == b"h2" {
                let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
                stream.write_all(preface).await.expect("the proxy reads");
            } else {
                ping(&mut stream).await;
            }
            streams.push(stream);
        }
        let open = || proxy.metric("roadstead_http_connections", &[]);
        eventually("all are open", || open() == 3).await;
        std::fs::write(proxy.directory().join("clients.pem"), kept.pem()).expect("writable");
        proxy.reload();
        eventually("one ends", || open() == 2).await;
        let rest = soon("its end", streams[2].read_to_end(&mut Vec::new())).await;
        if protocol != b"h2" {
            assert!(rest.is_ok(), "a clean end: {rest:?}");
            for stream in &mut streams[..2] {
                ping(stream).await;
            }
        }
        assert_eq!(open(), 2, "those that show none, or another, go on");
    }
}
