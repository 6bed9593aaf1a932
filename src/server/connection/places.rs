//! Places of connections on one listener, and who gives way when all are taken.
//!
//! Whoever comes when all places are taken gets that of a connection that does nothing: the longest
//! silent one, and before all others one of an address that holds more than its share. Bytes that
//! are no whole request do not count, so dribbling helps nobody. Where every connection is busy, an
//! address above its share gives way to one below it. A proxy that is trusted has no share: it brings
//! the connections of many, who cannot be told apart here.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// One address holds at most this part of all places while others wait.
const SHARE: usize = 4;

/// How many silent connections are ended at once, so that a flood does not look at all of them for
/// each that comes.
const ENDED_AT_ONCE: usize = 16;

/// How long somebody waits whose address has all places, and needs them: others may come behind.
const LONE_WAIT: Duration = Duration::from_secs(1);

/// Whether a peer brings the connections of others.
type IsProxy = Box<dyn Fn(IpAddr) -> bool + Send + Sync>;

/// The places of one listener.
pub(crate) struct ConnectionPlaces {
    max: usize,
    is_proxy: IsProxy,
    began: Instant,
    open: Mutex<Open>,
    freed: Notify,
}

impl fmt::Debug for ConnectionPlaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionPlaces").field("max", &self.max).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    occupants: HashMap<u64, Occupant>,
    by_address: HashMap<IpAddr, usize>,
}

#[derive(Debug)]
struct Occupant {
    /// Whose share it counts in, if in any.
    address: Option<IpAddr>,
    activity: Arc<Activity>,
    end: CancellationToken,
}

/// A connection's place, free again when this is dropped.
#[derive(Debug)]
pub(crate) struct ConnectionPlace {
    id: u64,
    places: Arc<ConnectionPlaces>,
    activity: Arc<Activity>,
    end: CancellationToken,
}

/// What a connection does.
#[derive(Debug)]
pub(crate) struct Activity {
    began: Instant,
    /// Requests whose answers have not ended.
    busy: AtomicUsize,
    /// Milliseconds from `began` to the end of its last request, or its own beginning.
    silent_since: AtomicU64,
    has_asked: AtomicBool,
}

/// A request that is not answered yet.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Activity>);

impl ConnectionPlaces {
    pub(crate) fn new(
        max: usize,
        is_proxy: impl Fn(IpAddr) -> bool + Send + Sync + 'static,
    ) -> Arc<Self> {
        let (open, freed) = (Mutex::default(), Notify::new());
        Arc::new(Self { max, is_proxy: Box::new(is_proxy), began: Instant::now(), open, freed })
    }

    /// A place for a connection that has been accepted from `peer`. If all are taken, another has to
    /// give way; `None` if it is `peer`'s address that has too many.
    pub(crate) async fn take(self: &Arc<Self>, peer: IpAddr) -> Option<ConnectionPlace> {
        let address = Some(network(peer)).filter(|_| !(self.is_proxy)(peer));
        loop {
            let freed = self.freed.notified();
            let wait_max = {
                let mut open = self.open();
                if open.occupants.len() < self.max {
                    return Some(self.place(&mut open, address));
                }
                let held = open.count(address);
                if self.make_room(&open, address) || held < self.share() {
                    None
                } else if held == open.occupants.len() {
                    Some(LONE_WAIT)
                } else {
                    return None;
                }
            };
            match wait_max {
                // Those who have fallen silent meanwhile are found by looking again.
                None => drop(tokio::time::timeout(LONE_WAIT, freed).await),
                Some(max) => tokio::time::timeout(max, freed).await.ok()?,
            }
        }
    }

    fn place(self: &Arc<Self>, open: &mut Open, address: Option<IpAddr>) -> ConnectionPlace {
        let activity = Arc::new(Activity::new(self.began));
        let (id, end) = (open.next, CancellationToken::new());
        open.next += 1;
        let (shared, ended) = (Arc::clone(&activity), end.clone());
        open.occupants.insert(id, Occupant { address, activity: shared, end: ended });
        if let Some(address) = address {
            *open.by_address.entry(address).or_default() += 1;
        }
        ConnectionPlace { id, places: Arc::clone(self), activity, end }
    }

    /// Ends connections in favour of one from `address`, if any has to give way.
    fn make_room(&self, open: &Open, address: Option<IpAddr>) -> bool {
        let above_share = |one: &&Occupant| open.count(one.address) > self.share();
        let mut silent: Vec<_> = open.occupants.values().filter(|one| one.is_silent()).collect();
        if silent.iter().any(above_share) {
            silent.retain(above_share);
        }
        silent.sort_by_key(|one| one.activity.silent_since());
        // Not more than a few of a short list: those who have just been served come again.
        let count = ENDED_AT_ONCE.min(silent.len().div_ceil(SHARE));
        silent.iter().take(count).for_each(|one| one.end.cancel());
        if count > 0 {
            return true;
        }
        let busy = open.occupants.values().filter(above_share);
        let gives_way = busy
            .filter(|one| open.count(one.address) > open.count(address) + 1)
            .min_by_key(|one| one.activity.silent_since());
        gives_way.inspect(|one| one.end.cancel()).is_some()
    }

    fn share(&self) -> usize {
        self.max.div_ceil(SHARE)
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// How many places an address has; a proxy's are not counted, so that it is below its share
    /// whatever it has.
    fn count(&self, address: Option<IpAddr>) -> usize {
        address.and_then(|address| self.by_address.get(&address)).copied().unwrap_or(0)
    }
}

impl Occupant {
    fn is_silent(&self) -> bool {
        self.activity.busy.load(Ordering::Relaxed) == 0
    }
}

impl ConnectionPlace {
    pub(crate) fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }

