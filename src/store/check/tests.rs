use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;
use rustix::fs::{Advice, fadvise};

use super::*;
use crate::oci::{Algorithm, UpstreamName};
use crate::store::index::Use;
use crate::store::{ContentSender, EvictionClass, Found, RoomOwner};

const REPAIR: CheckOptions = CheckOptions { repair: true, rate: None };
/// Of several pieces.
const SIZE: usize = 3 * PIECE + 17;

fn content(seed: u8) -> (Digest, Bytes) {
    let bytes: Vec<u8> =
        (0..SIZE).map(|at| seed.wrapping_add(at.to_le_bytes()[1]).wrapping_mul(31)).collect();
    (Digest::of(Algorithm::Sha256, &bytes), bytes.into())
}

async fn publish(store: &BlobStore, seed: u8) -> Digest {
    let (digest, bytes) = content(seed);
    let size = Some(bytes.len() as u64);
    let staged = store.stage(&digest, size, RoomOwner::default()).await;
    let mut staged = staged.expect("there is room");
    staged.append(vec![bytes], |_| {}).await.expect("it is written");
    let verified = staged.verify().expect("the digest is right");
    let upstream = UpstreamName::parse("acme.test").expect("a name");
    let sender = ContentSender { upstream, is_public: true };
    let now = store.0.clock.now();
    verified.publish(EvictionClass::Blob, now, sender).await.expect("it is published");
    digest
}

/// Changes one byte, and neither size nor time.
fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).expect("it is there");
    let time = file.metadata().and_then(|found| found.modified()).expect("a time");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("it is long enough");
    file.write_all_at(&[!byte[0]], at).expect("writable");
    file.set_modified(time).expect("ours");
}

/// Everything that is found, while `meanwhile` happens once the first piece of a file is read.
async fn check(
    store: &BlobStore,
    options: CheckOptions,
    meanwhile: impl FnOnce(),
) -> (Vec<Defect>, CheckTotals) {
    let (mut defects, mut meanwhile) = (Vec::new(), Some(meanwhile));
    let mut checker = store.checker(options);
    let tell = |event: CheckEvent<'_>| match event {
        CheckEvent::Found(finding) => defects.push(finding.defect.clone()),
        CheckEvent::Progress(totals) if totals.hashed > 0 => {
            meanwhile.take().into_iter().for_each(|happens| happens());
        }
        CheckEvent::Progress(_) => {}
    };
    checker.check_all(tell).await.expect("the store is open");
    let totals = checker.totals();
    (defects, totals)
}

#[tokio::test]
async fn rot_in_a_running_store_is_removed_counted_and_not_served_again() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let store = BlobStore::in_test(folder.path());
    let (rotten, sound) = (publish(&store, 1).await, publish(&store, 2).await);
    let path = store.0.layout.blob(&rotten);
    flip(&path, PIECE as u64 + 5);
    let served = store.open(&rotten, Use::Whole).await.expect("it can be opened");
    assert!(matches!(served, Some(Found::File(_))), "nobody notices by size and time: {served:?}");
    let (defects, totals) = check(&store, CheckOptions::default(), || ()).await;
    assert!(matches!(defects[..], [Defect::WrongContent { .. }]), "{defects:?}");
    assert!(path.exists() && store.0.metrics.store.corrupt.get() == 0, "only told");
    assert_eq!((totals.files, totals.bytes, totals.left()), (2, 2 * SIZE as u64, 1));
    let (_, totals) = check(&store, REPAIR, || ()).await;
    assert_eq!((totals.wrong, totals.left()), (1, 0));
    assert!(!path.exists() && !store.holds(&rotten) && store.holds(&sound));
    assert_eq!((store.0.index().used(), store.0.metrics.store.corrupt.get()), (SIZE as u64, 1));
    assert!(store.open(&rotten, Use::Whole).await.expect("no failure").is_none());
    let (defects, _) = check(&store, REPAIR, || ()).await;
    assert_eq!(defects, []);
}

