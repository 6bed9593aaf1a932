//! A client that sees what a registry client sees: headers, bytes, and whether the body came to its
//! end.

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use roadstead::oci::{Algorithm, Digest};

use super::soon;

/// An answer whose head has arrived; reading goes at the test's pace, and dropping it leaves.
#[derive(Debug)]
pub(crate) struct Reading {
    response: reqwest::Response,
    got: BytesMut,
    ended: Option<bool>,
}

impl Reading {
    pub(crate) fn new(response: reqwest::Response) -> Self {
        Self { response, got: BytesMut::new(), ended: None }
    }

    pub(crate) fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// Reads until `bytes` have arrived in all, or the body has ended; says how many there are.
    pub(crate) async fn read(&mut self, bytes: usize) -> usize {
        while self.ended.is_none() && self.got.len() < bytes {
            match soon("the next piece of a body", self.response.chunk()).await {
                Ok(Some(piece)) => self.got.extend_from_slice(&piece),
                Ok(None) => self.ended = Some(true),
                Err(_) => self.ended = Some(false),
            }
        }
        self.got.len()
    }

    /// What has been read.
    pub(crate) fn so_far(&self) -> &[u8] {
        &self.got
    }

    /// Reads to the end.
    pub(crate) async fn finish(mut self) -> Answer {
        self.read(usize::MAX).await;
        Answer {
            status: self.status(),
            headers: self.response.headers().clone(),
            body: self.got.freeze(),
            complete: self.ended == Some(true),
        }
    }
}

/// An answer that was read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Whether the body was as long as its framing said; `false` if the connection was cut.
    pub(crate) complete: bool,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("our headers are text"))
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is text")
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {:?}", self.body))
    }

    /// The code in the error document.
    pub(crate) fn code(&self) -> String {
        assert_eq!(
            self.header("content-type"),
            Some("application/json"),
            "dockerd reads no other type"
        );
        self.json()["errors"][0]["code"].as_str().expect("an error document has a code").to_owned()
    }

    /// The sentence in the error document.
    pub(crate) fn message(&self) -> String {
        let document = self.json();
        document["errors"][0]["message"].as_str().expect("an error has a message").to_owned()
    }

    /// The status and the code in the error document.
    pub(crate) fn refusal(&self) -> (u16, String) {
        (self.status, self.code())
    }

    /// The digest of the bytes that came.
    pub(crate) fn digest(&self) -> Digest {
        Digest::of(Algorithm::Sha256, &self.body)
    }
}
