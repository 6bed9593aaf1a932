//! Bodies that are read as a whole before anything is done with them: manifests, and the forms of
//! the token endpoint.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::Request;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};

use super::connection::memory::{BodyMemory, ConnectionMemory};

/// A body, and the memory that it takes.
#[derive(Debug)]
pub(super) struct WholeBody {
    pub(super) bytes: Bytes,
    _memory: Option<BodyMemory>,
}

/// Why a body was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UnreadBody {
    TooLong,
    BrokenOff,
    /// Others take all the memory that there is for what clients send.
    NoMemory,
}

/// Reads a body of at most `max` bytes. Has no deadline.
pub(super) async fn read_whole(
    request: &mut Request<Incoming>,
    max: usize,
) -> Result<WholeBody, UnreadBody> {
    let announced = request.body().size_hint();
    if announced.lower() > max as u64 {
        return Err(UnreadBody::TooLong);
    }
    let len = announced.upper().and_then(|upper| usize::try_from(upper).ok()).unwrap_or(max);
    let mut memory = match request.extensions().get::<Arc<ConnectionMemory>>() {
        Some(connection) => Some(Arc::clone(connection).body(len.min(max)).await),
        // A body without bytes.
        None => None,
    };
    let mut bytes = BytesMut::new();
    while let Some(frame) = request.body_mut().frame().await {
        let Ok(frame) = frame.map_err(|_| UnreadBody::BrokenOff)?.into_data() else { continue };
        if frame.len() > max - bytes.len() {
            return Err(UnreadBody::TooLong);
        }
        if memory.as_mut().is_some_and(|memory| !memory.add(frame.len())) {
            return Err(UnreadBody::NoMemory);
        }
        // Copied: a frame keeps the whole buffer that it was read into.
        bytes.extend_from_slice(&frame);
    }
    Ok(WholeBody { bytes: bytes.freeze(), _memory: memory })
}
