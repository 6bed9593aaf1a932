//! A fixed number of requests over kept connections, as fast as the server answers; a slow server
//! does what it can in the time it gets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{anyhow, ensure};
use rustls::ClientConfig;
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::client::{Client, PATIENCE, request};

/// After this no request is begun in a round.
const LONGEST: Duration = Duration::from_secs(10);

/// What is asked of a server in one round.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) path: String,
    /// Bytes of each body.
    pub(crate) size: u64,
    pub(crate) connections: usize,
    /// Requests of each connection, one after the other, unless the time is up before.
    pub(crate) each: u32,
    /// Threads that the connections share, each with a runtime of its own.
    pub(crate) threads: usize,
    /// How connections are encrypted, if they are.
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

/// What one round cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) requests: u32,
    pub(crate) wall: Duration,
    /// Of the server.
    pub(crate) cpu: Duration,
}

impl Load {
    /// Runs to the end; gives the number of requests and the time they took.
    pub(crate) fn run(&self, address: SocketAddr) -> anyhow::Result<(u32, Duration)> {
        let start = Instant::now();
        let threads: Vec<_> = (0..self.threads)
            .map(|_| {
                let load = self.clone();
                thread::spawn(move || load.share(address))
            })
            .collect();
        let mut requests = 0;
        for thread in threads {
            requests += thread.join().map_err(|_| anyhow!("a client thread panicked"))??;
        }
        Ok((requests, start.elapsed()))
    }

    /// One thread's part.
    fn share(&self, address: SocketAddr) -> anyhow::Result<u32> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async { timeout(PATIENCE, self.all(address)).await? })
    }

    async fn all(&self, address: SocketAddr) -> anyhow::Result<u32> {
        let mut connections = JoinSet::new();
        for _ in 0..self.connections / self.threads {
            connections.spawn(self.clone().one(address));
        }
        let mut requests = 0;
        while let Some(ended) = connections.join_next().await {
            requests += ended??;
        }
        Ok(requests)
    }

    async fn one(self, address: SocketAddr) -> anyhow::Result<u32> {
        let end = Instant::now() + LONGEST;
        let buffer = usize::try_from(self.size)?.min(256 << 10);
        let mut client = Client::connect_with(address, buffer, self.tls.as_ref()).await?;
        let request = request(&self.path);
        let mut requests = 0;
        while requests < self.each && Instant::now() < end {
            let reply = client.get(&request, |_| ()).await?;
            ensure!(reply.length == self.size, "{} bytes instead of {}", reply.length, self.size);
            requests += 1;
        }
        Ok(requests)
    }
}
