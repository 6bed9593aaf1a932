//! TLS, HTTP/2 and client certificates, through the front door (ACCESS §8).

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use roadstead::config::{Allow, CertificateName, ClientAuth, Tls, Who};

use crate::support::eventually;
use crate::support::image::Image;
use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, Setup};
use crate::vendor::rule;

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut parameters = CertificateParams::new(Vec::new()).expect("parameters");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(parameters, key).expect("an authority"))
    }

    /// Certificate and key, PEM.
    fn issue(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let mut parameters = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("parameters");
        parameters.subject_alt_names.push(SanType::DnsName(name.try_into().expect("a name")));
        parameters.distinguished_name.push(DnType::CommonName, name);
        (parameters.signed_by(&key, &self.0).expect("a certificate").pem(), key.serialize_pem())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }
}

fn tls(setup: &Setup, authority: &Authority, clients: Option<(&Authority, ClientAuth)>) -> Tls {
    let (certificate, key) = authority.issue("registry.test");
    Tls {
        certificate: setup.file("tls.crt", &certificate),
        key: setup.file("tls.key", &key),
        client_ca: clients.map(|(authority, _)| -> PathBuf { setup.file("clients.pem", &authority.pem()) }),
        client_auth: clients.map_or(ClientAuth::Optional, |(_, auth)| auth),
    }
}

fn client(trusts: &Authority, identity: Option<(String, String)>, http_1: bool) -> reqwest::Client {
    let root = reqwest::Certificate::from_pem(trusts.pem().as_bytes()).expect("PEM");
    let mut builder = reqwest::Client::builder().no_proxy().tls_certs_only([root]);
    if let Some((certificate, key)) = identity {
        builder = builder.identity(reqwest::Identity::from_pem(format!("{certificate}{key}").as_bytes()).expect("PEM"));
    }
    if http_1 { builder.http1_only() } else { builder }.build().expect("a client")
}

async fn get(client: &reqwest::Client, proxy: &Proxy, path: &str) -> Result<(u16, bytes::Bytes), reqwest::Error> {
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
        let (status, manifest) = get(&client, &proxy, "/v2/library/a/manifests/1").await.expect("a manifest");
        assert_eq!((status, &manifest), (200, &image.manifest.bytes), "{round}");
        let path = format!("/v2/library/a/blobs/{}", image.layers[0].digest);
        let (status, blob) = get(&client, &proxy, &path).await.expect("a blob");
        assert!(status == 200 && blob == image.layers[0].bytes(), "{round}");
    }
    assert_eq!(origin.blob_gets(&image.layers[0].digest), 1);
    let plain = proxy.raw(b"GET /v2/ HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(!plain.contains("200"), "nothing is served in clear: {plain:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_identities_where_rules_name_them() {
    let origin = Origin::with("library/a", "1", &Image::new(1, &[10])).await;
    let mut setup = Setup::of(&origin);
    let (authority, clients) = (Authority::new(), Authority::new());
    setup.config.tls = Some(tls(&setup, &authority, Some((&clients, ClientAuth::Optional))));
    let node = Who::Certificate(CertificateName::Dns("node.test".to_owned()));
    setup.config.access.rules = vec![rule(node, Allow { pull: true, ..Allow::default() }, &["**"])];
    let proxy = setup.start().await;
    let path = "/v2/library/a/manifests/1";
    let status =
        async |identity| get(&client(&authority, identity, true), &proxy, path).await.map(|(status, _)| status).ok();
    assert_eq!(status(Some(clients.issue("node.test"))).await, Some(200));
    assert_eq!(status(Some(clients.issue("other.test"))).await, Some(404));
    assert_eq!(status(None).await, Some(404));
    assert_eq!(status(Some(authority.issue("node.test"))).await, None, "signed by somebody else");
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
    let reloads = |outcome| proxy.metric("roadstead_reloads_total", &[("part", "tls"), ("outcome", outcome)]);
    let (certificate, key) = second.issue("registry.test");
    std::fs::write(proxy.directory().join("tls.crt"), certificate).expect("writable");
    proxy.reload();
    eventually("the pair that does not match is seen", || reloads("refused") == 1).await;
    assert_eq!(get(&client(&first, None, true), &proxy, "/v2/").await.expect("the old pair").0, 200);
    std::fs::write(proxy.directory().join("tls.key"), key).expect("writable");
    proxy.reload();
    eventually("the new pair is read", || reloads("loaded") == 1).await;
    assert_eq!(get(&client(&second, None, true), &proxy, "/v2/").await.expect("the new pair").0, 200);
    assert!(get(&client(&first, None, true), &proxy, "/v2/").await.is_err());
    assert_eq!(get(&old, &proxy, "/v2/").await.expect("the open connection goes on").0, 200);
}

/// An HTTP/2 connection to the proxy, its driver running.
async fn http_2(proxy: &Proxy, trusts: &Authority) -> h2::client::SendRequest<bytes::Bytes> {
    use rustls::pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    let root = rustls::pki_types::CertificateDer::from_pem_slice(trusts.pem().as_bytes()).expect("PEM");
    roots.add(root).expect("an authority");
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let name = "registry.test".try_into().expect("a name");
    let stream = connector.connect(name, proxy.connect().await).await.expect("a handshake");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
    // The window of the connection is this client's; it leaves room beside a stream whose own is full.
    let mut builder = h2::client::Builder::new();
    builder.initial_connection_window_size(1 << 20);
    let (send, connection) = builder.handshake(stream).await.expect("HTTP/2");
    tokio::spawn(async move {
        let _ended_with_the_test = connection.await;
    });
    send
}

async fn open(send: &h2::client::SendRequest<bytes::Bytes>, path: &str) -> h2::RecvStream {
    let request = http::Request::get(format!("https://registry.test{path}")).body(()).expect("a request");
    let mut send = send.clone().ready().await.expect("room for a stream");
    let (response, _) = send.send_request(request, true).expect("sent");
    let response = response.await.expect("an answer");
    assert_eq!(response.status(), 200);
    response.into_body()
}

async fn read(mut body: h2::RecvStream, most: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < most
        && let Some(piece) = body.data().await
    {
        let piece = piece.expect("a piece");
        body.flow_control().release_capacity(piece.len()).expect("capacity that was used");
        bytes.extend_from_slice(&piece);
    }
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn on_one_http_2_connection_a_reader_that_stops_holds_up_nobody() {
    let image = Image::new(1, &[3_000_000, 2_000_000]);
    let origin = Origin::with("library/a", "1", &image).await;
    let mut setup = Setup::of(&origin);
    let authority = Authority::new();
    setup.config.tls = Some(tls(&setup, &authority, None));
    let proxy = setup.start().await;
    let send = http_2(&proxy, &authority).await;
    let path = |i: usize| format!("/v2/library/a/blobs/{}", image.layers[i].digest);
    for _cold_then_warm in 0..2 {
        let mut stopped = open(&send, &path(0)).await;
        // Its first piece is taken and never given back, so that its window of 64 KiB fills up.
        let first = stopped.data().await.expect("a piece").expect("bytes");
        let whole = crate::support::soon("the other blob", read(open(&send, &path(1)).await, usize::MAX)).await;
        assert!(whole == image.layers[1].bytes() && !first.is_empty());
    }
    let stopped = crate::support::soon("the blob", read(open(&send, &path(0)).await, usize::MAX)).await;
    assert!(stopped == image.layers[0].bytes());
}
