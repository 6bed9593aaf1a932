//! The body of a request: read at the pace that the test wants, counted and hashed, and kept only
//! if it is small.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use roadstead::oci::{Algorithm, Digest, Hasher};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

use super::fault::{Fault, Gate};

/// Bodies up to this size are kept.
const KEPT_BODY_MAX: usize = 8 << 20;

/// Bytes that are read together.
const PIECE: u64 = 16 * 1024;

/// How the end of a body is told.
#[derive(Debug)]
pub(super) enum Framing {
    Length(u64),
    /// What is left of the current chunk; none: the last one has been read.
    Chunked(Option<u64>),
}

/// How a body is taken.
#[derive(Debug, Default)]
pub(super) struct Pace {
    hold: Option<(u64, Gate)>,
    rate: Option<u64>,
    die_at: Option<u64>,
}

/// What has arrived of a body, or of all the bodies of an upload.
#[derive(Clone, Debug)]
pub(super) struct Received {
    pub(super) length: u64,
    hasher: Hasher,
    /// None: too much to be kept.
    kept: Option<Vec<u8>>,
}

impl Received {
    pub(super) fn new(algorithm: Algorithm) -> Self {
        Self { length: 0, hasher: Hasher::new(algorithm), kept: Some(Vec::new()) }
    }

    fn add(&mut self, piece: &[u8]) {
        self.length += piece.len() as u64;
        self.hasher.update(piece);
        match &mut self.kept {
            Some(kept) if kept.len() + piece.len() <= KEPT_BODY_MAX => {
                kept.extend_from_slice(piece);
            }
            kept => *kept = None,
        }
    }

    pub(super) fn digest(&self) -> Digest {
        self.hasher.clone().finish()
    }

    pub(super) fn algorithm(&self) -> Algorithm {
        self.digest().algorithm()
    }

    pub(super) fn bytes(&self) -> Option<Bytes> {
        self.kept.clone().map(Bytes::from)
    }
}

impl Pace {
    pub(super) fn of(faults: &[Fault]) -> Self {
        let mut pace = Self::default();
        for fault in faults {
            if let Fault::TakeUpTo(bytes, gate) = fault {
                pace.hold = Some((*bytes, gate.clone()));
            } else if let Fault::TakeRate(bytes) = fault {
                pace.rate = Some(*bytes);
            } else if let Fault::DieAt(bytes) = fault {
                pace.die_at = Some(*bytes);
            }
        }
        pace
    }

    /// Waits as long as somebody who has taken `taken` bytes and now takes `more` has to.
    async fn take(&self, taken: u64, more: u64) -> io::Result<()> {
        if self.die_at.is_some_and(|at| taken + more > at) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        if let Some((bytes, gate)) = &self.hold
            && taken + more > *bytes
        {
            gate.pass().await;
        }
        if let Some(rate) = self.rate {
            tokio::time::sleep(Duration::from_nanos(more * 1_000_000_000 / rate)).await;
        }
        Ok(())
    }
}

impl Framing {
    pub(super) fn new(length: Option<u64>, chunked: bool) -> Self {
        if chunked { Self::Chunked(Some(0)) } else { Self::Length(length.unwrap_or(0)) }
    }

    /// Reads to the end into `received`; says how many bytes this body had.
    pub(super) async fn read(
        mut self,
        from: &mut (impl AsyncBufRead + Unpin),
        pace: &Pace,
        received: &mut Received,
    ) -> io::Result<u64> {
        let mut taken = 0;
        loop {
            let more = self.next(from).await?.min(PIECE);
            if more == 0 {
                return Ok(taken);
            }
            pace.take(taken, more).await?;
            let mut piece = vec![0; usize::try_from(more).expect("a piece is small")];
            from.read_exact(&mut piece).await?;
            received.add(&piece);
            taken += more;
            self.taken(from, more).await?;
        }
    }

    /// Bytes that come next; none at the end.
    async fn next(&mut self, from: &mut (impl AsyncBufRead + Unpin)) -> io::Result<u64> {
        let Self::Chunked(left) = self else {
            let Self::Length(left) = self else { return Ok(0) };
            return Ok(*left);
        };
        if *left == Some(0) {
            let mut line = String::new();
            from.read_line(&mut line).await?;
            let size =
                u64::from_str_radix(line.trim(), 16).map_err(|_| io::ErrorKind::InvalidData)?;
            *left = Some(size).filter(|size| *size > 0);
            if left.is_none() {
                from.read_line(&mut line).await?;
            }
        }
        Ok(left.unwrap_or(0))
    }

    async fn taken(
        &mut self,
        from: &mut (impl AsyncBufRead + Unpin),
        bytes: u64,
    ) -> io::Result<()> {
        match self {
            Self::Length(left) => *left -= bytes,
            Self::Chunked(left) => {
                *left = left.map(|left| left - bytes);
                if *left == Some(0) {
                    from.read_line(&mut String::new()).await?;
                }
            }
        }
        Ok(())
    }
}
