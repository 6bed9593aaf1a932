//! Certificates: verified, by an authority of the operator's, or deliberately not.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use roadstead::upstream::{BuildError, ErrorKind, Lookup, Upstreams};
use rustls::pki_types::PrivateKeyDer;

use crate::support::{
    MANIFEST, Setup, canary, closed_port, digest, raw_then, repository, soon, tag,
};

/// A TLS server for `localhost` that gives every connection the same answer; and its certificate as
/// PEM.
fn tls_origin(answer: String) -> (SocketAddr, String) {
    let made =
        rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("a server");
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let session = rustls::ServerConnection::new(config.clone()).expect("a session");
            let mut tls = rustls::StreamOwned::new(session, stream);
            let mut request = [0; 4096];
            if tls.read(&mut request).is_ok() {
                let _ = tls.write_all(answer.as_bytes());
                tls.conn.send_close_notify();
                let _ = tls.flush();
            }
        }
    });
    (address, made.cert.pem())
}

fn good() -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {MANIFEST}\r\ncontent-length: 2\r\n\
         connection: close\r\n\r\n{{}}"
    )
}

fn setup(address: SocketAddr) -> Setup {
    Setup::new(&format!("https://localhost:{}", address.port()))
}

#[tokio::test]
async fn an_unknown_authority_is_refused_unless_the_operator_names_it() {
    let (address, pem) = tls_origin(good());
    let error = setup(address)
        .build()
        .get_manifest(&repository(), &tag(), soon())
        .await
        .expect_err("unknown");
    assert_eq!(error.kind(), &ErrorKind::Unreachable);

    let mut trusting = setup(address);
    trusting.config.ca = Some(pem.clone().into_bytes());
    trusting.build().get_manifest(&repository(), &tag(), soon()).await.expect("by its authority");

    let mut wrong_name = Setup::new(&format!("https://{address}"));
    wrong_name.config.ca = Some(pem.into_bytes());
    let error = wrong_name
        .build()
        .get_manifest(&repository(), &tag(), soon())
        .await
        .expect_err("wrong name");
    assert_eq!(error.kind(), &ErrorKind::Unreachable);
}

#[tokio::test]
async fn verification_can_be_turned_off() {
    let (address, _) = tls_origin(good());
    let mut careless = setup(address);
    careless.config.tls_verify = false;
    careless
        .build()
        .get_manifest(&repository(), &tag(), soon())
        .await
        .expect("any certificate will do");
}

#[tokio::test]
async fn a_redirect_never_leads_out_of_tls() {
    let canary = canary().await;
    let location = format!(
        "HTTP/1.1 302 Found\r\nlocation: {}/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        canary.url()
    );
    let (address, pem) = tls_origin(location);
    let mut setup = setup(address).blob_host(canary.host()).token_host(canary.host());
    setup.config.ca = Some(pem.into_bytes());
    let error =
        setup.build().get_blob(&repository(), &digest(), None, soon()).await.expect_err("refused");
    assert_eq!(error.kind(), &ErrorKind::ForbiddenAddress);
    assert_eq!(canary.connections(), 0);
}

#[tokio::test]
async fn a_handshake_that_stalls_is_given_up_and_tried_once_more() {
    let silent = raw_then("", true).await;
    let mut setup = setup(silent);
    setup.limits.connect = Duration::from_millis(50);
    let error =
        setup.build().get_manifest(&repository(), &tag(), soon()).await.expect_err("no handshake");
    assert_eq!(error.kind(), &ErrorKind::Unreachable);
    assert!(error.to_string().ends_with("(2 attempts)"), "{error}");
}

#[tokio::test]
async fn an_authority_file_without_a_certificate_is_an_error_at_the_start() {
    for pem in
        [&b""[..], b"nonsense", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
    {
        let mut setup = setup(closed_port().await);
        setup.config.ca = Some(pem.to_vec());
        let (configs, lookup) = ([setup.config.clone()], Lookup::system());
        let built = Upstreams::new(
            &configs,
            setup.clock.clone(),
            &setup.limits,
            setup.metrics.clone(),
            &lookup,
        );
        assert!(matches!(built, Err(BuildError::Ca { .. })));
    }
}
