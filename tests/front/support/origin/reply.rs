//! An answer, and how it goes onto the wire: whole, cut, held, slow or wrong.

use std::io;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::fault::{Fault, Gate};
use crate::support::content::Content;

/// How the end of a body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length,
    Chunked,
    UntilClose,
}

#[derive(Debug)]
pub(super) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    content: Content,
    range: Range<u64>,
    spoiled: Spoiled,
}

/// What was done to an answer that would have been right.
#[derive(Debug)]
struct Spoiled {
    framing: Framing,
    length_off: i64,
    cut_after: Option<u64>,
    hold_head: Option<Gate>,
    hold: Option<(u64, Gate)>,
    flip: Option<u64>,
    extra: u64,
    rate: Option<u64>,
}

impl Reply {
    pub(super) fn new(status: u16, content: Content) -> Self {
        let range = 0..content.len();
        Self { status, headers: Vec::new(), content, range, spoiled: Spoiled::not() }
    }

    pub(super) fn typed(status: u16, media_type: &str, body: impl Into<Bytes>) -> Self {
        Self::new(status, Content::given(body)).with("Content-Type", media_type)
    }

    pub(super) fn empty(status: u16) -> Self {
        Self::new(status, Content::given(""))
    }

    pub(super) fn status(&self) -> u16 {
        self.status
    }

    /// distribution's error document for a status, with the header that tells a registry.
    pub(super) fn error(status: u16, code: &str) -> Self {
        let document = json!({ "errors": [{ "code": code, "message": "the origin says so", "detail": null }] });
        Self::typed(status, "application/json; charset=utf-8", document.to_string())
            .with("Docker-Distribution-API-Version", "registry/2.0")
    }

