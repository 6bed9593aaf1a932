//! Reads: what the caller has a right to is looked up in the cache and upstream, within the time
//! that is left until the response headers have to leave.

use http::header::{IF_NONE_MATCH, IF_RANGE, RANGE};
use http::{HeaderMap, Method, StatusCode};

use super::error::Refusal;
use super::listing;
use super::notes::Notes;
use super::request::{ReadRequest, header_text};
use super::respond::{self, Answer};
use super::service::Service;
use crate::oci::{
    Digest, Endpoint, ErrorCode, PageQuery, RangeRequest, Reference, if_range_matches, none_match,
};
use crate::pull::{self, BlobHead, Outcome, ReferrersSource, Want};

impl Service {
    /// Answers a read that is allowed, at the latest at its deadline (DESIGN §14.8).
    pub(super) async fn serve_read(
        &self,
        read: &ReadRequest<'_>,
        endpoint: &Endpoint,
        notes: &mut Notes,
    ) -> Result<Answer, Refusal> {
        let looked_up = self.look_up(read, endpoint, notes);
        let late = |_| Refusal::from(pull::Error::Late(self.limits.head));
        let mut answer =
            tokio::time::timeout_at(read.deadline, looked_up).await.map_err(late)??;
        if let Some(ns) = read.route.echo_ns() {
            respond::echo_namespace(answer.headers_mut(), ns);
        }
        Ok(answer)
    }

    async fn look_up(
        &self,
        read: &ReadRequest<'_>,
        endpoint: &Endpoint,
        notes: &mut Notes,
    ) -> Result<Answer, Refusal> {
        notes.kind = kind_label(endpoint);
        match endpoint {
            Endpoint::Blob { digest, .. } => self.read_blob(read, digest, notes).await,
            Endpoint::Manifest { reference, .. } => {
                self.read_manifest(read, reference, notes).await
            }
            Endpoint::Tags { page, .. } => self.list_tags(read, page, notes).await,
            Endpoint::Referrers { digest, page, .. } => {
                Box::pin(self.list_referrers(read, digest, page, notes)).await
            }
            Endpoint::Upload { .. } => Err(Refusal::read_only()),
            Endpoint::Ping | Endpoint::Catalog => Err(Refusal::unknown_name()),
        }
    }

    async fn read_blob(
        &self,
        read: &ReadRequest<'_>,
        digest: &Digest,
        notes: &mut Notes,
    ) -> Result<Answer, Refusal> {
        notes.digest = Some(digest.clone());
        let client_has_it = client_has(read.headers, digest);
        // Where nothing can be pushed, it is told what can be pulled.
        let pushes = read.may_push && !self.pull.is_sealed(&read.name);
        if pushes && *read.method == Method::HEAD {
            let size = self.pull.asked_by(read.asker).blob_upstream(&read.name, digest).await?;
            notes.outcome = Some(Outcome::Revalidated);
            return Ok(respond::blob_head(
                BlobHead { size, outcome: Outcome::Revalidated },
                digest,
            ));
        }
        if client_has_it || *read.method == Method::HEAD {
            let head = self.pull.asked_by(read.asker).blob_head(&read.name, digest).await?;
            notes.outcome = Some(head.outcome);
            return Ok(if client_has_it {
                respond::not_modified(digest)
            } else {
                respond::blob_head(head, digest)
            });
        }
        let range = requested_range(read.headers, digest)?;
        let answer =
            self.pull.asked_by(read.asker).blob(&read.name, digest, range, read.deadline).await?;
        notes.outcome = Some(answer.outcome);
        Ok(respond::blob(answer, digest))
    }

    async fn read_manifest(
        &self,
        read: &ReadRequest<'_>,
        reference: &Reference,
        notes: &mut Notes,
    ) -> Result<Answer, Refusal> {
        if let Reference::Tag(tag) = reference {
            notes.tag = Some(tag.clone());
        }
        let want = if *read.method == Method::HEAD { Want::Head } else { Want::Body };
        let answer = self.pull.asked_by(read.asker).manifest(&read.name, reference, want).await?;
        notes.outcome = Some(answer.outcome);
        notes.digest = Some(answer.digest.clone());
        Ok(if client_has(read.headers, &answer.digest) {
            respond::not_modified(&answer.digest)
        } else {
            respond::manifest(answer)
        })
    }

    async fn list_tags(
        &self,
        read: &ReadRequest<'_>,
        page: &PageQuery,
        notes: &mut Notes,
    ) -> Result<Answer, Refusal> {
        let answer = self.pull.asked_by(read.asker).tags(&read.name, page, read.deadline).await?;
        notes.outcome = Some(answer.outcome);
        Ok(listing::tags(&read.route, answer))
    }

    async fn list_referrers(
        &self,
        read: &ReadRequest<'_>,
        digest: &Digest,
        page: &PageQuery,
        notes: &mut Notes,
    ) -> Result<Answer, Refusal> {
        notes.digest = Some(digest.clone());
        let listed =
            self.pull.asked_by(read.asker).referrers(&read.name, digest, page, read.deadline).await;
        let referrers = listed.map_err(listing::referrers_failed)?;
        if referrers.source == ReferrersSource::FallbackTag {
            notes.kind = Some("tag");
        }
        notes.outcome = Some(referrers.outcome);
        Ok(listing::referrers(&read.route, digest, referrers))
    }
}

/// Whether `If-None-Match` says that the client has the content already (MAN-7).
fn client_has(headers: &HeaderMap, digest: &Digest) -> bool {
    header_text(headers, IF_NONE_MATCH).is_some_and(|tags| none_match(tags, digest))
}

/// What a read is about, as a label of metrics.
fn kind_label(endpoint: &Endpoint) -> Option<&'static str> {
    match endpoint {
        Endpoint::Blob { .. } => Some("blob"),
        Endpoint::Manifest { reference: Reference::Digest(_), .. } => Some("manifest"),
        Endpoint::Manifest { reference: Reference::Tag(_), .. } => Some("tag"),
        Endpoint::Tags { .. } => Some("tags"),
        Endpoint::Referrers { .. } => Some("referrers"),
        Endpoint::Upload { .. } | Endpoint::Ping | Endpoint::Catalog => None,
    }
}

/// The range that the client asks for. Under an `If-Range` that does not match, the whole is wanted
/// (BLOB-6).
///
/// # Errors
/// 400 for several ranges.
fn requested_range(headers: &HeaderMap, digest: &Digest) -> Result<RangeRequest, Refusal> {
    if header_text(headers, IF_RANGE).is_some_and(|tag| !if_range_matches(tag, digest)) {
        return Ok(RangeRequest::None);
    }
    match RangeRequest::parse(header_text(headers, RANGE)) {
        RangeRequest::Multiple => {
            // podman and CRI-O ask for several in partial pulls of zstd:chunked layers. They take a
            // 400 for "too many ranges" and fetch the whole (BLOB-5).
            let message = "one range at a time";
            Err(Refusal::new(StatusCode::BAD_REQUEST, ErrorCode::RangeInvalid, message))
        }
        range @ (RangeRequest::None | RangeRequest::One(_) | RangeRequest::Unsatisfiable) => {
            Ok(range)
        }
    }
}
