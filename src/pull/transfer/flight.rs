//! Transfers in progress. Everybody who wants a digest from an upstream joins the one flight that
//! brings it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tokio::time::Instant;

use super::pace::Pace;
use crate::oci::{CanonicalName, Digest, Hasher, Repository, UpstreamName};
use crate::pull::asker::Asker;
use crate::pull::error::Error;
use crate::pull::interest::{Interest, WaitingAsker};
use crate::pull::source::Arrived;
use crate::store::Reader;

/// What a flight brings. The bytes are the same for every repository of an upstream, so one flight
/// serves them all (DESIGN §14.3).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FlightKey {
    upstream: UpstreamName,
    digest: Digest,
}

impl FlightKey {
    /// The flight that brings `digest` for `name`.
    pub(crate) fn of(name: &CanonicalName, digest: &Digest) -> Self {
        Self { upstream: name.upstream.clone(), digest: digest.clone() }
    }
}

/// The table of flights.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flights(Arc<Mutex<HashMap<FlightKey, Arc<Flight>>>>);

/// One transfer, as its readers see it.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) upstream: UpstreamName,
    /// The repository that it was started for. Only for this one is its success a proof (DESIGN
    /// §14.1).
    pub(crate) starter: Repository,
    /// Upstream has refused the digest to that repository since, or says that it is gone.
    disowned: AtomicBool,
    state: watch::Sender<FlightState>,
    /// Those who follow it.
    pub(in crate::pull) interest: Interest,
    /// The source's answer, if there is no room for its bytes: the first reader to take it relays
    /// it, which saves one request.
    unstored: Mutex<Option<Arrived>>,
}

/// One who follows a flight, which counts as wanted while this lives.
#[derive(Debug)]
pub(crate) struct Follower {
    pub(crate) flight: Arc<Flight>,
    pub(crate) state: watch::Receiver<FlightState>,
    _waiter: WaitingAsker,
}

/// What readers watch.
#[derive(Clone, Debug)]
pub(crate) struct FlightState {
    pub(crate) opening: Opening,
    /// The watermark: bytes that readers may find in the file.
    pub(crate) written: u64,
    pub(crate) pace: Pace,
    /// `Ok` once the digest is known to be right.
    pub(crate) ending: Option<Result<(), Error>>,
    /// What was to be stored is, or will not be.
    pub(crate) is_over: bool,
    /// The hash of the bytes up to the watermark, if it was our own disk that took no more: readers
    /// go on without the file.
    pub(crate) left_off: Option<Hasher>,
}

/// What is known before the first byte arrives.
#[derive(Clone, Debug)]
pub(crate) enum Opening {
    Pending,
    /// The source has answered; the bytes come in here.
    Open(GrowingFile),
    /// The source has answered, but there is no room to keep the bytes.
    NoRoom,
    Failed(Error),
}

/// The file that readers follow: a staged one, or a suspect that is being hashed.
#[derive(Clone, Debug)]
pub(crate) struct GrowingFile {
    pub(crate) reader: Reader,
    /// Bytes of the whole blob; `None` if the source does not say.
    pub(crate) size: Option<u64>,
}

/// What [`Flights::join_or_start`] came to.
#[derive(Debug)]
pub(crate) enum JoinedOrStarted {
    /// There was none; the caller has to run the fill.
    Started(Follower, FlightGuard),
    Joined(Follower),
    /// There is one, but another repository started it, or its own has lost the right since. The
    /// caller proves the digest for its own repository first.
    NotProven,
    /// There is none, and the store has the blob.
    Stored,
}

impl Flights {
    /// Joins the flight of `key` for `asker` or starts one for its `repository`, which is `proven` to
    /// hold the digest or not.
    ///
    /// `stored` looks at the store while the table is locked. A flight leaves the table only after
    /// its content is in the store, so one of the two is seen. Without the lock a caller could look
    /// at the store before the publish and at the table after it, and fetch the blob again.
    pub(crate) fn join_or_start(
        &self,
        key: &FlightKey,
        (repository, asker): (&Repository, Asker),
        proven: bool,
        stored: impl FnOnce() -> bool,
    ) -> JoinedOrStarted {
        let mut flights = self.lock();
        if let Some(flight) = flights.get(key) {
            // The repository that started the flight needs no other proof: the flight's own request
            // gives it, and nobody is let in before that is answered.
            if !proven && !flight.is_owned_by(repository) {
                return JoinedOrStarted::NotProven;
            }
            return JoinedOrStarted::Joined(flight.follow(flight.interest.join(asker)));
        }
        if stored() {
            return JoinedOrStarted::Stored;
        }
        let (opening, pace) = (Opening::Pending, Pace::new(Instant::now()));
        let state =
            FlightState { opening, written: 0, pace, ending: None, is_over: false, left_off: None };
        let (interest, waiter) = Interest::begin(asker);
        let flight = Arc::new(Flight {
            upstream: key.upstream.clone(),
            starter: repository.clone(),
            disowned: AtomicBool::new(false),
            state: watch::Sender::new(state),
            interest,
            unstored: Mutex::new(None),
        });
        flights.insert(key.clone(), Arc::clone(&flight));
        let guard =
            FlightGuard { key: key.clone(), flight: Arc::clone(&flight), flights: self.clone() };
        JoinedOrStarted::Started(flight.follow(waiter), guard)
    }

