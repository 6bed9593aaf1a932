//! A reader that follows a flight's file at its own speed, and gets the last bytes only once they
//! are verified. If our own disk fails meanwhile, the reader goes on from the source.

use std::ops::Range;

use bytes::{Buf, Bytes};
use futures_util::{TryStreamExt, stream};

use super::flight::{FlightState, Follower, GrowingFile};
use super::relay::RelayedBlob;
use crate::oci::Hasher;
use crate::pull::answers::{ByteStream, PieceMax};
use crate::pull::error::Error;
use crate::store::READ_MAX;

/// One reader of a flight.
#[derive(Debug)]
pub(crate) struct Tail {
    pub(crate) follower: Follower,
    pub(crate) file: GrowingFile,
    /// What is still to be read; an unknown end is `u64::MAX`.
    pub(crate) span: Range<u64>,
    /// Bytes at the end that wait for verification.
    pub(crate) hold_back: u64,
    /// Bytes that it reads at once.
    pub(crate) piece_max: PieceMax,
}

/// How a reader goes on if our own disk fails.
#[derive(Debug)]
pub(crate) struct Fallback {
    pub(crate) blob: RelayedBlob,
    /// It reads a part of the blob, which cannot be verified by itself.
    pub(crate) is_part: bool,
}

/// Where a reader's bytes come from.
enum Following {
    File(Tail, Fallback),
    /// The disk has failed: the rest from the source, of which the reader has so many bytes
    /// already.
    Source {
        rest: ByteStream,
        had: u64,
    },
}

/// What a look at the state tells a reader to do.
enum NextStep {
    /// This many bytes can be read.
    Read(u64),
    Wait,
    End,
    Cut(Error),
}

impl Tail {
    pub(crate) fn into_stream(self, fallback: Fallback) -> ByteStream {
        Box::pin(stream::unfold(Some(Following::File(self, fallback)), |following| async {
            let mut following = following?;
            match following.next().await {
                Ok(Some(bytes)) => Some((Ok(bytes), Some(following))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        }))
    }

    /// The next bytes of the file; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let next = self.next_step();
            match next {
                NextStep::Read(len) => return self.read(len).await.map(Some),
                NextStep::End => return Ok(None),
                NextStep::Cut(error) => return Err(error),
                // The sender is gone only after an ending, and with an ending nobody waits.
                NextStep::Wait => {
                    self.follower.state.changed().await.map_err(|_| Error::Abandoned)?;
                }
            }
        }
    }

    fn next_step(&mut self) -> NextStep {
        let state = self.follower.state.borrow_and_update();
        if let Some(size) = misled(&state, self.file.size) {
            let reason = format!("{} bytes where a manifest says {size}", state.written);
            return NextStep::Cut(Error::untrue(&self.follower.flight.upstream, reason));
        }
        let readable = readable(&state, self.file.size, self.hold_back).min(self.span.end);
        if readable > self.span.start {
            return NextStep::Read(readable - self.span.start);
        }
        match &state.ending {
            // A range ends when its bytes are sent, however the flight ends.
            _ if self.span.start >= self.span.end => NextStep::End,
            None => NextStep::Wait,
            // Of a blob of unknown size: all of it has been read.
            Some(Ok(())) => NextStep::End,
            Some(Err(error)) => NextStep::Cut(error.clone()),
        }
    }

    async fn read(&mut self, available: u64) -> Result<Bytes, Error> {
        let max = self.piece_max.get().clamp(1, READ_MAX);
        let len = usize::try_from(available).map_or(max, |available| available.min(max));
        self.piece_max.set_being_read(true);
        let read = self.file.reader.read_at(self.span.start, len).await;
        self.piece_max.set_being_read(false);
        let bytes = read?;
        self.span.start += bytes.len() as u64;
        Ok(bytes)
    }
}

