//! What an origin does wrong, and to which requests.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::watch;

use super::request::{Kind, Request};

/// Which requests a fault is for, and how many of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct On {
    kind: Option<Kind>,
    method: Option<&'static str>,
    part: Option<String>,
    ranged: Option<bool>,
    times: Option<usize>,
}

impl On {
    pub(crate) fn any() -> Self {
        Self::default()
    }

    pub(crate) fn kind(kind: Kind) -> Self {
        Self { kind: Some(kind), ..Self::default() }
    }

    /// Requests whose path contains `part`: a repository, a tag, a digest.
    pub(crate) fn path(part: impl Display) -> Self {
        Self { part: Some(part.to_string()), ..Self::default() }
    }

    pub(crate) fn of(self, kind: Kind) -> Self {
        Self { kind: Some(kind), ..self }
    }

    pub(crate) fn gets(self) -> Self {
        Self { method: Some("GET"), ..self }
    }

    pub(crate) fn heads(self) -> Self {
        Self { method: Some("HEAD"), ..self }
    }

    pub(crate) fn method(self, method: &'static str) -> Self {
        Self { method: Some(method), ..self }
    }

    /// Only requests with a `Range`.
    pub(crate) fn ranged(self) -> Self {
        Self { ranged: Some(true), ..self }
    }

    pub(crate) fn times(self, times: usize) -> Self {
        Self { times: Some(times), ..self }
    }

    pub(crate) fn once(self) -> Self {
        self.times(1)
    }

    /// Whether the fault is for `request`; counts it if so.
    fn takes(&mut self, request: &Request) -> bool {
        let fits = self.kind.is_none_or(|kind| kind == request.kind)
            && self.method.is_none_or(|method| method == request.method)
            && self.part.as_ref().is_none_or(|part| request.path.contains(part.as_str()))
            && self.ranged.is_none_or(|ranged| ranged == request.header("range").is_some())
            && self.times != Some(0);
        if fits {
            self.times = self.times.map(|left| left - 1);
        }
        fits
    }
}

/// One thing that goes wrong. Faults that fit one request add up.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// This status and distribution's error document instead of the answer.
    Status(u16),
    /// This status, type and body instead of the answer.
    Instead(u16, &'static str, Bytes),
    /// Sets a header, or removes it if there is no value.
    Header(&'static str, Option<String>),
    /// Closes the connection after so many bytes of this answer's body.
    CutAfter(u64),
    /// Stops before this offset of the content until the gate is opened.
    HoldAt(u64, Gate),
    /// Sends nothing until the gate is opened.
    HoldHead(Gate),
    /// Inverts the byte at this offset of the content.
    Flip(u64),
    /// Says that the body is so much longer (or shorter) than it is.
    LengthOff(i64),
    /// Appends bytes, and counts them in the length.
    Extra(u64),
    /// Chunked, so that the length is unknown.
    Chunked,
    /// No length and no chunks: the body ends with the connection.
    UntilClose,
    /// Answers ranges with 200 and the whole.
    IgnoreRange,
    /// Answers a plain GET with 206.
    Partial,
    /// Moves a 206's `Content-Range` by so many bytes, with the bytes of the new place.
    ShiftRange(u64),
    /// 307 to this location, in which `{digest}`, `{repository}` and `{nth}` (such request) are
    /// filled in.
    Redirect(String),
    /// At most so many bytes a second.
    Rate(u64),
    /// Closes the connection without a word.
    Hangup,
    /// Answers before it reads the body, which it then has no use for.
    Unread,
    /// Takes no more than so many bytes of the body until the gate is opened.
    TakeUpTo(u64, Gate),
    /// Takes at most so many bytes of the body a second.
    TakeRate(u64),
    /// Closes the connection before it has more than so many bytes of the body.
    DieAt(u64),
}

/// A point at which an origin waits until the test opens it.
#[derive(Clone, Debug)]
pub(crate) struct Gate(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    open: watch::Sender<bool>,
    waiting: AtomicUsize,
}

impl Gate {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Inner { open: watch::Sender::new(false), waiting: AtomicUsize::new(0) }))
    }

    pub(crate) fn open(&self) {
        self.0.open.send_replace(true);
    }

    /// How many answers have come to the gate so far.
    pub(crate) fn reached(&self) -> usize {
        self.0.waiting.load(Ordering::SeqCst)
    }

    pub(super) async fn pass(&self) {
        self.0.waiting.fetch_add(1, Ordering::SeqCst);
        let opened = self.0.open.subscribe().wait_for(|open| *open).await.map(|_| ());
        opened.expect("the gate holds its own sender");
    }
}

/// The faults that are switched on.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<(On, Fault)>);

impl Faults {
    pub(super) fn add(&mut self, on: On, fault: Fault) {
        self.0.push((on, fault));
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn taken_by(&mut self, request: &Request) -> Vec<Fault> {
        self.0
            .iter_mut()
            .filter_map(|(on, fault)| on.takes(request).then(|| fault.clone()))
            .collect()
    }
}
