//! The body of an upload: fed piece by piece, and whole only if whoever feeds it says so.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

/// How many items wait between the client and the registry's socket. Whoever feeds more waits, so
/// that a registry that stalls holds up its client instead of filling memory.
const FEED_CAPACITY: usize = 4;

enum FeedItem {
    Bytes(Bytes),
    /// The client has sent everything. Without it, a sender that is dropped halfway would look like
    /// a clean end, and the registry would take half of a chunk for all of it.
    End,
}

/// Where the bytes of an upload go in. If it is dropped before [`Feed::end`], the transfer breaks
/// off.
#[derive(Debug)]
pub struct Feed(mpsc::Sender<FeedItem>);

/// The registry takes no more bytes: it has answered early, or the connection broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

/// Where the bytes of an upload come out: the body of a request to the registry.
#[derive(Debug)]
pub struct UploadBody {
    items: mpsc::Receiver<FeedItem>,
    /// Bytes that are still to come, if their number was announced.
    left: Option<u64>,
    ended: bool,
}

/// The client's side is gone before the end.
#[derive(Debug, thiserror::Error)]
#[error("the client broke off")]
pub struct BrokenOff;

/// A body of `length` bytes, or of as many as come, and where to feed it from.
pub fn feed(length: Option<u64>) -> (Feed, UploadBody) {
    let (sender, items) = mpsc::channel(FEED_CAPACITY);
    (Feed(sender), UploadBody { items, left: length, ended: false })
}

impl Feed {
    /// Passes bytes on; waits while the registry takes none. The caller sets the deadline.
    pub async fn bytes(&self, bytes: Bytes) -> Result<(), Closed> {
        self.0.send(FeedItem::Bytes(bytes)).await.map_err(|_| Closed)
    }

    /// Says that everything has been fed.
    pub async fn end(self) -> Result<(), Closed> {
        self.0.send(FeedItem::End).await.map_err(|_| Closed)
    }
}

impl Body for UploadBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        Poll::Ready(match ready!(self.items.poll_recv(cx)) {
            Some(FeedItem::Bytes(bytes)) => {
                let length = bytes.len() as u64;
                self.left = self.left.map(|left| left.saturating_sub(length));
                Some(Ok(Frame::data(bytes)))
            }
            Some(FeedItem::End) => {
                self.ended = true;
                None
            }
            None => Some(Err(BrokenOff)),
        })
    }

    /// True as soon as the announced bytes are through: hyper then drops the body without waiting
    /// for the end to be fed.
    fn is_end_stream(&self) -> bool {
        self.ended || self.left == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn a_body_is_whole_only_if_its_feeder_says_so() {
        for whole in [true, false] {
            let (feed, body) = feed(None);
            feed.bytes(Bytes::from_static(b"ab")).await.expect("room");
            feed.bytes(Bytes::from_static(b"c")).await.expect("room");
            if whole {
                feed.end().await.expect("room");
            } else {
                drop(feed);
            }
            let read = body.collect().await.map(http_body_util::Collected::to_bytes);
            assert_eq!(read.ok(), whole.then(|| Bytes::from_static(b"abc")));
        }
    }

    #[tokio::test]
    async fn an_announced_length_is_told() {
        let (feed, mut body) = feed(Some(3));
        assert_eq!(body.size_hint().exact(), Some(3));
        feed.bytes(Bytes::from_static(b"abc")).await.expect("room");
        body.frame().await.expect("a frame").expect("bytes");
        assert!(body.is_end_stream());
        drop(body);
        assert_eq!(feed.end().await, Err(Closed));
    }
}