    /// The flight of `key` proves nothing for `repository` any more, even if it was started for it
    /// (DESIGN §14.1).
    pub(crate) fn disown(&self, key: &FlightKey, repository: &Repository) {
        if let Some(flight) = self.get(key).filter(|flight| flight.starter == *repository) {
            flight.disowned.store(true, Ordering::SeqCst);
        }
    }

    /// The flight of `key`, if there is one.
    pub(crate) fn get(&self, key: &FlightKey) -> Option<Arc<Flight>> {
        self.lock().get(key).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<FlightKey, Arc<Flight>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flight {
    fn is_owned_by(&self, repository: &Repository) -> bool {
        self.starter == *repository && !self.disowned.load(Ordering::SeqCst)
    }

    fn follow(self: &Arc<Self>, waiter: WaitingAsker) -> Follower {
        Follower { flight: Arc::clone(self), state: self.watch(), _waiter: waiter }
    }

    /// A view of the state, of somebody who does not count.
    pub(crate) fn watch(&self) -> watch::Receiver<FlightState> {
        self.state.subscribe()
    }

    /// The answer whose bytes could not be stored; only the first caller gets it.
    pub(crate) fn take_unstored(&self) -> Option<Arrived> {
        self.unstored.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Follower {
    /// The file, once the source has answered; `None` if there is no room to keep the bytes.
    ///
    /// # Errors
    /// What has kept the source from answering.
    pub(crate) async fn opened(&mut self) -> Result<Option<GrowingFile>, Error> {
        let opened = self.state.wait_for(|state| !matches!(state.opening, Opening::Pending)).await;
        match opened.map_err(|_| Error::Abandoned)?.opening.clone() {
            Opening::Open(file) => Ok(Some(file)),
            Opening::NoRoom => Ok(None),
            Opening::Failed(error) => Err(error),
            Opening::Pending => Err(Error::Abandoned),
        }
    }
}

/// The right and duty to run a flight. If it is dropped without an ending, because the fill
/// panicked or was cancelled, the readers learn that the flight was given up.
#[derive(Debug)]
pub(crate) struct FlightGuard {
    key: FlightKey,
    flight: Arc<Flight>,
    flights: Flights,
}

impl FlightGuard {
    pub(crate) fn flight(&self) -> &Arc<Flight> {
        &self.flight
    }

    /// Lets readers in.
    pub(crate) fn open(&self, file: GrowingFile) {
        self.flight.state.send_modify(|state| {
            state.opening = Opening::Open(file);
            state.pace = Pace::new(Instant::now());
        });
    }

    /// Hands the source's answer, if it is there still, to the first reader who takes it, because
    /// there is no room for its bytes.
    pub(crate) fn give_away(&self, arrived: Option<Arrived>) {
        *self.flight.unstored.lock().unwrap_or_else(PoisonError::into_inner) = arrived;
        self.flight.state.send_modify(|state| state.opening = Opening::NoRoom);
    }

    /// A function that moves the watermark; the disk's thread calls it when bytes are written.
    pub(crate) fn watermark(&self) -> impl FnOnce(u64) + Send + 'static {
        let flight = Arc::clone(&self.flight);
        move |written| {
            flight.state.send_modify(|state| {
                state.written = written;
                state.pace.note(Instant::now(), written);
            });
        }
    }

    /// The disk takes no more; what it has can be read still, and hashes to `known`.
    pub(crate) fn leave_off(&self, known: Hasher) {
        self.flight.state.send_modify(|state| state.left_off = Some(known));
    }

    fn leave_table(&self) {
        let mut flights = self.flights.lock();
        // A failed flight leaves before its guard is dropped, and another may have taken its place.
        if flights.get(&self.key).is_some_and(|flight| Arc::ptr_eq(flight, &self.flight)) {
            flights.remove(&self.key);
        }
    }

    /// Releases what was held back, or cuts the readers. The first ending counts.
    ///
    /// A verified flight can be joined until the guard is dropped, because its file gets into the
    /// store only after this. Nobody may join one that has failed.
    pub(crate) fn end(&self, ending: Result<(), Error>) {
        if ending.is_err() {
            self.leave_table();
        }
        self.flight.state.send_modify(|state| {
            if let (Opening::Pending, Err(error)) = (&state.opening, &ending) {
                state.opening = Opening::Failed(error.clone());
            }
            if state.ending.is_none() {
                state.ending = Some(ending);
            }
        });
    }
}

impl Drop for FlightGuard {
    fn drop(&mut self) {
        // After another ending this only takes the flight off the table.
        self.end(Err(Error::Abandoned));
        self.flight.state.send_modify(|state| state.is_over = true);
    }
}
