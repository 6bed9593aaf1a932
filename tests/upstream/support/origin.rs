//! Registries, token servers and storage in this process.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// One request that an origin received.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("text"))
    }

    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().expect("a path")
    }

    pub(crate) fn query(&self, name: &str) -> Option<String> {
        let query = self.target.split_once('?')?.1;
        url::form_urlencoded::parse(query.as_bytes())
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.into_owned())
    }
}

/// What an origin does with a request.
pub(crate) enum Reply {
    Send(Response<Full<Bytes>>),
    /// Closes the connection without an answer.
    Break,
    /// Never answers.
    Hang,
    /// Answers after a while.
    Late(Duration, Response<Full<Bytes>>),
}

pub(crate) fn reply(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Reply {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    Reply::Send(response.body(Full::new(body.into())).expect("a valid response"))
}

/// A registry's own 404.
pub(crate) fn absent() -> Reply {
    let document = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"none"}]}"#;
    reply(404, &[("content-type", "application/json")], document)
}

pub(crate) fn manifest() -> Reply {
    reply(200, &[("content-type", MANIFEST)], "{}")
}

/// A listener that does not answer yet, so that answers can name its address.
pub(crate) struct Bound {
    listener: TcpListener,
    pub(crate) address: SocketAddr,
}

impl Bound {
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn serve(self, answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Origin {
        let (seen, connections) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
        let accepting = accept(self.listener, Arc::new(answer), seen.clone(), connections.clone());
        let task = tokio::spawn(accepting).abort_handle();
        Origin { address: self.address, seen, connections, task }
    }
}

pub(crate) async fn bind() -> Bound {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    Bound { listener, address }
}

pub(crate) async fn origin(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Origin {
    bind().await.serve(answer)
}

/// A listener where nobody should ever come by.
pub(crate) async fn canary() -> Origin {
    origin(|_| reply(200, &[("content-type", MANIFEST)], "caught")).await
}

/// An HTTP server on loopback that remembers what it was asked.
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl Origin {
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("unpoisoned").clone()
    }

    /// How many requests had a path that starts so.
    pub(crate) fn count(&self, path: &str) -> usize {
        self.seen().iter().filter(|seen| seen.target.starts_with(path)).count()
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Answer = Arc<dyn Fn(&Seen) -> Reply + Send + Sync>;

async fn accept(
    listener: TcpListener,
    answer: Answer,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
) {
    let mut open = tokio::task::JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        connections.fetch_add(1, Ordering::SeqCst);
        open.spawn(serve(stream, answer.clone(), seen.clone()));
    }
}

async fn serve(stream: TcpStream, answer: Answer, seen: Arc<Mutex<Vec<Seen>>>) {
    let service = service_fn(move |request: http::Request<Incoming>| {
        let (answer, seen) = (answer.clone(), seen.clone());
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.expect("a whole request").to_bytes();
            let request = Seen {
                method: head.method,
                target: head.uri.to_string(),
                headers: head.headers,
                body: String::from_utf8_lossy(&body).into_owned(),
            };
            let reply = answer(&request);
            seen.lock().expect("unpoisoned").push(request);
            match reply {
                Reply::Send(response) => Ok(response),
                Reply::Break => Err(io::Error::other("broken on purpose")),
                Reply::Hang => std::future::pending().await,
                Reply::Late(wait, response) => {
                    tokio::time::sleep(wait).await;
                    Ok(response)
                }
            }
        }
    });
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// A server that answers every connection with the same bytes, whatever was asked, and then closes
/// it.
pub(crate) async fn raw(bytes: impl Into<Bytes>) -> SocketAddr {
    raw_then(bytes, false).await
}

/// As [`raw`]; with `hold` the connection stays open and silent.
pub(crate) async fn raw_then(bytes: impl Into<Bytes>, hold: bool) -> SocketAddr {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let bytes = bytes.into();
    let bound = bind().await;
    tokio::spawn(async move {
        loop {
            let Ok((mut stream, _)) = bound.listener.accept().await else { return };
            let bytes = bytes.clone();
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(&bytes).await;
                if hold {
                    std::future::pending::<()>().await;
                }
            });
        }
    });
    bound.address
}

/// An address where nothing listens.
pub(crate) async fn closed_port() -> SocketAddr {
    bind().await.address
}
