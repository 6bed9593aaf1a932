//! One download and its readers under shuttle, which tries thousands of orders in which their steps
//! may happen, at random but repeatable, and notices if nobody can go on any more.
//!
//! Everything but the order is real: the table of flights, the staged file, the readers. A step may
//! come in between wherever the disk is used, the watermark moves, or somebody waits.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, Runner, future, thread};

use super::flight::{FlightGuard, FlightKey, Flights, Follower, GrowingFile, JoinedOrStarted};
use super::tail::Tail;
use crate::clock::Timestamp;
use crate::oci::{Algorithm, CanonicalName, Digest, Repository, UpstreamName};
use crate::pull::answers::PieceMax;
use crate::pull::asker::Asker;
use crate::pull::error::Error;
use crate::store::{BlobStore, ContentSender, EvictionClass, RoomOwner, Staged, Use};

/// Bytes of a chunk, and of a piece that is read: a reader needs several for a blob.
const CHUNK: usize = 5;
const CHUNKS: usize = 4;
const SIZE: u64 = (CHUNK * CHUNKS) as u64;
const HOLD_BACK: u64 = 7;
const PIECE: usize = 3;

/// One run: a blob of its own, of which a store has nothing.
#[derive(Clone)]
struct Download {
    store: BlobStore,
    flights: Flights,
    name: CanonicalName,
    content: Arc<[u8]>,
    digest: Digest,
    size_is_told: bool,
}

/// What a download comes to.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Published,
    /// What came is not what the digest names.
    Wrong,
    /// The task that ran it is gone, after so many chunks.
    Dropped(usize),
}

/// What a reader has got in the end.
struct Got {
    bytes: Vec<u8>,
    end: Result<(), Error>,
}

impl Download {
    fn new(store: &BlobStore, serial: u64) -> Self {
        let mut content = vec![0; CHUNK * CHUNKS];
        content[..8].copy_from_slice(&serial.to_be_bytes());
        Self {
            store: store.clone(),
            flights: Flights::default(),
            name: CanonicalName {
                upstream: UpstreamName::parse("docker.io").expect("a name"),
                repository: Repository::parse("library/nginx").expect("a name"),
            },
            digest: Digest::of(Algorithm::Sha256, &content),
            content: content.into(),
            size_is_told: serial.is_multiple_of(2),
        }
    }

    fn join_or_start(&self) -> JoinedOrStarted {
        let key = FlightKey::of(&self.name, &self.digest);
        let asker = (&self.name.repository, Asker::default());
        self.flights.join_or_start(&key, asker, false, || self.store.holds(&self.digest))
    }

    /// What `Fill` does with a source that sends all of it.
    async fn fill(self, guard: FlightGuard, end: End) {
        let size = self.size_is_told.then_some(SIZE);
        let staged = self.store.stage(&self.digest, size, RoomOwner::default()).await;
        let mut staged = staged.expect("there is room");
        guard.open(GrowingFile { reader: staged.reader(), size });
        for (number, chunk) in self.content.chunks(CHUNK).enumerate() {
            if end == End::Dropped(number) {
                return;
            }
            let chunk = match end {
                End::Wrong => vec![b'x'; CHUNK],
                End::Published | End::Dropped(_) => chunk.to_vec(),
            };
            append(&mut staged, &guard, chunk).await;
        }
        match staged.verify() {
            Err(_) => guard.end(Err(Error::untrue(&self.name.upstream, "wrong content"))),
            Ok(verified) => {
                guard.end(Ok(()));
                let sender =
                    ContentSender { upstream: self.name.upstream.clone(), is_public: true };
                let now = Timestamp::from_unix(Duration::ZERO);
                verified.publish(EvictionClass::Blob, now, sender).await.expect("published");
            }
        }
    }

    /// Reads all of it as one who comes while it is being downloaded, or later.
    async fn come_and_read(self, end: End) -> Option<Got> {
        match self.join_or_start() {
            JoinedOrStarted::Joined(follower) => Some(read(follower, 0..u64::MAX).await),
            JoinedOrStarted::Stored => {
                let opened = self.store.open(&self.digest, Use::Whole).await;
                assert!(opened.expect("the disk works").is_some(), "what is stored can be opened");
                None
            }
            JoinedOrStarted::Started(..) => {
                assert!(end != End::Published, "nobody fetches again what is being published");
                None
            }
            JoinedOrStarted::NotProven => panic!("it was started for this repository"),
        }
    }
}

async fn append(staged: &mut Staged, guard: &FlightGuard, chunk: Vec<u8>) {
    let watermark = guard.watermark();
    let moved = move |written| {
        thread::yield_now();
        watermark(written);
        thread::yield_now();
    };
    staged.append(vec![Bytes::from(chunk)], moved).await.expect("there is room");
}