    pub(super) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.set(name, Some(value.into()));
        self
    }

    /// One more header of this name.
    pub(super) fn and(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    fn set(&mut self, name: &str, value: Option<String>) {
        self.headers.retain(|(key, _)| !key.eq_ignore_ascii_case(name));
        self.headers.extend(value.map(|value| (name.to_owned(), value)));
    }

    pub(super) fn part(mut self, range: Range<u64>) -> Self {
        let total = self.content.len();
        self.set(
            "Content-Range",
            Some(format!("bytes {}-{}/{total}", range.start, range.end.saturating_sub(1))),
        );
        Self { status: 206, range, ..self }
    }

    /// Changes the answer as `fault` says. What `Fault` does to a request is the caller's.
    pub(super) fn spoil(mut self, fault: Fault) -> Self {
        match fault {
            Fault::Header(name, value) => self.set(name, value),
            Fault::CutAfter(bytes) => self.spoiled.cut_after = Some(bytes),
            Fault::HoldAt(offset, gate) => self.spoiled.hold = Some((offset, gate)),
            Fault::HoldHead(gate) => self.spoiled.hold_head = Some(gate),
            Fault::Flip(offset) => self.spoiled.flip = Some(offset),
            Fault::LengthOff(by) => self.spoiled.length_off = by,
            Fault::Extra(bytes) => self.spoiled.extra = bytes,
            Fault::Chunked => self.spoiled.framing = Framing::Chunked,
            Fault::UntilClose => self.spoiled.framing = Framing::UntilClose,
            Fault::Rate(bytes) => self.spoiled.rate = Some(bytes),
            Fault::Partial => {
                let range = self.range.clone();
                return self.part(range);
            }
            Fault::ShiftRange(by) if self.status == 206 => {
                let range = self.range.start + by..self.range.end;
                return self.part(range);
            }
            Fault::ShiftRange(_)
            | Fault::Status(_)
            | Fault::Instead(..)
            | Fault::IgnoreRange
            | Fault::Redirect(_)
            | Fault::Hangup
            | Fault::Unread
            | Fault::TakeUpTo(..)
            | Fault::TakeRate(_)
            | Fault::DieAt(_) => {}
        }
        self
    }

    /// Writes the answer; whether the connection can be used again.
    pub(super) async fn write(
        self,
        to: &mut (impl AsyncWrite + Unpin),
        head_only: bool,
    ) -> io::Result<bool> {
        if let Some(gate) = &self.spoiled.hold_head {
            gate.pass().await;
        }
        to.write_all(self.head().as_bytes()).await?;
        if head_only || self.status == 304 {
            return Ok(true);
        }
        let whole = self.write_body(to).await?;
        if whole && self.spoiled.framing == Framing::Chunked {
            to.write_all(b"0\r\n\r\n").await?;
        }
        Ok(whole && self.spoiled.framing != Framing::UntilClose && self.spoiled.length_off == 0)
    }

    fn head(&self) -> String {
        let length = self.range.end - self.range.start + self.spoiled.extra;
        let claimed = length.saturating_add_signed(self.spoiled.length_off);
        let framing = match self.spoiled.framing {
            Framing::Length => format!("Content-Length: {claimed}"),
            Framing::Chunked => "Transfer-Encoding: chunked".to_owned(),
            Framing::UntilClose => "Connection: close".to_owned(),
        };
        let status = format!("HTTP/1.1 {} Scripted", self.status);
        let headers = self.headers.iter().map(|(name, value)| format!("{name}: {value}"));
        let lines: Vec<String> = [status].into_iter().chain(headers).chain([framing]).collect();
        lines.join("\r\n") + "\r\n\r\n"
    }

    /// Whether the body got to its end.
    async fn write_body(&self, to: &mut (impl AsyncWrite + Unpin)) -> io::Result<bool> {
        let mut at = self.range.start;
        let end = self.range.end;
        let stop = self.spoiled.cut_after.map_or(end, |bytes| end.min(at + bytes));
        while at < stop {
            if let Some((_, gate)) = self.spoiled.hold.as_ref().filter(|(offset, _)| *offset == at)
            {
                to.flush().await?;
                gate.pass().await;
            }
            let piece = self.spoiled.piece(&self.content, at..stop);
            self.write_piece(to, &piece).await?;
            at += piece.len() as u64;
        }
        let cut = self.spoiled.cut_after.is_some_and(|bytes| bytes <= end - self.range.start);
        if !cut && self.spoiled.extra > 0 {
            self.write_piece(to, &vec![b'x'; usize::try_from(self.spoiled.extra).expect("small")])
                .await?;
        }
        Ok(!cut)
    }

    async fn write_piece(
        &self,
        to: &mut (impl AsyncWrite + Unpin),
        piece: &[u8],
    ) -> io::Result<()> {
        if self.spoiled.framing == Framing::Chunked {
            to.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await?;
            to.write_all(piece).await?;
            to.write_all(b"\r\n").await?;
        } else {
            to.write_all(piece).await?;
        }
        if let Some(rate) = self.spoiled.rate {
            let nanos = piece.len() as u64 * 1_000_000_000 / rate;
            tokio::time::sleep(Duration::from_nanos(nanos)).await;
        }
        Ok(())
    }
}

impl Spoiled {
    fn not() -> Self {
        Self {
            framing: Framing::Length,
            length_off: 0,
            cut_after: None,
            hold_head: None,
            hold: None,
            flip: None,
            extra: 0,
            rate: None,
        }
    }

    /// The next bytes of `range`: up to the held offset, with the flipped byte.
    fn piece(&self, content: &Content, range: Range<u64>) -> Bytes {
        let held =
            self.hold.as_ref().map(|(offset, _)| *offset).filter(|offset| range.contains(offset));
        let end = held.filter(|offset| *offset > range.start).unwrap_or(range.end);
        let piece = content.piece(range.start..end);
        let spot = self
            .flip
            .and_then(|flip| flip.checked_sub(range.start))
            .and_then(|spot| usize::try_from(spot).ok());
        match spot.filter(|spot| *spot < piece.len()) {
            None => piece,
            Some(spot) => {
                let mut wrong = piece.to_vec();
                wrong[spot] ^= 0xff;
                wrong.into()
            }
        }
    }
}
