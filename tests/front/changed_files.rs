//! Files of the cache that somebody changes while they are read: nobody gets a whole wrong blob.

use std::os::unix::fs::FileExt;

use crate::support::client::{Answer, Reading};
use crate::support::content::Blob;
use crate::support::eventually;
use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, Setup, blob};
use crate::support::tls::{Authority, client, tls};

const MIB: u64 = 1 << 20;
/// Far more than a connection and its client's buffers hold.
const SIZE: u64 = 24 * MIB;

/// Over what the blob is read.
#[derive(Clone, Copy, Debug)]
enum Over {
    Plain,
    Tls,
    Http2,
}

struct Served {
    origin: Origin,
    layer: Blob,
    proxy: Proxy,
    client: reqwest::Client,
    base: &'static str,
}

impl Served {
    /// A large blob, stored.
    async fn over(over: Over) -> Self {
        let origin = Origin::start().await;
        let layer = origin.blob("a/b", 1, SIZE);
        let mut setup = Setup::of(&origin);
        setup.send_buffer = Some(64 << 10);
        let authority = Authority::new();
        let (base, client) = match over {
            Over::Plain => ("http", reqwest::Client::builder().no_proxy().build().expect("one")),
            Over::Tls => ("https", client(&authority, None, true)),
            Over::Http2 => ("https", client(&authority, None, false)),
        };
        if base == "https" {
            setup.config.tls = Some(tls(&setup, &authority, None));
        }
        let proxy = setup.start().await;
        let served = Self { origin, layer, proxy, client, base };
        assert_eq!(served.open(None).await.finish().await.digest(), served.layer.digest);
        eventually("the blob is stored", || served.proxy.has_stored(&served.layer.digest)).await;
        served.proxy.settled().await;
        served
    }

    async fn open(&self, range: Option<&str>) -> Reading {
        let path = blob("a/b", &self.layer.digest);
        let url = format!("{}://{}{path}", self.base, self.proxy.authority());
        let mut request = self.client.get(url);
        if let Some(range) = range {
            request = request.header("range", range);
        }
        Reading::new(request.send().await.expect("an answer"))
    }

    /// Changes a byte in place.
    fn flip(&self, at: u64) {
        let path = self.proxy.blob_path(&self.layer.digest);
        let file = std::fs::File::options().read(true).write(true).open(path);
        let file = file.expect("it is stored");
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).expect("it is that long");
        file.write_all_at(&[!byte[0]], at).expect("the directory is ours");
    }

    fn is_wrong(&self, answer: &Answer) -> bool {
        answer.status == 200 && answer.complete && answer.digest() != self.layer.digest
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_reads_a_file_that_is_changed_meanwhile_is_cut() {
    for over in [Over::Plain, Over::Tls, Over::Http2] {
        for at in [SIZE - 1, SIZE - MIB - 1, 0] {
            let served = Served::over(over).await;
            let mut reading = served.open(None).await;
            reading.read(100_000).await;
            let part = format!("bytes=1000-{}", SIZE - MIB);
            let mut ranged = served.open(Some(&part)).await;
            ranged.read(100_000).await;
            served.flip(at);
            let case = format!("byte {at}, {over:?}");
            // The open file is the first reader's; it must not be believed for the second.
            let second = served.open(None).await.finish().await;
            assert!(!served.is_wrong(&second), "{case}: whoever comes next");
            for (who, reading) in [("the reader", reading), ("of a part", ranged)] {
                assert!(!reading.finish().await.complete, "{case}: {who} is cut");
            }
            served.proxy.settled().await;
            let cut = [("reason", "storage")];
            assert_eq!(served.proxy.metric("roadstead_http_failures_total", &cut), 2, "{case}");
            let mut answer = served.open(None).await.finish().await;
            if !answer.complete {
                answer = served.open(None).await.finish().await;
            }
            assert_eq!(answer.digest(), served.layer.digest, "{case}: fetched again");
            assert_eq!(served.origin.blob_gets(&served.layer.digest), 2, "{case}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_only_looks_changed_is_hashed_and_served() {
    let served = Served::over(Over::Plain).await;
    let mut reading = served.open(None).await;
    reading.read(100_000).await;
    let file = std::fs::File::open(served.proxy.blob_path(&served.layer.digest)).expect("stored");
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).expect("the directory is ours");
    assert_eq!(served.open(None).await.finish().await.digest(), served.layer.digest);
    assert!(!reading.finish().await.complete, "nobody knew yet");
    assert_eq!(served.open(None).await.finish().await.digest(), served.layer.digest);
    assert_eq!(served.origin.blob_gets(&served.layer.digest), 1);
}

/// What is removed, or replaced by another file, leaves whoever has it open alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_of_a_file_that_has_lost_its_name_reads_on() {
    let served = Served::over(Over::Plain).await;
    let mut reading = served.open(None).await;
    reading.read(100_000).await;
    std::fs::remove_file(served.proxy.blob_path(&served.layer.digest)).expect("stored");
    assert_eq!(reading.finish().await.digest(), served.layer.digest);
}