async fn read(mut follower: Follower, span: Range<u64>) -> Got {
    let mut bytes = Vec::new();
    let file = match follower.opened().await {
        Ok(file) => file.expect("there was room"),
        Err(error) => return Got { bytes, end: Err(error) },
    };
    let piece_max = PieceMax::default();
    piece_max.set(PIECE);
    let mut tail = Tail { follower, file, span, hold_back: HOLD_BACK, piece_max };
    loop {
        match tail.next().await {
            Ok(Some(piece)) => bytes.extend_from_slice(&piece),
            Ok(None) => return Got { bytes, end: Ok(()) },
            Err(error) => return Got { bytes, end: Err(error) },
        }
    }
}

/// What holds for a reader of `span`, whatever happens in which order.
fn check(got: &Got, download: &Download, span: &Range<u64>, end: End) {
    let whole = span.end >= SIZE;
    let asked = &download.content[usize::try_from(span.start).expect("small")..];
    let asked = &asked[..usize::try_from(span.end.min(SIZE) - span.start).expect("small")];
    match end {
        End::Published => {
            assert_eq!(got.bytes, asked, "{:?}", got.end);
            got.end.clone().expect("it was right");
        }
        End::Wrong | End::Dropped(_) if whole => {
            got.end.clone().expect_err("nobody has the end of what was never verified");
            assert!(span.start + got.bytes.len() as u64 <= SIZE - HOLD_BACK);
        }
        // A part that lies before what is held back may be all there.
        End::Wrong | End::Dropped(_) => assert!(got.bytes.len() <= asked.len()),
    }
    if end != End::Wrong {
        assert!(asked.starts_with(&got.bytes), "no byte that was not written");
    }
}

/// One download with four readers: of all, of a part, one that comes when it likes, and one that comes at
/// its end.
fn run(store: &BlobStore, serial: u64, end: End) {
    let download = Download::new(store, serial);
    let JoinedOrStarted::Started(follower, guard) = download.join_or_start() else {
        panic!("nobody has asked for it before");
    };
    let part = 4..11;
    let JoinedOrStarted::Joined(second) = download.join_or_start() else {
        panic!("it is under way");
    };
    let fill = future::spawn(download.clone().fill(guard, end));
    let late = future::spawn(download.clone().come_and_read(end));
    let second = {
        let part = part.clone();
        future::spawn(async move { read(second, part).await })
    };
    let first = future::block_on(read(follower, 0..u64::MAX));
    check(&first, &download, &(0..u64::MAX), end);
    // It is being published now.
    let next = future::block_on(download.clone().come_and_read(end));
    let second = future::block_on(second).expect("it has not panicked");
    check(&second, &download, &part, end);
    let late = future::block_on(late).expect("it has not panicked");
    for got in [late, next].into_iter().flatten() {
        check(&got, &download, &(0..u64::MAX), end);
    }
    future::block_on(fill).expect("it has not panicked");
    let after = download.join_or_start();
    assert_eq!(matches!(after, JoinedOrStarted::Stored), end == End::Published);
    assert_eq!(matches!(after, JoinedOrStarted::Started(..)), end != End::Published);
}

/// Tries `runs` orders of each scheduler. `SCHEDULES` sets another number.
fn in_every_order(ends: &'static [End]) {
    let runs = std::env::var("SCHEDULES").ok().and_then(|runs| runs.parse().ok()).unwrap_or(300);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = BlobStore::in_steps(directory.path(), thread::yield_now);
    let serial = Arc::new(AtomicU64::new(0));
    let schedulers: [Box<dyn Scheduler + Send>; 2] =
        [Box::new(RandomScheduler::new(runs)), Box::new(PctScheduler::new(3, runs))];
    for scheduler in schedulers {
        let (store, serial) = (store.clone(), Arc::clone(&serial));
        let mut config = Config::new();
        config.stack_size = 1 << 20;
        Runner::new(scheduler, config).run(move || {
            let serial = serial.fetch_add(1, Ordering::Relaxed);
            let end = ends[usize::try_from(serial / 2).expect("small") % ends.len()];
            run(&store, serial, end);
        });
    }
}

#[test]
fn readers_get_all_of_what_is_right_in_whatever_order_things_happen() {
    in_every_order(&[End::Published]);
}

#[test]
fn nobody_gets_the_end_of_what_is_wrong_in_whatever_order_things_happen() {
    in_every_order(&[End::Wrong]);
}

#[test]
fn nobody_waits_for_a_download_that_is_gone_in_whatever_order_things_happen() {
    in_every_order(&[End::Dropped(0), End::Dropped(1), End::Dropped(2), End::Dropped(3)]);
}
