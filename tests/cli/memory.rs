//! Memory of the process: what clients made it take goes back to the system when they have left.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use roadstead::oci::{Algorithm, Digest};
use rustix::process::Pid;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use crate::support::{Serving, directory, roadstead};

const MIB: u64 = 1 << 20;
const CONNECTIONS: usize = 40;
const STREAMS: usize = 100;

/// How long memory may take to go back.
const GOES_BACK: Duration = Duration::from_secs(30);

/// A registry that has one blob, in every repository.
fn registry(blob: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let blob = blob.clone();
            std::thread::spawn(move || answer_all(&stream, &blob));
        }
    });
    address
}

fn answer_all(mut stream: &std::net::TcpStream, blob: &[u8]) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    while let Some(first) = lines.next() {
        let first = first?;
        for line in lines.by_ref() {
            if line?.is_empty() {
                break;
            }
        }
        let body = if first.contains("/blobs/") { blob } else { b"{}" };
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len())?;
        if first.starts_with("GET") {
            stream.write_all(body)?;
        }
    }
    Ok(())
}

/// Bytes of memory that is no file's.
fn anonymous(process: Pid) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.as_raw_nonzero()));
    let status = status.expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("KiB") * 1024
}

/// An HTTP/2 client that trusts this certificate, and lets each of its streams send so many bytes.
async fn client(
    address: &str,
    certificate: &CertificateDer<'static>,
    window: u32,
) -> (SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>) {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.clone()).expect("a certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider);
    let config = config.with_safe_default_protocol_versions().expect("versions");
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(address).await.expect("it listens");
    let name = "localhost".try_into().expect("a name");
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("TLS");
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(window).initial_connection_window_size(1 << 20);
    let (send, connection) = builder.handshake(stream).await.expect("HTTP/2");
    (send, tokio::spawn(connection))
}

/// The body of a blob of which nothing is taken yet.
async fn get(send: &SendRequest<Bytes>, path: &str) -> h2::RecvStream {
    let request = http::Request::get(format!("https://localhost{path}")).body(());
    let mut send = send.clone().ready().await.expect("room for a stream");
    let (answer, _) = send.send_request(request.expect("a request"), true).expect("sent");
    let answer = answer.await.expect("an answer");
    assert_eq!(answer.status(), 200);
    answer.into_body()
}

async fn read_whole(mut body: h2::RecvStream) -> usize {
    let mut length = 0;
    while let Some(piece) = body.data().await {
        let piece = piece.expect("a piece");
        body.flow_control().release_capacity(piece.len()).expect("it was used");
        length += piece.len();
    }
    length
}

/// A proxy with TLS in front of this registry, its address, and its certificate.
fn encrypted(registry: SocketAddr) -> (TempDir, Serving, String, CertificateDer<'static>) {
    let pair = rcgen::generate_simple_self_signed(vec!["localhost".into()]).expect("a key");
    let (folder, file) = directory("");
    let [certificate, key] = ["tls.crt", "tls.key"].map(|name| folder.path().join(name));
    fs::write(&certificate, pair.cert.pem()).expect("writable");
    fs::write(&key, pair.signing_key.serialize_pem()).expect("writable");
    let more = format!(
        "tls: {{ certificate: {}, key: {} }}\nupstreams: {{ docker.io: {{ url: 'http://{registry}' }} }}\n",
        certificate.display(),
        key.display()
    );
    let text = fs::read_to_string(&file).expect("it was written") + &more;
    fs::write(&file, text).expect("writable");
    let mut serving = Serving::spawn_with(&file, &mut roadstead(&["serve"]));
    let line = serving.until("clients=").pop().expect("the line with the address");
    let (_, rest) = line.split_once("clients=").expect("it was waited for");
    let address = rest.split_whitespace().next().expect("an address").to_owned();
    let certificate = CertificateDer::from_pem_slice(pair.cert.pem().as_bytes()).expect("PEM");
    (folder, serving, address, certificate)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_unread_answers_took_goes_back_to_the_system_when_they_are_gone() {
    let blob: Vec<u8> = (0..8 * MIB).map(|i| (i * i / 128).to_le_bytes()[0]).collect();
    let path = format!("/v2/library/a/blobs/{}", Digest::of(Algorithm::Sha256, &blob));
    let registry = registry(blob.clone());
    let (_folder, serving, address, certificate) = encrypted(registry);
    for _cold_then_warm in 0..2 {
        let (send, _driver) = client(&address, &certificate, 1 << 20).await;
        assert_eq!(read_whole(get(&send, &path).await).await, blob.len());
    }
    let idle = anonymous(serving.id());
    let mut unread = Vec::new();
    for _ in 0..CONNECTIONS {
        let (send, driver) = client(&address, &certificate, 1).await;
        let mut bodies = Vec::new();
        for _ in 0..STREAMS {
            bodies.push(get(&send, &path).await);
        }
        unread.push((send, driver, bodies));
    }
    let top = anonymous(serving.id());
    for (_, driver, _) in &unread {
        driver.abort();
    }
    drop(unread);
    let left = Instant::now();
    let bound = idle + 32 * MIB;
    while anonymous(serving.id()) > bound && left.elapsed() < GOES_BACK {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let after = anonymous(serving.id());
    println!(
        "idle {} KiB, at the top {} KiB, {} ms later {} KiB",
        idle / 1024,
        top / 1024,
        left.elapsed().as_millis(),
        after / 1024
    );
    assert!(top > idle + 40 * MIB, "the flood took {} KiB", (top - idle) / 1024);
    assert!(after <= bound, "idle {idle}, then {top}, and {after} when they are gone");
}
