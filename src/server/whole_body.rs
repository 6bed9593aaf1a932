//! Bodies that are read as a whole before anything is done with them: manifests, and the forms of
//! the token endpoint.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::Request;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};

use super::connection::memory::{BodyMemory, ConnectionMemory};

/// The turn of a body among those of its connection, which are read one after the other where they
/// are large.
#[derive(Debug)]
pub(super) struct BodyTurn {
    /// None of a body without bytes.
    memory: Option<BodyMemory>,
    max: usize,
}

/// The memory of a body is given back with the last of its bytes, wherever they go: a manifest is
/// put even if its client leaves.
struct CountedBytes {
    bytes: BytesMut,
    _memory: Option<BodyMemory>,
}

/// Why a body was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UnreadBody {
    TooLong,
    BrokenOff,
    /// Others take all the memory that there is for what clients send, or its connection's share.
    NoMemory,
}

impl BodyTurn {
    /// Waits until the body of `request`, of at most `max` bytes, may be read, but no longer than
    /// `patience`. Its client cannot send it meanwhile, so whatever time the client has begins
    /// afterwards.
    pub(super) async fn wait(
        request: &mut Request<Incoming>,
        max: usize,
        patience: Duration,
    ) -> Result<Self, UnreadBody> {
        let announced = request.body().size_hint();
        if announced.lower() > max as u64 {
            return Err(UnreadBody::TooLong);
        }
        let len = announced.upper().and_then(|upper| usize::try_from(upper).ok()).unwrap_or(max);
        let Some(connection) = request.extensions().get::<Arc<ConnectionMemory>>() else {
            return Ok(Self { memory: None, max });
        };
        let turn = Arc::clone(connection).body(len.min(max));
        match tokio::time::timeout(patience, turn).await {
            Ok(memory) => Ok(Self { memory: Some(memory), max }),
            Err(_) => Err(UnreadBody::NoMemory),
        }
    }

    /// Reads the body. Has no deadline.
    pub(super) async fn read(self, request: &mut Request<Incoming>) -> Result<Bytes, UnreadBody> {
        let Self { mut memory, max } = self;
        let mut bytes = BytesMut::new();
        while let Some(frame) = request.body_mut().frame().await {
            let frame = frame.map_err(|_| UnreadBody::BrokenOff)?;
            let Ok(frame) = frame.into_data() else { continue };
            if frame.len() > max - bytes.len() {
                return Err(UnreadBody::TooLong);
            }
            if memory.as_mut().is_some_and(|memory| !memory.add(frame.len())) {
                return Err(UnreadBody::NoMemory);
            }
            // Copied: a frame keeps the whole buffer that it was read into.
            bytes.extend_from_slice(&frame);
        }
        Ok(Bytes::from_owner(CountedBytes { bytes, _memory: memory }))
    }
}

impl AsRef<[u8]> for CountedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
