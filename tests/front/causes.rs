//! Why an upstream cannot be reached: in the client's answer, in the access line, in the metric.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use url::Url;

use crate::support::access_log;
use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, Setup, manifest};
use crate::support::tls::{Authority, acceptor};

/// A listener that lets `serve` deal with each connection.
async fn listener<F>(host: &str, serve: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((host, 0)).await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { return };
            tokio::spawn(serve(stream));
        }
    });
    address
}

/// A server that shakes hands with this certificate, PEM, and says nothing.
async fn tls_server(host: &str, certificate: (String, String)) -> SocketAddr {
    let acceptor = acceptor(certificate);
    listener(host, move |stream| {
        let accepting = acceptor.accept(stream);
        async move { drop(accepting.await) }
    })
    .await
}

/// What a proxy with one upstream, `acme.test`, answers and logs when that cannot be reached.
async fn told(url: &str, ca: Option<&Authority>, repository: &str) -> (String, String, Proxy) {
    access_log::gather();
    let mut setup = Setup::new();
    let nobody = Origin::start().await;
    let upstream = setup.upstream("acme.test", &nobody);
    upstream.url = Url::parse(url).expect("a URL");
    upstream.ca = ca.map(|authority| authority.pem().into_bytes());
    let proxy = setup.start().await;
    let answer = proxy.get(&manifest(repository, "v1")).await;
    assert_eq!(answer.refusal(), (502, "UNAVAILABLE".into()), "{url}");
    let mut line = access_log::line(repository, 1).await;
    (answer.message(), line.remove("error").unwrap_or_default(), proxy)
}

/// The access line is returned.
async fn is_told(url: String, ca: Option<&Authority>, word: &str, clause: &str) -> String {
    let repository = format!("causes/{word}");
    let (message, line, proxy) = told(&url, ca, &repository).await;
    assert_eq!(message, format!("the upstream registry cannot be reached: {clause}"));
    assert!(line.contains(&format!(": {clause}")), "{word}: {line}");
    assert!(line.contains(url.trim_end_matches('/')), "{word}: {line}");
    let counted = |labels| proxy.metric("roadstead_upstream_unanswered_total", labels);
    let (all, this) = (counted(&[("upstream", "acme.test")]), counted(&[("cause", word)]));
    assert!(this > 0 && this == all, "{word}: {this} of {all}");
    line
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_connection_is_told_without_addresses() {
    let closed = {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(([127, 0, 0, 1], 0).into()).expect("a free port");
        // Bound and not listening: nobody else gets the port.
        let address = socket.local_addr().expect("it is bound");
        (socket, address)
    };
    is_told(format!("http://{}", closed.1), None, "refused", "the connection is refused").await;
    is_told("http://nowhere.test".into(), None, "name_not_found", "its name does not exist").await;
    let hangs_up = listener("127.0.0.1", |stream| async move { drop(stream) }).await;
    let clause = "the connection was closed or reset";
    is_told(format!("http://{hangs_up}"), None, "reset", clause).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_certificate_is_told() {
    let (authority, other) = (Authority::new(), Authority::new());
    let good = tls_server("127.0.0.1", authority.issue("acme.test")).await;
    let url = |address: SocketAddr| format!("https://{address}");
    let clause = "its certificate is of an authority that is not trusted here";
    is_told(url(good), Some(&other), "unknown_authority", clause).await;
    let old = tls_server("127.0.0.1", authority.issue_until("acme.test", 2020)).await;
    let clause = "its certificate has expired or is not valid yet";
    is_told(url(old), Some(&authority), "expired", clause).await;
    // The certificate names 127.0.0.1.
    let elsewhere = tls_server("127.0.0.2", authority.issue("acme.test")).await;
    let line = is_told(
        url(elsewhere),
        Some(&authority),
        "wrong_name",
        "its certificate is for another name",
    )
    .await;
    assert!(line.contains("acme.test"), "the log says what names it has: {line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_on_a_tls_port_is_told() {
    let plain = listener("127.0.0.1", |mut stream| async move {
        let mut request = [0; 1024];
        let _hello = stream.read(&mut request).await;
        let _gone = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    })
    .await;
    let clause = "it does not speak TLS on this port";
    is_told(format!("https://{plain}"), None, "not_tls", clause).await;
}
