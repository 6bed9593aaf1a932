//! `PUT /v1/contents/DIGEST`: content comes in, and is nobody's yet.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use http::{StatusCode, Uri};
use http_body::Body;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::documents::Unanswered;
use super::parts::ControlParts;
use crate::oci::{CanonicalName, Digest};
use crate::store::{ContentSender, EvictionClass, RoomOwner, StageError, Staged};

/// Before the digest.
pub(super) const PATH: &str = "/v1/contents/";

/// Waiting for the next piece: it may come from a slow medium.
const PIECE_MAX: Duration = Duration::from_mins(2);

/// Bytes that are written at once.
const WRITE: usize = 256 << 10;

/// What the request says.
struct Content {
    digest: Digest,
    /// Bytes.
    size: u64,
    is_manifest: bool,
    sender: ContentSender,
}

/// Stores what comes, if it is what its digest names. No repository has it before it is imported.
pub(super) async fn receive<B>(
    parts: &ControlParts,
    uri: &Uri,
    body: B,
) -> Result<Value, Unanswered>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let Content { digest, size, is_manifest, sender } = content(parts, uri)?;
    let owner = RoomOwner::of(&"import");
    let staged = parts.store.stage(&digest, Some(size), owner).await.map_err(not_kept)?;
    let staged = write(staged, size, body).await?;
    let verified = staged.verify().map_err(|error| Unanswered::bad_request(error.to_string()))?;
    let class = if is_manifest { EvictionClass::Manifest } else { EvictionClass::Blob };
    let published = verified.publish(class, parts.clock.now(), sender).await;
    published.map_err(|error| Unanswered::failed(&error))?;
    Ok(json!({ "digest": digest.as_str(), "size": size }))
}

async fn write<B>(mut staged: Staged, size: u64, body: B) -> Result<Staged, Unanswered>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let broken = |error: String| Unanswered::bad_request(format!("the content broke off: {error}"));
    let (mut body, mut pieces, mut waiting) = (Box::pin(body), Vec::new(), 0);
    loop {
        let frame = timeout(PIECE_MAX, body.frame()).await;
        let frame = frame.map_err(|_| broken("nothing came for 2 min".to_owned()))?;
        let is_end = frame.is_none();
        if let Some(frame) = frame {
            let frame = frame.map_err(|error| broken(error.into().to_string()))?;
            let Ok(piece) = frame.into_data() else { continue };
            waiting += piece.len();
            pieces.push(piece);
        }
        if staged.written() + waiting as u64 > size {
            return Err(Unanswered::bad_request(format!("it has more than {size} bytes")));
        }
        if waiting >= WRITE || (is_end && waiting > 0) {
            let appended = staged.append(std::mem::take(&mut pieces), |_| {}).await;
            appended.map_err(not_kept)?;
            waiting = 0;
        }
        if is_end {
            return Ok(staged);
        }
    }
}

fn not_kept(error: StageError) -> Unanswered {
    match error {
        StageError::NoRoom => {
            let sentence = "there is no room for it: make cache.max_size or the disk larger";
            Unanswered(StatusCode::INSUFFICIENT_STORAGE, sentence.to_owned())
        }
        StageError::Failed(error) => Unanswered::failed(&error),
    }
}

fn content(parts: &ControlParts, uri: &Uri) -> Result<Content, Unanswered> {
    let digest = uri.path().strip_prefix(PATH).unwrap_or_default();
    let digest =
        Digest::parse(digest).map_err(|error| Unanswered::bad_request(error.to_string()))?;
    let (mut size, mut is_manifest, mut from) = (None, false, None);
    for (key, value) in url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
        match key.as_ref() {
            "size" => size = value.parse().ok(),
            "manifest" => is_manifest = value == "true",
            "from" => from = CanonicalName::parse(&value).ok(),
            other => return Err(Unanswered::bad_request(format!("there is no parameter {other}"))),
        }
    }
    let size = size.ok_or_else(|| Unanswered::bad_request("size is a number of bytes"))?;
    let from = from.and_then(|from| parts.names.find(&from));
    let from = from.ok_or_else(|| Unanswered::bad_request("from is the name of an image here"))?;
    let sender = ContentSender { upstream: from.upstream, is_public: false };
    Ok(Content { digest, size, is_manifest, sender })
}
