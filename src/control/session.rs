//! A command that may ask several times: the server that has the cache directory, or this process
//! where none has it.

use std::cell::RefCell;
use std::io::{self, ErrorKind, Read};
use std::sync::Arc;

use anyhow::Context;
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http::Request;
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio_util::task::AbortOnDropHandle;

use super::answers::Answers;
use super::exchange::{ControlError, OnLine, SentBody, connected, over, read, unless_interrupted};
use super::parts::ControlParts;
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::pull::{Parts, PullThrough};
use crate::store::{self, BlobStore};
use crate::upstream::{Lookup, Upstreams};

/// Bytes that are sent at once, and pieces that wait.
const PIECE: usize = 256 << 10;
const PIECES_AHEAD: usize = 4;

/// What becomes of a command without a server if there is no cache yet.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Absent {
    /// It is made.
    Made,
    Told,
}

/// Whoever begins one ends it, too.
#[derive(Debug)]
pub(crate) struct Session<'a> {
    config: &'a Config,
    runtime: Runtime,
    /// Without a server: the directory, as a server opens it.
    alone: Option<Alone>,
    /// The connection that was made to find out, for the first question.
    stream: RefCell<Option<UnixStream>>,
}

#[derive(Debug)]
struct Alone {
    answers: Answers,
    pull: PullThrough,
    store: BlobStore,
    /// Pins are kept up to date meanwhile.
    _pins: (AbortOnDropHandle<()>, watch::Sender<config::Cache>),
}

impl<'a> Session<'a> {
    /// # Errors
    /// [`ControlError`], in words for people.
    pub(crate) fn begin(config: &'a Config, absent: Absent) -> anyhow::Result<Self> {
        let runtime = Runtime::new().context("cannot start the runtime")?;
        let path = config.control_socket();
        let (stream, alone) = match runtime.block_on(UnixStream::connect(&path)) {
            Ok(stream) => (Some(stream), None),
            Err(error) if is_nobody(&error) => {
                (None, Some(runtime.block_on(Alone::open(config, absent))?))
            }
            Err(source) => {
                let path = path.display().to_string();
                return Err(ControlError::Socket { path, source }.into());
            }
        };
        Ok(Self { config, runtime, alone, stream: RefCell::new(stream) })
    }

    /// Posts `order` to `path`, and waits for the answer.
    ///
    /// # Errors
    /// [`ControlError`], in words for people.
    pub(crate) fn post(&self, path: &str, order: &Value) -> anyhow::Result<Value> {
        let posted = Request::post(path).body(sent(Full::from(order.to_string())));
        Ok(self.ask(posted.context("this cannot be asked for")?, &mut |_| Ok(()))?)
    }

    /// Sends all of `content` to `path`, a piece at a time.
    ///
    /// # Errors
    /// [`ControlError`], in words for people.
    pub(crate) fn put(
        &self,
        path: &str,
        content: impl Read + Send + 'static,
    ) -> anyhow::Result<Value> {
        let body = self.runtime.block_on(async { content_body(content) });
        let put = Request::put(path).body(body).context("this cannot be asked for")?;
        Ok(self.ask(put, &mut |_| Ok(()))?)
    }

    pub(super) fn ask(
        &self,
        request: Request<SentBody>,
        on_line: OnLine<'_>,
    ) -> Result<Value, ControlError> {
        self.runtime.block_on(async {
            if let Some(alone) = &self.alone {
                let path = self.config.cache.path.display().to_string();
                let answered =
                    async { read(alone.answers.answer(request).await, &path, on_line).await };
                return unless_interrupted(answered).await;
            }
            let (first, socket) = (self.stream.take(), self.config.control_socket());
            let answered = async {
                let stream = connected(first, &socket).await?;
                over(stream, &socket, request, on_line).await
            };
            unless_interrupted(answered).await
        })
    }

    /// Gives the directory back, if it was opened: as when a server stops, first what uses the disk.
    pub(crate) fn end(self) {
        let Some(Alone { pull, store, .. }) = self.alone else { return };
        self.runtime.block_on(async {
            pull.stop().await;
            store.close().await;
        });
    }
}

impl Alone {
    async fn open(config: &Config, absent: Absent) -> Result<Self, ControlError> {
        let parts = open(config, absent)?;
        let (store, parts) = (parts.store.clone(), ControlParts::alone(config, parts));
        let (pull, pins) = (parts.pull.clone(), parts.pins.clone());
        let cache = watch::Sender::new(config.cache.clone());
        // Before the index is loaded, and so before anything can be evicted.
        let looked = pins.clone();
        drop(spawn_blocking(move || looked.load()).await);
        store.load().await?;
        let pins = AbortOnDropHandle::new(tokio::spawn(pins.follow(cache.subscribe())));
        Ok(Self { answers: Answers::new(parts), pull, store, _pins: (pins, cache) })
    }
}

pub(super) fn sent(body: Full<Bytes>) -> SentBody {
    UnsyncBoxBody::new(body.map_err(|never| match never {}))
}

/// Read by a thread of its own, a few pieces ahead of whoever takes them.
fn content_body(mut content: impl Read + Send + 'static) -> SentBody {
    let (send, pieces) = mpsc::channel(PIECES_AHEAD);
    tokio::task::spawn_blocking(move || {
        loop {
            let mut piece = BytesMut::zeroed(PIECE);
            let read = match content.read(&mut piece) {
                Ok(0) => return,
                Ok(read) => {
                    piece.truncate(read);
                    Ok(Frame::data(piece.freeze()))
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let is_last = read.is_err();
            // Whoever has hung up takes no more.
            if send.blocking_send(read).is_err() || is_last {
                return;
            }
        }
    });
    let pieces = stream::unfold(pieces, |mut pieces| async move {
        pieces.recv().await.map(|piece| (piece, pieces))
    });
    UnsyncBoxBody::new(StreamBody::new(pieces))
}

/// Whether there is no socket, or nobody listens to it.
fn is_nobody(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused)
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
