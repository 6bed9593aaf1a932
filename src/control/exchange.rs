//! One question and its answer, in words for people where there is none.

use std::future::Future;
use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::lines::LINES_TYPE;
use crate::store;
use crate::upstream::BuildError;

/// How long a server may take to answer, or to say the next line: a disk may be slow, and there may
/// be a lot to tell.
const ANSWER_MAX: Duration = Duration::from_mins(2);
/// How long one blob may take to be sent.
const CONTENT_MAX: Duration = Duration::from_hours(24);
/// Bytes of a document, or of a line.
const DOCUMENT_MAX: usize = 1 << 30;

/// Why a command was not answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum ControlError {
    #[error("{0}")]
    Refused(String),
    #[error("cannot speak to the server at {path}")]
    Socket { path: String, source: io::Error },
    #[error("the server at {path} broke off before the end")]
    BrokeOff { path: String },
    #[error("the server at {path} has not answered for {} s", ANSWER_MAX.as_secs())]
    Silent { path: String },
    #[error("the server does not answer as this version does: update the older of both")]
    OtherVersion,
    #[error("a server that takes no commands has {path}: restart it as this version")]
    NoSocket { path: String },
    #[error("interrupted; what is complete is kept, and the same command goes on from there")]
    Interrupted,
    #[error("{0:#}")]
    Told(anyhow::Error),
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("cannot prepare the upstreams")]
    Upstreams(#[from] BuildError),
}

/// Takes the lines of an answer that come before the last.
pub(super) type OnLine<'a> = &'a mut dyn FnMut(&Value) -> anyhow::Result<()>;

/// What a command sends.
pub(super) type SentBody = UnsyncBoxBody<Bytes, io::Error>;

/// Whoever interrupts a command lets it leave everything in order.
pub(super) async fn unless_interrupted(
    answered: impl Future<Output = Result<Value, ControlError>>,
) -> Result<Value, ControlError> {
    let signalled = |kind| async move {
        match signal(kind) {
            Ok(mut signals) => drop(signals.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        answered = answered => answered,
        () = signalled(SignalKind::interrupt()) => Err(ControlError::Interrupted),
        () = signalled(SignalKind::terminate()) => Err(ControlError::Interrupted),
    }
}

pub(super) async fn connected(
    stream: Option<UnixStream>,
    path: &Path,
) -> Result<UnixStream, ControlError> {
    if let Some(stream) = stream {
        return Ok(stream);
    }
    let connected = UnixStream::connect(path).await;
    connected.map_err(|source| ControlError::Socket { path: path.display().to_string(), source })
}

pub(super) async fn over(
    stream: UnixStream,
    path: &Path,
    mut request: Request<SentBody>,
    on_line: OnLine<'_>,
) -> Result<Value, ControlError> {
    let path = path.display().to_string();
    let broken = |_| ControlError::BrokeOff { path: path.clone() };
    let (mut send, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    request.headers_mut().insert(HOST, HeaderValue::from_static("localhost"));
    // Content takes as long as it takes; whoever reads it has a deadline for each piece.
    let patience = if request.method() == Method::PUT { CONTENT_MAX } else { ANSWER_MAX };
    let response = timeout(patience, send.send_request(request)).await;
    let response = response.map_err(|_| ControlError::Silent { path: path.clone() })?;
    read(response.map_err(broken)?, &path, on_line).await
}

/// Reads an answer, whose lines are handed on.
pub(super) async fn read<B>(
    response: Response<B>,
    path: &str,
    on_line: OnLine<'_>,
) -> Result<Value, ControlError>
where
    B: Body<Data = Bytes> + Unpin,
{
    let (head, body) = response.into_parts();
    let in_lines = head.headers.get(CONTENT_TYPE).is_some_and(|kind| kind == LINES_TYPE);
    let mut pieces = Pieces { body, read: BytesMut::new(), path };
    if !in_lines {
        while pieces.more().await? {}
        return document(head.status, &pieces.read);
    }
    while let Some(line) = pieces.line().await? {
        let mut line: Value =
            serde_json::from_slice(&line).map_err(|_| ControlError::OtherVersion)?;
        if let Some(error) = line["error"].as_str() {
            return Err(ControlError::Refused(error.to_owned()));
        }
        if let Some(done) = line.get_mut("done") {
            return Ok(done.take());
        }
        on_line(&line).map_err(ControlError::Told)?;
    }
    Err(ControlError::BrokeOff { path: path.to_owned() })
}

fn document(status: StatusCode, bytes: &[u8]) -> Result<Value, ControlError> {
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

/// An answer as it comes.
struct Pieces<'a, B> {
    body: B,
    read: BytesMut,
    path: &'a str,
}

impl<B: Body<Data = Bytes> + Unpin> Pieces<'_, B> {
    /// Whether there was more.
    async fn more(&mut self) -> Result<bool, ControlError> {
        let path = || self.path.to_owned();
        let frame = timeout(ANSWER_MAX, self.body.frame()).await;
        let frame = frame.map_err(|_| ControlError::Silent { path: path() })?;
        let Some(frame) = frame else { return Ok(false) };
        let frame = frame.map_err(|_| ControlError::BrokeOff { path: path() })?;
        self.read.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
        let is_sane = self.read.len() <= DOCUMENT_MAX;
        is_sane.then_some(true).ok_or(ControlError::OtherVersion)
    }

    /// The next whole line.
    async fn line(&mut self) -> Result<Option<BytesMut>, ControlError> {
        let mut searched = 0;
        loop {
            if let Some(end) = self.read[searched..].iter().position(|byte| *byte == b'\n') {
                return Ok(Some(self.read.split_to(searched + end + 1)));
            }
            searched = self.read.len();
            if !self.more().await? {
                return Ok(None);
            }
        }
    }
}
