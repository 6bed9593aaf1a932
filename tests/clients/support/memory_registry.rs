//! A registry in this process, for campaigns: what it holds is in memory, it sends and takes at a
//! rate, and it counts the blobs that it sends.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::response::Builder;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use roadstead::oci::{Algorithm, Digest};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::image::{Content, Image};

/// What is sent between two pauses.
const PIECE: usize = 16 << 10;
const OCTETS: &str = "application/octet-stream";

/// Runs until dropped.
#[derive(Debug)]
pub(crate) struct MemoryRegistry {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    bytes_per_second: u32,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    /// By path: media type and bytes.
    contents: HashMap<String, (String, Bytes)>,
    /// By path, too.
    uploads: HashMap<String, Vec<u8>>,
    begun: u64,
    blobs_sent: u64,
}

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

impl MemoryRegistry {
    /// Holds each image as `acme/app{number}:1`. Each connection gets and sends bodies at this rate
    /// at most.
    pub(crate) async fn holding(images: &[Image], bytes_per_second: u32) -> Self {
        let mut held = Held::default();
        for (nth, image) in images.iter().enumerate() {
            held.put(&format!("/v2/acme/app{nth}"), image);
        }
        let shared = Arc::new(Shared { bytes_per_second, held: Mutex::new(held) });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
        let address = listener.local_addr().expect("a bound listener has an address");
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&shared)));
        Self { address, shared, _tasks: tasks }
    }

    /// How many blobs it has begun to send.
    pub(crate) fn blobs_sent(&self) -> u64 {
        self.shared.held().blobs_sent
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let service =
                service_fn(async |request| Ok::<_, Infallible>(shared.answer(request).await));
            // A proxy that is killed is what the test is about.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

impl Shared {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().expect("no holder panics")
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let (head, body) = request.into_parts();
        let path = head.uri.path().to_owned();
        if head.method == Method::GET || head.method == Method::HEAD {
            return self.read(&path, head.method == Method::GET);
        }
        let Some(sent) = self.receive(body).await else { return status(StatusCode::BAD_REQUEST) };
        let media_type = head.headers.get(header::CONTENT_TYPE);
        let media_type = media_type.and_then(|value| value.to_str().ok()).unwrap_or(OCTETS);
        if path.contains("/manifests/") {
            return self.held().take_manifest(&path, media_type, &sent);
        }
        if head.method == Method::POST {
            return self.held().begin(&path);
        }
        let query = head.uri.query().unwrap_or_default().to_owned();
        let digest = url::form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == "digest");
        self.held().go_on(&path, &sent, digest.map(|(_, digest)| digest.into_owned()).as_deref())
    }

    fn read(&self, path: &str, with_body: bool) -> Answer {
        if path == "/v2/" {
            return status(StatusCode::OK);
        }
        let mut held = self.held();
        let Some((media_type, bytes)) = held.contents.get(path).cloned() else {
            return status(StatusCode::NOT_FOUND);
        };
        held.blobs_sent += u64::from(with_body && path.contains("/blobs/"));
        let answer = Response::builder()
            .header(header::CONTENT_TYPE, media_type)
            .header(header::CONTENT_LENGTH, bytes.len())
            .header("docker-content-digest", Digest::of(Algorithm::Sha256, &bytes).as_str());
        let body = if with_body { bytes } else { Bytes::new() };
        respond(answer, self.at_rate(body))
    }

    fn at_rate(&self, bytes: Bytes) -> UnsyncBoxBody<Bytes, Infallible> {
        let rate = self.bytes_per_second;
        let pieces = stream::unfold(bytes, move |mut left| async move {
            if left.is_empty() {
                return None;
            }
            let piece = left.split_to(left.len().min(PIECE));
            sleep(cost(piece.len(), rate)).await;
            Some((Ok(Frame::data(piece)), left))
        });
        StreamBody::new(pieces).boxed_unsync()
    }

    /// All of a body, if its sender lives to its end.
    async fn receive(&self, mut body: Incoming) -> Option<Bytes> {
        let mut all = Vec::new();
        while let Some(frame) = body.frame().await {
            let piece = frame.ok()?.into_data().unwrap_or_default();
            sleep(cost(piece.len(), self.bytes_per_second)).await;
            all.extend_from_slice(&piece);
        }
        Some(all.into())
    }
}

impl Held {
    fn put(&mut self, repository: &str, image: &Image) {
        let mut keep = |path: &str, content: &Content| {
            let held = (content.media_type.to_owned(), content.bytes.clone());
            self.contents.insert(format!("{repository}/{path}"), held);
        };
        for platform in &image.platforms {
            for blob in platform.blobs() {
                keep(&format!("blobs/{}", blob.digest), blob);
            }
            keep(&format!("manifests/{}", platform.manifest.digest), &platform.manifest);
        }
        keep(&format!("manifests/{}", image.index.digest), &image.index);
        keep("manifests/1", &image.index);
    }

    fn take_manifest(&mut self, path: &str, media_type: &str, bytes: &Bytes) -> Answer {
        let digest = Digest::of(Algorithm::Sha256, bytes);
        let (folder, _) = path.rsplit_once('/').expect("it has a reference");
        for path in [path.to_owned(), format!("{folder}/{digest}")] {
            self.contents.insert(path, (media_type.to_owned(), bytes.clone()));
        }
        empty(created(path).header("docker-content-digest", digest.as_str()))
    }

    fn begin(&mut self, uploads: &str) -> Answer {
        self.begun += 1;
        let location = format!("{uploads}{}", self.begun);
        self.uploads.insert(location.clone(), Vec::new());
        accepted(&location, 0)
    }

    /// What was sent belongs to an upload, and with a digest is the end of it.
    fn go_on(&mut self, path: &str, sent: &[u8], digest: Option<&str>) -> Answer {
        let Some(upload) = self.uploads.get_mut(path) else { return status(StatusCode::NOT_FOUND) };
        upload.extend_from_slice(sent);
        let Some(digest) = digest else { return accepted(path, upload.len()) };
        let bytes = self.uploads.remove(path).expect("it was just there");
        if Digest::of(Algorithm::Sha256, &bytes).as_str() != digest {
            return status(StatusCode::BAD_REQUEST);
        }
        let (repository, _) = path.split_once("uploads/").expect("an upload's path");
        let blob = format!("{repository}{digest}");
        self.contents.insert(blob.clone(), (OCTETS.to_owned(), bytes.into()));
        empty(created(&blob).header("docker-content-digest", digest))
    }
}

fn cost(bytes: usize, per_second: u32) -> Duration {
    Duration::from_secs(1) * u32::try_from(bytes).expect("a piece") / per_second
}

fn accepted(location: &str, taken: usize) -> Answer {
    let head = Response::builder().status(StatusCode::ACCEPTED).header(header::LOCATION, location);
    empty(head.header(header::RANGE, format!("0-{}", taken.saturating_sub(1))))
}

fn created(location: &str) -> Builder {
    Response::builder().status(StatusCode::CREATED).header(header::LOCATION, location)
}

fn status(status: StatusCode) -> Answer {
    empty(Response::builder().status(status))
}

fn empty(head: Builder) -> Answer {
    respond(head.header(header::CONTENT_LENGTH, 0), UnsyncBoxBody::default())
}

fn respond(head: Builder, body: UnsyncBoxBody<Bytes, Infallible>) -> Answer {
    head.body(body).expect("status and headers are valid")
}
