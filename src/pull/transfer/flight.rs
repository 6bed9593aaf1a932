//! Transfers in progress. Everyone who wants a digest from an upstream joins the one flight that
//! brings it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use crate::oci::{Digest, Repository, UpstreamName};
use crate::pull::Error;
use crate::store::Reader;
use crate::upstream::BlobResponse;

pub(in crate::pull) type Key = (UpstreamName, Digest);

/// The table of flights.
#[derive(Clone, Debug, Default)]
pub(in crate::pull) struct Flights(Arc<Mutex<HashMap<Key, Arc<Flight>>>>);

/// One transfer, as those see it who wait for it.
#[derive(Debug)]
pub(in crate::pull) struct Flight {
    /// The repository it was started for: only there is its success a proof (DESIGN §14.1).
    pub(in crate::pull) starter: Repository,
    state: watch::Sender<State>,
    joined: Notify,
    /// The response of a transfer that found no room, for the first who takes it.
    unstored: Mutex<Option<BlobResponse>>,
}

#[derive(Clone, Debug)]
pub(in crate::pull) struct State {
    pub(in crate::pull) opening: Opening,
    /// The watermark: bytes that readers may find in the file.
    pub(in crate::pull) written: u64,
    pub(in crate::pull) ending: Option<Result<(), Error>>,
}

/// What is known before the first byte.
#[derive(Clone, Debug)]
pub(in crate::pull) enum Opening {
    Pending,
    /// Upstream has answered; the bytes come in here.
    Open(Source),
    /// Upstream has answered, but there is no room to keep the bytes.
    NoRoom,
    Failed(Error),
}

/// Where followers read.
#[derive(Clone, Debug)]
pub(in crate::pull) struct Source {
    pub(in crate::pull) reader: Reader,
    /// `None` if upstream does not say.
    pub(in crate::pull) size: Option<u64>,
}

/// What asking for a flight comes to.
#[derive(Debug)]
pub(in crate::pull) enum Boarding {
    /// There was none; the caller has to run the fill.
    Started(Arc<Flight>, FlightGuard),
    Joined(Arc<Flight>),
    /// There is one, but for a repository that vouches for nobody else; prove the digest first.
    Foreign,
    /// There is none any more: what it brought is in the store.
    Stored,
}

impl Flights {
    /// Joins the flight of `key` or starts one for `repository`, which is `proven` to hold the
    /// digest or not.
    ///
    /// A flight leaves the table only after its content is in the store, so `stored`, asked under
    /// the table's lock, sees what a flight brought that ended since the caller looked.
    pub(in crate::pull) fn board(
        &self,
        key: &Key,
        repository: &Repository,
        proven: bool,
        stored: impl FnOnce() -> bool,
    ) -> Boarding {
        let mut flights = self.lock();
        if let Some(flight) = flights.get(key) {
            if !proven && flight.starter != *repository {
                return Boarding::Foreign;
            }
            flight.joined.notify_one();
            return Boarding::Joined(Arc::clone(flight));
        }
        if stored() {
            return Boarding::Stored;
        }
        let state = State { opening: Opening::Pending, written: 0, ending: None };
        let flight = Arc::new(Flight {
            starter: repository.clone(),
            state: watch::Sender::new(state),
            joined: Notify::new(),
            unstored: Mutex::new(None),
        });
        flights.insert(key.clone(), Arc::clone(&flight));
        let guard =
            FlightGuard { key: key.clone(), flight: Arc::clone(&flight), flights: self.clone() };
        Boarding::Started(flight, guard)
    }

    /// The flight of `key`, if there is one.
    pub(in crate::pull) fn get(&self, key: &Key) -> Option<Arc<Flight>> {
        self.lock().get(key).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Arc<Flight>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flight {
    /// A view of the state; as long as it lives, the flight is wanted.
    pub(in crate::pull) fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// The response of a transfer that could not be stored; only the first caller gets it.
    pub(in crate::pull) fn take_unstored(&self) -> Option<BlobResponse> {
        self.unstored.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Resolves once nobody has wanted the flight for `patience`.
    pub(in crate::pull) async fn unwanted(&self, patience: Duration) {
        loop {
            self.state.closed().await;
            let joined = tokio::time::timeout(patience, self.joined.notified()).await;
            if joined.is_err() && self.state.receiver_count() == 0 {
                return;
            }
        }
    }
}

/// The right and duty to run a flight. Dropped without an ending, it tells everyone that the flight
/// was given up.
#[derive(Debug)]
pub(in crate::pull) struct FlightGuard {
    key: Key,
    flight: Arc<Flight>,
    flights: Flights,
}

impl FlightGuard {
    pub(in crate::pull) fn flight(&self) -> &Arc<Flight> {
        &self.flight
    }

    /// Lets readers in.
    pub(in crate::pull) fn open(&self, source: Source) {
        self.flight.state.send_modify(|state| state.opening = Opening::Open(source));
    }

    /// Hands the response to whoever asks first, because there is no room to keep its bytes.
    pub(in crate::pull) fn give_away(&self, response: BlobResponse) {
        *self.flight.unstored.lock().unwrap_or_else(PoisonError::into_inner) = Some(response);
        self.flight.state.send_modify(|state| state.opening = Opening::NoRoom);
    }

    /// A way to move the watermark from another thread.
    pub(in crate::pull) fn watermark(&self) -> impl FnOnce(u64) + Send + 'static {
        let flight = Arc::clone(&self.flight);
        move |written| flight.state.send_modify(|state| state.written = written)
    }

    fn leave_table(&self) {
        let mut flights = self.flights.lock();
        if flights.get(&self.key).is_some_and(|flight| Arc::ptr_eq(flight, &self.flight)) {
            flights.remove(&self.key);
        }
    }

    /// Releases what was held back, or cuts the readers. A verified flight can be joined until the
    /// guard is dropped: its file is not in the store yet.
    pub(in crate::pull) fn end(&self, ending: Result<(), Error>) {
        if ending.is_err() {
            self.leave_table(); // nobody may join what has failed
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
        self.end(Err(Error::Abandoned));
    }
}
