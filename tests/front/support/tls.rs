//! Certificates, and clients that speak TLS.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
    SanType,
};
use roadstead::config::{ClientAuth, Tls};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::TLS13;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::proxy::{Proxy, Setup};
use super::soon;

/// Signs certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        let mut parameters = CertificateParams::new(Vec::new()).expect("parameters");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(parameters, key).expect("an authority"))
    }

    /// Certificate and key, PEM.
    pub(crate) fn issue(&self, name: &str) -> (String, String) {
        self.issue_until(name, 4000)
    }

    /// Until the end of a year.
    pub(crate) fn issue_until(&self, name: &str, year: i32) -> (String, String) {
        self.issue_for(name, 1975..=year)
    }

    /// From the beginning of the first year to the end of the last.
    pub(crate) fn issue_for(&self, name: &str, years: RangeInclusive<i32>) -> (String, String) {
        let mut parameters =
            CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("parameters");
        parameters.not_before = rcgen::date_time_ymd(*years.start(), 1, 1);
        parameters.not_after = rcgen::date_time_ymd(*years.end(), 12, 31);
        parameters.subject_alt_names.push(SanType::DnsName(name.try_into().expect("a name")));
        parameters.distinguished_name.push(DnType::CommonName, name);
        self.sign(&parameters)
    }

    /// For a subject and no other name.
    pub(crate) fn issue_to(&self, subject: &[(DnType, &str)]) -> (String, String) {
        let mut parameters = CertificateParams::new(Vec::new()).expect("parameters");
        parameters.distinguished_name = DistinguishedName::new();
        for (kind, value) in subject {
            parameters.distinguished_name.push(kind.clone(), *value);
        }
        self.sign(&parameters)
    }

    fn sign(&self, parameters: &CertificateParams) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        (parameters.signed_by(&key, &self.0).expect("a certificate").pem(), key.serialize_pem())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }
}

/// A server's side of TLS with this certificate and key, PEM.
pub(crate) fn acceptor((certificate, key): (String, String)) -> TlsAcceptor {
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).expect("PEM");
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("a pair");
    TlsAcceptor::from(Arc::new(config))
}

/// TLS in front of a server that speaks without.
pub(crate) async fn in_front_of(server: SocketAddr, acceptor: TlsAcceptor) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { return };
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut here) = acceptor.accept(stream).await else { return };
                let Ok(mut there) = TcpStream::connect(server).await else { return };
                let _ended = copy_bidirectional(&mut here, &mut there).await;
            });
        }
    });
    address
}

/// A certificate for `registry.test`, and what is asked of clients for theirs.
pub(crate) fn tls(
    setup: &Setup,
    authority: &Authority,
    clients: Option<(&Authority, ClientAuth)>,
) -> Tls {
    let (certificate, key) = authority.issue("registry.test");
    Tls {
        certificate: setup.file("tls.crt", &certificate),
        key: setup.file("tls.key", &key),
        client_ca: clients
            .map(|(authority, _)| -> PathBuf { setup.file("clients.pem", &authority.pem()) }),
        client_auth: clients.map_or(ClientAuth::Optional, |(_, auth)| auth),
    }
}

pub(crate) fn client(
    trusts: &Authority,
    identity: Option<(String, String)>,
    http_1: bool,
) -> reqwest::Client {
    let root = reqwest::Certificate::from_pem(trusts.pem().as_bytes()).expect("PEM");
    let mut builder = reqwest::Client::builder().no_proxy().tls_certs_only([root]);
    if let Some((certificate, key)) = identity {
        builder = builder.identity(
            reqwest::Identity::from_pem(format!("{certificate}{key}").as_bytes()).expect("PEM"),
        );
    }
    if http_1 { builder.http1_only() } else { builder }.build().expect("a client")
}

/// What a client of its own kind connects with: versions, protocols, a certificate. Sessions are
/// resumed.
pub(crate) fn handshakes(
    trusts: &Authority,
    versions: &[&'static rustls::SupportedProtocolVersion],
    protocol: &[u8],
    identity: Option<(String, String)>,
) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(trusts.pem().as_bytes()).expect("PEM"))
        .expect("an authority");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        rustls::ClientConfig::builder_with_provider(provider).with_protocol_versions(versions);
    let builder = builder.expect("versions").with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).expect("PEM");
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM");
            builder.with_client_auth_cert(vec![certificate], key).expect("a pair")
        }
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    TlsConnector::from(Arc::new(config))
}

pub(crate) async fn handshake(
    connector: &TlsConnector,
    proxy: &Proxy,
) -> std::io::Result<TlsStream<TcpStream>> {
    let name = "registry.test".try_into().expect("a name");
    soon("a handshake", connector.connect(name, proxy.connect().await)).await
}

/// A connection that has agreed on HTTP/2 and has said nothing yet.
pub(crate) async fn for_http_2(proxy: &Proxy, trusts: &Authority) -> TlsStream<TcpStream> {
    let stream =
        handshake(&handshakes(trusts, &[&TLS13], b"h2", None), proxy).await.expect("a handshake");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
    stream
}