impl Fallback {
    /// The rest from the source, after `error` of our own disk.
    ///
    /// # Errors
    /// `error`, if it is not known that what the reader has is right, and cannot be found out.
    async fn rest(&self, tail: &mut Tail, error: Error) -> Result<Following, Error> {
        let ended = tail.follower.state.wait_for(|state| state.ending.is_some()).await;
        let (is_verified, known, written) = {
            let state = ended.map_err(|_| Error::Abandoned)?;
            (matches!(state.ending, Some(Ok(()))), state.left_off.clone(), state.written)
        };
        let blob = self.blob.clone();
        match known {
            _ if self.is_part && (is_verified || known.is_some()) => {
                Ok(Following::Source { rest: blob.rest_of_part(tail.span.clone()), had: 0 })
            }
            // All that came in was right, and so is what this reader has of it. The rest is hashed
            // with all that is before it.
            _ if is_verified => {
                let nothing = Hasher::new(blob.digest.algorithm());
                let rest = blob.rest(nothing, Vec::new(), 0, Some(written));
                Ok(Following::Source { rest, had: tail.span.start })
            }
            // What the file holds is hashed until the watermark; it is at most what was held back.
            Some(known) => {
                let mut held = Vec::new();
                while tail.span.start < written {
                    held.push(tail.read(written - tail.span.start).await?);
                }
                let rest = blob.rest(known, held, written, tail.file.size);
                Ok(Following::Source { rest, had: 0 })
            }
            None => Err(error),
        }
    }
}

impl Following {
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            match self {
                Self::File(tail, fallback) => match tail.next().await {
                    Err(error) if error.is_of_our_disk() => {
                        *self = fallback.rest(tail, error).await?;
                    }
                    next => return next,
                },
                Self::Source { rest, had } => {
                    let Some(mut bytes) = rest.try_next().await? else { return Ok(None) };
                    let known = usize::try_from(*had).unwrap_or(usize::MAX).min(bytes.len());
                    *had -= known as u64;
                    bytes.advance(known);
                    if !bytes.is_empty() {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }
}

/// The size that the reader's client was told, if the blob has turned out to have another. What it
/// would get looks complete and is not, or never ends.
fn misled(state: &FlightState, told: Option<u64>) -> Option<u64> {
    let verified = matches!(state.ending, Some(Ok(())));
    told.filter(|told| verified && *told != state.written)
}

/// How far readers may go: the last bytes wait for verification (DESIGN §14.7). With an unknown
/// size any bytes may be the last, so readers stay that far behind the watermark.
fn readable(state: &FlightState, size: Option<u64>, hold_back: u64) -> u64 {
    match (&state.ending, size) {
        (Some(Ok(())), _) => state.written,
        (_, Some(size)) => state.written.min(size.saturating_sub(hold_back)),
        (_, None) => state.written.saturating_sub(hold_back),
    }
}

#[cfg(test)]
mod tests {
    use super::super::flight::Opening;
    use super::super::pace::Pace;
    use super::*;

    fn state(written: u64, ending: Option<Result<(), Error>>) -> FlightState {
        let pace = Pace::new(tokio::time::Instant::now());
        FlightState {
            opening: Opening::Pending,
            written,
            pace,
            ending,
            is_over: false,
            left_off: None,
        }
    }

    #[test]
    fn whoever_was_told_another_size_is_cut() {
        for (written, ending, told, expected) in [
            (100, Some(Ok(())), Some(90), Some(90)),
            (80, Some(Ok(())), Some(90), Some(90)),
            (90, Some(Ok(())), Some(90), None),
            (80, None, Some(90), None),
            (80, Some(Ok(())), None, None),
        ] {
            assert_eq!(misled(&state(written, ending), told), expected, "{written} of {told:?}");
        }
    }

    #[test]
    fn the_last_bytes_wait_for_verification() {
        for (written, ending, size, expected) in [
            (0, None, Some(100), 0),
            (50, None, Some(100), 50),
            (95, None, Some(100), 90),
            (100, None, Some(100), 90),
            (100, Some(Err(Error::Abandoned)), Some(100), 90),
            (100, Some(Ok(())), Some(100), 100),
            (5, None, Some(5), 0),
            (5, Some(Ok(())), Some(5), 5),
            (95, None, None, 85),
            (5, None, None, 0),
            (95, Some(Err(Error::Abandoned)), None, 85),
            (95, Some(Ok(())), None, 95),
        ] {
            assert_eq!(
                readable(&state(written, ending), size, 10),
                expected,
                "{written} of {size:?}"
            );
        }
    }
}
