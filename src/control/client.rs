//! The other end: a command asks the server that runs, or opens the directory itself.

use std::future::Future;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::answers::Answers;
use super::lines::LINES_TYPE;
use super::parts::ControlParts;
use crate::clock::Clock;
use crate::config::Config;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::pull::Parts;
use crate::store::{self, BlobStore};
use crate::upstream::{BuildError, Lookup, Upstreams};

/// How long a server may take to answer, or to say the next line: a disk may be slow, and there may
/// be a lot to tell.
const ANSWER_MAX: Duration = Duration::from_mins(2);
/// Bytes of a document, or of a line.
const DOCUMENT_MAX: usize = 1 << 30;

/// Why a command was not answered.
#[derive(Debug, thiserror::Error)]
enum ControlError {
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

/// What is posted.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) path: &'static str,
    pub(crate) body: Value,
    pub(crate) absent: Absent,
}

/// What becomes of a command without a server if there is no cache yet.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Absent {
    /// It is made.
    Made,
    Told,
}

/// Takes the lines of an answer that come before the last.
type OnLine<'a> = &'a mut dyn FnMut(&Value) -> anyhow::Result<()>;

/// Asks for `path` and its query, and waits for the answer.
///
/// # Errors
/// [`ControlError`], in words for people.
pub(crate) fn ask_and_wait(config: &Config, path: &str) -> anyhow::Result<Value> {
    let asked = Request::get(path).body(Full::default()).context("this cannot be asked for")?;
    run(config, asked, Absent::Told, &mut |_| Ok(()))
}

/// Posts `order` to `path`, and waits for the answer.
///
/// # Errors
/// [`ControlError`], in words for people.
pub(crate) fn post_and_wait(config: &Config, path: &str, order: &Value) -> anyhow::Result<Value> {
    let posted = Request::post(path).body(Full::from(order.to_string()));
    run(config, posted.context("this cannot be asked for")?, Absent::Told, &mut |_| Ok(()))
}

/// Posts an order, hands the lines of the answer on as they come, and gives the result. Whoever
/// interrupts it has it cancelled.
///
/// # Errors
/// [`ControlError`], in words for people.
pub(crate) fn follow_and_wait(
    config: &Config,
    order: &Order,
    on_line: OnLine<'_>,
) -> anyhow::Result<Value> {
    let posted = Request::post(order.path).body(Full::from(order.body.to_string()));
    run(config, posted.context("this cannot be ordered")?, order.absent, on_line)
}

fn run(
    config: &Config,
    request: Request<Full<Bytes>>,
    absent: Absent,
    on_line: OnLine<'_>,
) -> anyhow::Result<Value> {
    let runtime = Runtime::new().context("cannot start the runtime")?;
    Ok(runtime.block_on(ask(config, request, absent, on_line))?)
}

/// Asks the server that has the cache directory, or this process where none has it.
///
/// # Errors
/// [`ControlError`], in words for people.
async fn ask(
    config: &Config,
    request: Request<Full<Bytes>>,
    absent: Absent,
    on_line: OnLine<'_>,
) -> Result<Value, ControlError> {
    let path = config.control_socket();
    match UnixStream::connect(&path).await {
        Ok(stream) => unless_interrupted(over(stream, &path, request, on_line)).await,
        Err(error) if is_nobody(&error) => alone(config, request, absent, on_line).await,
        Err(source) => Err(ControlError::Socket { path: path.display().to_string(), source }),
    }
}

/// Whether there is no socket, or nobody listens to it.
fn is_nobody(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused)
}

/// Whoever interrupts a command lets it leave everything in order.
async fn unless_interrupted(
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

async fn over(
    stream: UnixStream,
    path: &Path,
    mut request: Request<Full<Bytes>>,
    on_line: OnLine<'_>,
) -> Result<Value, ControlError> {
    let path = path.display().to_string();
    let broken = |_| ControlError::BrokeOff { path: path.clone() };
    let (mut send, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    request.headers_mut().insert(HOST, HeaderValue::from_static("localhost"));
    let response = timeout(ANSWER_MAX, send.send_request(request)).await;
    let response = response.map_err(|_| ControlError::Silent { path: path.clone() })?;
    read(response.map_err(broken)?, &path, on_line).await
}

/// Opens the directory as a server does, answers, and gives it back.
async fn alone(
    config: &Config,
    request: Request<Full<Bytes>>,
    absent: Absent,
    on_line: OnLine<'_>,
) -> Result<Value, ControlError> {
    let parts = open(config, absent)?;
    let (store, parts) = (parts.store.clone(), ControlParts::alone(config, parts));
    let (pull, pins) = (parts.pull.clone(), parts.pins.clone());
    let cache = watch::Sender::new(config.cache.clone());
    let answered = async {
        // Before the index is loaded, and so before anything can be evicted.
        let looked = pins.clone();
        drop(spawn_blocking(move || looked.load()).await);
        store.load().await?;
        let _pins = AbortOnDropHandle::new(tokio::spawn(pins.follow(cache.subscribe())));
        let (head, body) = request.into_parts();
        let Ok(body) = body.collect().await;
        let request = Request::from_parts(head, body.to_bytes());
        let path = config.cache.path.display().to_string();
        read(Answers::new(parts).answer(&request).await, &path, on_line).await
    };
    let answered = unless_interrupted(answered).await;
    // As when a server stops: first what uses the disk.
    pull.stop().await;
    store.close().await;
    answered
}

/// What a server is made of, over the directory of one that does not run.
fn open(config: &Config, absent: Absent) -> Result<Parts, ControlError> {
    let (clock, limits, metrics) = (Clock::system(), Limits::default(), Arc::new(Metrics::new()));
    let opened = match absent {
        Absent::Told => BlobStore::existing(&config.cache, clock.clone()),
        Absent::Made => BlobStore::existing_or_new(&config.cache, clock.clone()),
    };
    if let Err(store::Error::Locked { path }) = opened {
        return Err(ControlError::NoSocket { path: path.display().to_string() });
    }
    let (store, lookup) = (opened?, Lookup::system());
    let shared = Arc::clone(&metrics);
    let upstreams = Upstreams::new(&config.upstreams, clock.clone(), &limits, shared, &lookup)?;
    Ok(Parts { store, upstreams: Arc::new(upstreams), clock, limits, metrics })
}

/// Reads an answer, whose lines are handed on.
async fn read<B>(
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
