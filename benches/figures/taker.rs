//! A registry that takes pushes, hashes what it gets and keeps none of it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, LOCATION, RANGE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use roadstead::oci::{Algorithm, Hasher};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

/// Stops with its handle.
#[derive(Debug)]
pub(crate) struct Taker {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    accepting: AbortHandle,
}

#[derive(Debug, Default)]
struct Shared {
    /// By the end of their addresses.
    uploads: Mutex<HashMap<String, Upload>>,
    begun: AtomicU64,
    blobs: AtomicU64,
}

/// What has arrived.
#[derive(Debug)]
struct Upload {
    hasher: Hasher,
    bytes: u64,
}

impl Taker {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared))).abort_handle();
        Ok(Self { address, shared, accepting })
    }

    /// Blobs that arrived whole, and were what they were said to be.
    pub(crate) fn blobs(&self) -> u64 {
        self.shared.blobs.load(Ordering::Relaxed)
    }
}

impl Drop for Taker {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        let service = service_fn(move |request| {
            let shared = Arc::clone(&shared);
            async move { shared.answer(request).await }
        });
        // A client that leaves ends its connection, which nobody waits for.
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

impl Shared {
    async fn answer(&self, request: Request<Incoming>) -> anyhow::Result<Response<Empty<Bytes>>> {
        let path = request.uri().path().to_owned();
        let answer = Response::builder().header(CONTENT_TYPE, "text/plain");
        let answer = match (request.method().clone(), path.rsplit_once("/uploads/")) {
            (Method::POST, Some(_)) => {
                let number = self.begun.fetch_add(1, Ordering::Relaxed).to_string();
                self.put(
                    number.clone(),
                    Upload { hasher: Hasher::new(Algorithm::Sha256), bytes: 0 },
                );
                answer
                    .status(StatusCode::ACCEPTED)
                    .header(LOCATION, format!("{path}{number}"))
                    .header(RANGE, "0-0")
            }
            (Method::PATCH, Some((_, number))) => {
                let upload = self.take(number, request.into_body()).await?;
                let range = format!("0-{}", upload.bytes.saturating_sub(1));
                self.put(number.to_owned(), upload);
                answer.status(StatusCode::ACCEPTED).header(LOCATION, path).header(RANGE, range)
            }
            (Method::PUT, Some((_, number))) => {
                let query = request.uri().query().unwrap_or_default().to_owned();
                let digest = self.take(number, request.into_body()).await?.hasher.finish();
                ensure!(query.contains(digest.hex()), "{query} is said of {digest}");
                self.blobs.fetch_add(1, Ordering::Relaxed);
                answer.status(StatusCode::CREATED).header(LOCATION, "/v2/")
            }
            (Method::PUT, None) => {
                request.into_body().collect().await?;
                answer.status(StatusCode::CREATED).header(LOCATION, "/v2/")
            }
            (Method::GET, None) if path == "/v2/" => answer.status(StatusCode::OK),
            (method, _) => bail!("{method} {path} is not taken"),
        };
        Ok(answer.body(Empty::new())?)
    }

    /// The upload, with what the body adds to it.
    async fn take(&self, number: &str, mut body: Incoming) -> anyhow::Result<Upload> {
        let upload = self.uploads.lock().unwrap_or_else(PoisonError::into_inner).remove(number);
        let mut upload = upload.context("there is no such upload")?;
        while let Some(frame) = body.frame().await {
            let Ok(bytes) = frame?.into_data() else { continue };
            upload.bytes += bytes.len() as u64;
            upload.hasher.update(&bytes);
        }
        Ok(upload)
    }

    fn put(&self, number: String, upload: Upload) {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner).insert(number, upload);
    }
}
