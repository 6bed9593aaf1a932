//! The other end: a command asks the server that runs, or opens the directory itself.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::header::HOST;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Collected, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::answers::Answers;
use crate::clock::Clock;
use crate::config::Config;
use crate::store::{self, BlobStore};

/// How long a server may take to answer: a disk may be slow, and there may be a lot to tell.
const ANSWER_MAX: Duration = Duration::from_mins(2);

/// Why a command was not answered.
#[derive(Debug, thiserror::Error)]
enum ControlError {
    #[error("{0}")]
    Refused(String),
    #[error("cannot speak to the server at {path}")]
    Socket { path: String, source: io::Error },
    #[error("the server at {path} broke off")]
    Http { path: String, source: hyper::Error },
    #[error("the server at {path} has not answered for {} s", ANSWER_MAX.as_secs())]
    Silent { path: String },
    #[error("the server does not answer as this version does: update the older of both")]
    OtherVersion,
    #[error("a server that takes no commands has {path}: restart it as this version")]
    NoSocket { path: String },
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// Asks for `path` and its query, and waits for the answer.
///
/// # Errors
/// [`ControlError`], in words for people.
pub(crate) fn ask_and_wait(config: &Config, path: &str) -> anyhow::Result<Value> {
    run(config, Request::get(path).body(Bytes::new()))
}

/// Posts `order` to `path`, and waits for the answer.
///
/// # Errors
/// [`ControlError`], in words for people.
pub(crate) fn post_and_wait(config: &Config, path: &str, order: &Value) -> anyhow::Result<Value> {
    run(config, Request::post(path).body(Bytes::from(order.to_string())))
}

fn run(config: &Config, request: http::Result<Request<Bytes>>) -> anyhow::Result<Value> {
    let request = request.context("this cannot be asked for")?;
    let runtime = Runtime::new().context("cannot start the runtime")?;
    Ok(runtime.block_on(ask(config, request))?)
}

/// Asks the server that has the cache directory, or this process where none has it.
///
/// # Errors
/// [`ControlError`], in words for people.
async fn ask(config: &Config, request: Request<Bytes>) -> Result<Value, ControlError> {
    let path = config.control_socket();
    match UnixStream::connect(&path).await {
        Ok(stream) => {
            let silent = |_| ControlError::Silent { path: path.display().to_string() };
            timeout(ANSWER_MAX, over(stream, &path, request)).await.map_err(silent)?
        }
        Err(error) if is_nobody(&error) => alone(config, &request).await,
        Err(source) => Err(ControlError::Socket { path: path.display().to_string(), source }),
    }
}

/// Whether there is no socket, or nobody listens to it.
fn is_nobody(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused)
}

async fn over(
    stream: UnixStream,
    path: &Path,
    request: Request<Bytes>,
) -> Result<Value, ControlError> {
    let broken = |source| ControlError::Http { path: path.display().to_string(), source };
    let (mut send, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let connection = tokio::spawn(connection);
    let mut request = request.map(Full::new);
    request.headers_mut().insert(HOST, http::HeaderValue::from_static("localhost"));
    let (head, body) = send.send_request(request).await.map_err(broken)?.into_parts();
    let bytes = body.collect().await.map_err(broken)?.to_bytes();
    connection.abort();
    read(head.status, &bytes)
}

/// Opens the directory as a server does, answers, and gives it back.
async fn alone(config: &Config, request: &Request<Bytes>) -> Result<Value, ControlError> {
    let clock = Clock::system();
    let opened = BlobStore::existing(&config.cache, clock.clone());
    if let Err(store::Error::Locked { path }) = opened {
        return Err(ControlError::NoSocket { path: path.display().to_string() });
    }
    let store = opened?;
    store.load().await?;
    let response = Answers::new(store.clone(), clock).answer(request).await;
    store.close().await;
    let (head, body) = response.into_parts();
    let Ok(bytes) = body.collect().await.map(Collected::to_bytes);
    read(head.status, &bytes)
}

fn read(status: StatusCode, bytes: &[u8]) -> Result<Value, ControlError> {
    let value: Value = serde_json::from_slice(bytes).map_err(|_| ControlError::OtherVersion)?;
    if status.is_success() {
        return Ok(value);
    }
    match value.get("error").and_then(Value::as_str) {
        Some(_) if status == StatusCode::NOT_FOUND => Err(ControlError::OtherVersion),
        Some(error) => Err(ControlError::Refused(error.to_owned())),
        None => Err(ControlError::OtherVersion),
    }
}
