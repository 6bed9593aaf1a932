//! roadstead beside nginx and CNCF distribution: the same content, the same clients, real
//! processes, interleaved rounds.
//!
//! `cargo bench --bench compare -- [ROUNDS] [MEASURE]` prints the medians and their ratios; MEASURE
//! is a word of the measures that are wanted. Clients and servers share the machine, so the figures
//! per second depend on both; those per CPU-second are the server's alone.
#![expect(clippy::print_stdout, reason = "the table is the result")]

#[expect(dead_code, reason = "the first byte is for the other figures")]
#[path = "../support/client.rs"]
mod client;
#[path = "../support/content.rs"]
mod content;
mod load;
#[expect(dead_code, reason = "its counters and limits are for the other figures")]
#[path = "../support/origin.rs"]
mod origin;
mod peers;
mod report;
#[expect(dead_code, reason = "memory is for the other figures")]
#[path = "../support/server.rs"]
mod server;
#[path = "../support/tls.rs"]
mod tls;

use std::sync::Arc;

use anyhow::{Context, ensure};
use roadstead::oci::{Algorithm, Hasher};
use rustls::ClientConfig;
use tokio::runtime::Runtime;

use client::{Client, request};
use content::Content;
use load::{Load, Sample};
use origin::{Origin, TAG, blob_path, manifest_path};
use report::{Measure, Report, Unit};
use server::Server;
use tls::Authority;

const BLOB: u64 = 256 << 20;

/// Rounds without an argument.
const ROUNDS: usize = 3;

fn main() -> anyhow::Result<()> {
    // cargo adds --bench of its own.
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let rounds = arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(ROUNDS);
    let wanted = arguments.iter().find(|argument| argument.parse::<usize>().is_err());
    let runtime = Runtime::new()?;
    let folder = server::folder()?;
    let layers: Vec<_> =
        (0..8).map(|salt| Content::blob(salt, if salt == 0 { BLOB } else { 1 << 20 })).collect();
    let manifest = Content::manifest(&layers);
    let origin = runtime.block_on(Origin::start())?;
    for layer in &layers {
        origin.add_blob(layer);
    }
    origin.add_manifest(&manifest);
    let content = (&*layers[0], &*manifest);
    let plain =
        runtime.block_on(peers::start(folder.path(), origin.address, &layers[0], &manifest))?;
    let authority = Authority::new()?;
    let (below, pair) = (folder.path().join("tls"), authority.pair(folder.path())?);
    std::fs::create_dir(&below)?;
    let secure = runtime.block_on(peers::start_secure(&below, origin.address, content, &pair))?;
    let client = authority.client()?;
    for (servers, tls) in [(&plain, None), (&secure, Some(&client))] {
        for server in servers {
            runtime
                .block_on(warm(server, &layers[0], &manifest, tls))
                .with_context(|| server.name)?;
        }
    }
    let mut report = Report::default();
    for round in 0..rounds {
        for measure in measures(&layers[0], &manifest, &client) {
            if wanted.is_some_and(|word| !measure.name.contains(word)) {
                continue;
            }
            let servers = if measure.load.tls.is_some() { &secure } else { &plain };
            // Another server goes first each time.
            for turn in 0..servers.len() {
                let server = &servers[(round + turn) % servers.len()];
                let sample = sample(server, &measure)
                    .with_context(|| format!("{} of {}", measure.name, server.name))?;
                report.add(&measure, server.name, sample);
            }
        }
        println!("round {} of {rounds} done", round + 1);
    }
    print!("{report}");
    Ok(())
}

fn measures(blob: &Content, manifest: &Content, client: &Arc<ClientConfig>) -> [Measure; 4] {
    let blobs = Load {
        path: blob_path(blob),
        size: blob.size,
        connections: 8,
        each: 2,
        threads: 2,
        tls: None,
    };
    let over_tls = Load { connections: 4, tls: Some(Arc::clone(client)), ..blobs.clone() };
    let by = |reference: &str| Load {
        path: manifest_path(reference),
        size: manifest.size,
        connections: 32,
        each: 1250,
        threads: 1,
        tls: None,
    };
    [
        Measure { name: "warm blob, 256 MiB, 8 connections", unit: Unit::Bytes, load: blobs },
        Measure {
            name: "warm blob over TLS, 256 MiB, 4 connections",
            unit: Unit::Bytes,
            load: over_tls,
        },
        Measure {
            name: "manifest by digest, 32 connections",
            unit: Unit::Requests,
            load: by(manifest.digest.as_str()),
        },
        Measure { name: "manifest by tag, 32 connections", unit: Unit::Requests, load: by(TAG) },
    ]
}

fn sample(server: &Server, measure: &Measure) -> anyhow::Result<Sample> {
    let before = server.cpu()?;
    let (requests, wall) = measure.load.run(server.address)?;
    let cpu = server.cpu()?.since(before);
    Ok(Sample { requests, wall, cpu: cpu.user + cpu.system })
}

/// Brings the content in, and checks once that the bytes are right.
async fn warm(
    server: &Server,
    blob: &Arc<Content>,
    manifest: &Arc<Content>,
    tls: Option<&Arc<ClientConfig>>,
) -> anyhow::Result<()> {
    let mut client = Client::connect_with(server.address, 256 << 10, tls).await?;
    for (path, content) in [
        (manifest_path(TAG), manifest),
        (manifest_path(manifest.digest.as_str()), manifest),
        (blob_path(blob), blob),
        (blob_path(blob), blob),
    ] {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        client
            .get(&request(&path), |bytes| hasher.update(bytes))
            .await
            .with_context(|| path.clone())?;
        ensure!(hasher.finish() == content.digest, "wrong content for {path}");
    }
    Ok(())
}
