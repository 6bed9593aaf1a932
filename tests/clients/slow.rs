//! A thin line to the upstream: a TCP relay that lets each connection's answers through at a bounded rate.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// Runs until dropped.
#[derive(Debug)]
pub(crate) struct SlowLine {
    pub(crate) address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl SlowLine {
    pub(crate) async fn to(target: SocketAddr, bytes_per_second: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
        let address = listener.local_addr().expect("a bound listener has an address");
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, target, bytes_per_second));
        Self { address, _tasks: tasks }
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, rate: u32) {
    let mut lines = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        lines.spawn(async move {
            let Ok(far) = TcpStream::connect(target).await else { return };
            let (near, far) = (near.into_split(), far.into_split());
            // Either side may hang up at any time.
            let _ = tokio::join!(forward(near.0, far.1), trickle(far.0, near.1, rate));
        });
    }
}

async fn forward(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> std::io::Result<()> {
    copy(&mut from, &mut to).await?;
    to.shutdown().await
}

async fn trickle(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, rate: u32) -> std::io::Result<()> {
    let mut buffer = vec![0; 16 << 10];
    let mut due = Instant::now();
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..count]).await?;
        let cost = Duration::from_secs(1) * u32::try_from(count).expect("at most the buffer") / rate;
        // An idle line saves nothing up.
        due = due.max(Instant::now()) + cost;
        sleep_until(due).await;
    }
}