    /// Resolves when the connection has to give way.
    pub(crate) fn ended(&self) -> CancellationToken {
        self.end.clone()
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        let mut open = self.places.open();
        if let Some(Occupant { address: Some(address), .. }) = open.occupants.remove(&self.id)
            && let Some(count) = open.by_address.get_mut(&address)
        {
            *count -= 1;
            if *count == 0 {
                open.by_address.remove(&address);
            }
        }
        drop(open);
        self.places.freed.notify_one();
    }
}

impl Activity {
    pub(super) fn new(began: Instant) -> Self {
        let silent_since = AtomicU64::new(millis_since(began));
        Self { began, busy: AtomicUsize::new(0), silent_since, has_asked: false.into() }
    }

    /// A request has come.
    pub(crate) fn begin(self: &Arc<Self>) -> Busy {
        self.has_asked.store(true, Ordering::Relaxed);
        self.busy.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }

    pub(crate) fn has_asked(&self) -> bool {
        self.has_asked.load(Ordering::Relaxed)
    }

    fn silent_since(&self) -> u64 {
        self.silent_since.load(Ordering::Relaxed)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.silent_since.store(millis_since(self.0.began), Ordering::Relaxed);
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

fn millis_since(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// What counts as one address: of IPv6 its /64, since whoever has one address there has all.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    /// Places of eight, all taken, one after the other, by these.
    async fn full(peers: [&str; 8]) -> (Arc<ConnectionPlaces>, Vec<ConnectionPlace>) {
        let places = ConnectionPlaces::new(8, |peer| peer == address("192.0.2.200"));
        let mut taken = Vec::new();
        for peer in peers {
            taken.push(places.take(address(peer)).await.expect("a place"));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        (places, taken)
    }

    fn ended(taken: &[ConnectionPlace]) -> Vec<usize> {
        (0..taken.len()).filter(|index| taken[*index].end.is_cancelled()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_silent_gives_way_and_one_who_dribbles_is_silent() {
        let peers: [String; 8] = std::array::from_fn(|index| format!("192.0.2.{index}"));
        let (places, mut taken) = full(std::array::from_fn(|index| peers[index].as_str())).await;
        // The first is busy, the second was until now.
        let _busy = taken[0].activity.begin();
        drop(taken[1].activity.begin());
        let mut comes = std::pin::pin!(places.take(address("192.0.2.99")));
        assert!(futures_util::poll!(comes.as_mut()).is_pending());
        assert_eq!(ended(&taken), [2, 3]);
        taken.remove(2);
        let _place = comes.await.expect("a place");
        assert_eq!(places.open().occupants.len(), 8);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_above_a_quarter_gives_way_first_busy_or_not() {
        let net = ["2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8::4", "2001:db8::5"];
        let (places, mut taken) =
            full(["192.0.2.1", "192.0.2.2", net[0], net[1], net[2], net[3], net[4], net[0]]).await;
        let mut comes = std::pin::pin!(places.take(address("192.0.2.3")));
        assert!(futures_util::poll!(comes.as_mut()).is_pending());
        assert_eq!(ended(&taken), [2, 3], "not the silent ones of others");
        taken.drain(2..4);
        let third = comes.await.expect("a place");
        taken.push(third);
        taken.push(places.take(address("192.0.2.4")).await.expect("a place"));
        let _busy: Vec<_> = taken.iter().map(|place| place.activity.begin()).collect();
        assert!(places.take(address("2001:db8::9")).await.is_none(), "it has more than its share");
        let mut comes = std::pin::pin!(places.take(address("192.0.2.1")));
        assert!(futures_util::poll!(comes.as_mut()).is_pending());
        assert_eq!(ended(&taken), [2], "the oldest of the address above its share");
    }

    #[tokio::test(start_paused = true)]
    async fn a_proxy_may_have_all_and_takes_from_who_has_more_than_a_quarter() {
        let (proxy, other) = ("192.0.2.200", "192.0.2.1");
        let (places, taken) = full([proxy; 8]).await;
        let _busy: Vec<_> = taken.iter().map(|place| place.activity.begin()).collect();
        for peer in [other, proxy] {
            let mut comes = std::pin::pin!(places.take(address(peer)));
            assert!(futures_util::poll!(comes.as_mut()).is_pending());
            assert_eq!(ended(&taken), Vec::<usize>::new(), "{peer}");
        }
        let (places, taken) = full([proxy, proxy, proxy, proxy, proxy, other, other, other]).await;
        let _busy: Vec<_> = taken.iter().map(|place| place.activity.begin()).collect();
        let mut comes = std::pin::pin!(places.take(address(proxy)));
        assert!(futures_util::poll!(comes.as_mut()).is_pending());
        assert_eq!(ended(&taken), [5]);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_falls_silent_later_gives_way_then() {
        let (places, taken) = full(["192.0.2.200"; 8]).await;
        let busy: Vec<_> = taken.iter().map(|place| place.activity.begin()).collect();
        let mut comes = std::pin::pin!(places.take(address("192.0.2.200")));
        assert!(futures_util::poll!(comes.as_mut()).is_pending());
        drop(busy);
        assert!(tokio::time::timeout(LONE_WAIT * 2, comes.as_mut()).await.is_err());
        assert!(!ended(&taken).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn one_address_alone_may_have_all_and_then_waits() {
        let (places, taken) = full(["192.0.2.1"; 8]).await;
        let _busy: Vec<_> = taken.iter().map(|place| place.activity.begin()).collect();
        assert!(places.take(address("192.0.2.1")).await.is_none());
        assert_eq!(ended(&taken), Vec::<usize>::new());
    }
}