#[tokio::test]
async fn what_changes_or_goes_or_is_published_anew_meanwhile_is_no_finding() {
    for nth in 0..4 {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let store = BlobStore::in_test(folder.path());
        let digest = publish(&store, 1).await;
        let path = store.0.layout.blob(&digest);
        // Wrong content, so that there would be something to find.
        flip(&path, 3);
        let meanwhile = || match nth {
            0 => File::options().write(true).open(&path).expect("ours").set_len(9).expect("cut"),
            1 => {
                store.0.index().remove(&digest);
                store.0.unlink(&digest);
            }
            // Taken out of the index by an eviction, and not unlinked yet.
            2 => assert!(store.0.index().remove(&digest)),
            _ => {
                let other = folder.path().join("another");
                std::fs::write(&other, &content(1).1).expect("ours");
                std::fs::rename(&other, &path).expect("ours");
            }
        };
        let (defects, totals) = check(&store, REPAIR, meanwhile).await;
        assert_eq!((defects, totals.wrong), (vec![], 0), "{nth}");
        assert_eq!((path.exists(), store.holds(&digest)), (nth != 1, nth % 3 == 0), "{nth}");
        assert_eq!(store.0.metrics.store.corrupt.get(), 0, "{nth}");
    }
}

#[tokio::test]
async fn what_an_eviction_is_about_to_remove_is_not_missed() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let store = BlobStore::in_test(folder.path());
    let digest = publish(&store, 1).await;
    // Unlinked, and its record goes next.
    assert!(store.0.index().remove(&digest));
    std::fs::remove_file(store.0.layout.blob(&digest)).expect("it is there");
    let mut checker = store.checker(REPAIR);
    assert_eq!(checker.check_blob(&digest).await.expect("open"), None);
    // The same, if nobody evicts it.
    store.0.index().insert(&digest, SIZE as u64, EvictionClass::Blob, 0);
    let found = checker.check_blob(&digest).await.expect("open").expect("a finding");
    assert_eq!((&found.defect, found.is_repaired()), (&Defect::NoFile, true));
    assert_eq!((store.holds(&digest), store.0.records.stamp(&digest).ok()), (false, Some(None)));
}

#[tokio::test]
async fn a_size_that_does_not_count_as_it_is_is_put_right() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let store = BlobStore::in_test(folder.path());
    let digest = publish(&store, 1).await;
    assert!(store.0.index().remove(&digest));
    store.0.index().insert(&digest, 5, EvictionClass::Blob, 0);
    let (defects, _) = check(&store, REPAIR, || ()).await;
    assert_eq!((defects, store.0.index().used()), (vec![Defect::OtherRecord], SIZE as u64));
}

/// A publish makes the name first and the record last.
#[tokio::test]
async fn what_is_just_being_published_has_no_record_yet() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let store = BlobStore::in_test(folder.path());
    let digest = publish(&store, 1).await;
    let reader = store.open(&digest, Use::Whole).await.expect("no failure");
    store.0.records.drop_stamps(std::slice::from_ref(&digest)).expect("dropped");
    let mut checker = store.checker(CheckOptions::default());
    assert_eq!(checker.check_blob(&digest).await.expect("open"), None);
    drop(reader);
    let found = checker.check_blob(&digest).await.expect("open");
    assert_eq!(found.map(|found| found.defect), Some(Defect::NoRecord));
}

#[tokio::test(start_paused = true)]
async fn a_check_reads_no_faster_than_it_may() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let store = BlobStore::in_test(folder.path());
    publish(&store, 1).await;
    publish(&store, 2).await;
    let rate = NonZeroU64::new(1 << 20);
    let (_, totals) = check(&store, CheckOptions { repair: false, rate }, || ()).await;
    // What the last piece costs nobody waits for.
    assert_eq!((totals.taken.as_secs(), totals.hashed), (6, 2 * SIZE as u64));
}

#[tokio::test]
async fn only_what_was_in_memory_before_is_kept_there() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let store = BlobStore::in_test(folder.path());
    let [cold, warm] = [publish(&store, 1).await, publish(&store, 2).await];
    let file = |digest: &Digest| File::open(store.0.layout.blob(digest)).expect("it is there");
    fadvise(file(&cold), 0, None, Advice::DontNeed).expect("advice");
    let in_memory = |digest: &Digest| reading::is_cached(&file(digest), 2 * PIECE as u64);
    if in_memory(&cold) || !in_memory(&warm) {
        // A file system in memory, or one that does not say.
        return;
    }
    // Asking has read ahead.
    fadvise(file(&cold), 0, None, Advice::DontNeed).expect("advice");
    let (defects, _) = check(&store, CheckOptions::default(), || ()).await;
    assert_eq!((defects, in_memory(&warm), in_memory(&cold)), (vec![], true, false));
}
