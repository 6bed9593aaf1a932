//! A TCP forwarder in front of a registry: it records what is sent to the registry, and can limit
//! how fast each connection gets its answers.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// Runs until dropped.
#[derive(Debug)]
pub(crate) struct TcpForwarder {
    pub(crate) address: SocketAddr,
    forwarded: Arc<Mutex<Vec<u8>>>,
    _tasks: JoinSet<()>,
}

impl TcpForwarder {
    /// Without a limit.
    pub(crate) async fn to(target: SocketAddr) -> Self {
        Self::through(target, None).await
    }

    /// Each connection gets its answers at this rate at most.
    pub(crate) async fn limiting_answers(target: SocketAddr, bytes_per_second: u32) -> Self {
        Self::through(target, Some(bytes_per_second)).await
    }

    /// The rate of its answers.
    async fn through(target: SocketAddr, rate: Option<u32>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
        let address = listener.local_addr().expect("a bound listener has an address");
        let forwarded = Arc::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, target, rate, Arc::clone(&forwarded)));
        Self { address, forwarded, _tasks: tasks }
    }

    /// Every byte that went to the target.
    pub(crate) fn forwarded(&self) -> String {
        String::from_utf8_lossy(&self.forwarded.lock().expect("no holder panics")).into_owned()
    }
}

async fn accept(
    listener: TcpListener,
    target: SocketAddr,
    rate: Option<u32>,
    forwarded: Arc<Mutex<Vec<u8>>>,
) {
    let mut connections = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        let forwarded = Arc::clone(&forwarded);
        connections.spawn(async move {
            let Ok(far) = TcpStream::connect(target).await else { return };
            let (near, far) = (near.into_split(), far.into_split());
            // Either side may hang up at any time.
            let _ = tokio::join!(
                forward(near.0, far.1, None, Some(&forwarded)),
                forward(far.0, near.1, rate, None)
            );
        });
    }
}

/// Carries one direction at `rate`, and writes down what passes.
async fn forward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    rate: Option<u32>,
    passed: Option<&Mutex<Vec<u8>>>,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 16 << 10];
    let mut due = Instant::now();
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        if let Some(passed) = passed {
            passed.lock().expect("no holder panics").extend_from_slice(&buffer[..count]);
        }
        to.write_all(&buffer[..count]).await?;
        let Some(rate) = rate else { continue };
        let cost =
            Duration::from_secs(1) * u32::try_from(count).expect("at most the buffer") / rate;
        // An idle connection saves nothing up for later.
        due = due.max(Instant::now()) + cost;
        sleep_until(due).await;
    }
}
