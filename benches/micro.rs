//! The small parts that every request passes, and the two ways in which bytes leave the store.
//!
//! `cargo bench --bench micro -- [FILTER]`

#[expect(dead_code, reason = "manifests and static files are for the comparison")]
#[path = "support/content.rs"]
mod content;
#[expect(dead_code, reason = "its counters and limits are for the figures")]
#[path = "support/origin.rs"]
mod origin;

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures_util::StreamExt;
use roadstead::clock::Clock;
use roadstead::config;
use roadstead::limits::Limits;
use roadstead::metrics::Metrics;
use roadstead::oci::{CanonicalName, RangeRequest, Repository, Target, UpstreamName};
use roadstead::pull::{Content as Pulled, Parts, PullThrough};
use roadstead::store::{BlobStore, ContentSender, EvictionClass, Reader, RoomOwner};
use roadstead::upstream::{Lookup, Upstreams};
use tokio::runtime::Runtime;

use content::Content;
use origin::{Origin, REPOSITORY};

const MIB: u64 = 1 << 20;

/// As much as a follower reads at once.
const PIECE: usize = 256 << 10;

fn parsing(c: &mut Criterion) {
    let digest = format!("sha256:{}", "5e".repeat(32));
    let mut group = c.benchmark_group("target");
    for (name, path, query) in [
        ("blob", format!("/v2/library/alpine/blobs/{digest}"), Some("ns=docker.io")),
        ("tag", "/v2/docker.io/library/alpine/manifests/3.20".into(), None),
        ("deep", format!("/v2/{}app/manifests/{digest}", "team/".repeat(20)), None),
        ("bad name", "/v2/Library/ALPINE/manifests/3.20".into(), None),
    ] {
        let bench = |b: &mut criterion::Bencher<'_>, path: &String| {
            b.iter(|| Target::parse(black_box(path), query));
        };
        group.bench_with_input(BenchmarkId::from_parameter(name), &path, bench);
    }
    group.finish();
}

fn ranges(c: &mut Criterion) {
    let mut group = c.benchmark_group("range");
    for header in
        ["bytes=0-", "bytes=1048576-2097151", "bytes=-65536", "bytes=0-1,4-5", "lines=1-2"]
    {
        let resolve = |b: &mut criterion::Bencher<'_>, header: &str| {
            b.iter(|| RangeRequest::parse(Some(black_box(header))).resolve(black_box(256 * MIB)));
        };
        group.bench_with_input(BenchmarkId::from_parameter(header), header, resolve);
    }
    group.finish();
}

/// The pieces of a staged file, and a whole cold blob as its first client sees it.
fn follower(c: &mut Criterion) {
    let bed = Bed::new();
    let mut group = c.benchmark_group("follower");
    let staged = Content::blob(0, 16 * MIB);
    group.throughput(Throughput::Bytes(staged.size)).sample_size(20);
    let reader = bed.runtime.block_on(stage(&bed.store, &staged));
    group.bench_function("staged file, 16 MiB", |b| {
        b.iter(|| bed.runtime.block_on(read(reader.clone(), staged.size)));
    });
    let salt = AtomicU64::new(1);
    let unasked = || {
        let blob = Content::blob(salt.fetch_add(1, Ordering::Relaxed), 4 * MIB);
        bed.origin.add_blob(&blob);
        blob
    };
    group.throughput(Throughput::Bytes(4 * MIB));
    group.bench_function("cold blob, 4 MiB", |b| {
        b.iter_batched(
            unasked,
            |blob| bed.runtime.block_on(pull(&bed.pull, &blob)),
            criterion::BatchSize::PerIteration,
        );
    });
    group.finish();
}

/// What a warm body costs before the kernel copies it: the residency check and the frame, for every
/// slice.
fn warm_body(c: &mut Criterion) {
    let bed = Bed::new();
    let content = Content::blob(0, 64 * MIB);
    let blob = bed.runtime.block_on(async {
        let mut staged = bed
            .store
            .stage(&content.digest, Some(content.size), RoomOwner::default())
            .await
            .expect("room");
        staged.append(content.blocks().collect(), |_| ()).await.expect("a disk that works");
        let verified = staged.verify().expect("the right digest");
        let upstream = UpstreamName::parse("acme.test").expect("a name");
        let sender = ContentSender { upstream, is_public: true };
        verified
            .publish(EvictionClass::Blob, Clock::system().now(), sender)
            .await
            .expect("a disk that works")
    });
    let mut group = c.benchmark_group("warm body");
    group.throughput(Throughput::Elements(content.size / MIB));
    group.bench_function("64 slices", |b| {
        b.iter(|| {
            let mut span = 0..blob.size();
            while let Some(slice) = blob.resident(&span) {
                span.start += slice.bytes().len() as u64;
            }
            assert!(span.is_empty(), "the pages of a new file are in memory");
        });
    });
    group.finish();
}

/// A store, an origin, and what pulls from one to the other.
struct Bed {
    store: BlobStore,
    pull: PullThrough,
    origin: Origin,
    runtime: Runtime,
    _folder: tempfile::TempDir,
}

impl Bed {
    fn new() -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        let origin = runtime.block_on(Origin::start()).expect("an origin");
        let text = format!(
            "cache: {{ path: '{}', min_free: 0 }}\nupstreams: {{ origin.test: {{ url: 'http://{}' }} }}\n",
            folder.path().display(),
            origin.address
        );
        let config =
            config::parse(&text, Path::new("bench"), &|_| None).expect("a valid configuration");
        let (limits, clock, metrics) =
            (Limits::default(), Clock::system(), Arc::new(Metrics::new()));
        let within = runtime.enter();
        let store = BlobStore::new(&config.cache, &limits, clock.clone(), Arc::clone(&metrics))
            .expect("a store");
        let upstreams = Upstreams::new(
            &config.upstreams,
            clock.clone(),
            &limits,
            Arc::clone(&metrics),
            &Lookup::system(),
        );
        let upstreams = Arc::new(upstreams.expect("an upstream"));
        let parts = Parts { store: store.clone(), upstreams, clock, limits, metrics };
        let pull = PullThrough::new(parts, &config.cache);
        drop(within);
        Self { store, pull, origin, runtime, _folder: folder }
    }
}

async fn stage(store: &BlobStore, content: &Content) -> Reader {
    let mut staged =
        store.stage(&content.digest, Some(content.size), RoomOwner::default()).await.expect("room");
    staged.append(content.blocks().collect(), |_| ()).await.expect("a disk that works");
    staged.reader()
}

async fn read(reader: Reader, size: u64) {
    for offset in (0..size).step_by(PIECE) {
        black_box(reader.read_at(offset, PIECE).await.expect("a disk that works"));
    }
}

async fn pull(pull: &PullThrough, blob: &Content) {
    let name = CanonicalName {
        upstream: UpstreamName::parse("origin.test").expect("a name"),
        repository: Repository::parse(REPOSITORY).expect("a name"),
    };
    let answer = pull
        .blob(
            &name,
            &blob.digest,
            RangeRequest::None,
            tokio::time::Instant::now() + Duration::from_secs(25),
        )
        .await
        .expect("an origin that has it");
    let Pulled::Stream { stream: mut bytes, .. } = answer.content else {
        panic!("a cold blob comes as a stream")
    };
    let mut length = 0;
    while let Some(piece) = bytes.next().await {
        length += piece.expect("a whole blob").len() as u64;
    }
    assert_eq!(length, blob.size);
}

fn short() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
}

criterion_group! { name = micro; config = short(); targets = parsing, ranges, follower, warm_body }
criterion_main!(micro);
