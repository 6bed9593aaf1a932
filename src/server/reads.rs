//! Reads: what somebody has a right to, looked up in the time that there is.

use http::header::{IF_NONE_MATCH, IF_RANGE, RANGE};
use http::{HeaderMap, Method, StatusCode};

use super::error::Refusal;
use super::exchange::Notes;
use super::listing;
use super::request::{ReadRequest, header};
use super::respond::{self, Answer};
use super::service::Service;
use crate::oci::{
    Digest, Endpoint, ErrorCode, PageQuery, RangeRequest, Reference, if_range_matches, none_match,
};
use crate::pull::{self, BlobHead, Outcome, ReferrersSource, Want};

impl Service {
    /// Looks up what the asker has a right to, in the time that there is.
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
        notes.kind = kind(endpoint);
        match endpoint {
            Endpoint::Blob { digest, .. } => self.blob(read, digest, notes).await,
            Endpoint::Manifest { reference, .. } => self.manifest(read, reference, notes).await,
            Endpoint::Tags { page, .. } => self.tags(read, page, notes).await,
            Endpoint::Referrers { digest, page, .. } => {
                self.referrers(read, digest, page, notes).await
            }
            Endpoint::Upload { .. } => Err(Refusal::read_only()),
            Endpoint::Ping | Endpoint::Catalog => Err(Refusal::unknown_name()),
        }
    }

    async fn blob(
        &self,
        read: &ReadRequest<'_>,
        digest: &Digest,
        notes: &mut Notes,
    ) -> Result<Answer, Refusal> {
        notes.digest = Some(digest.clone());
        let has_it =
            header(read.headers, IF_NONE_MATCH).is_some_and(|tags| none_match(tags, digest));
        if read.pushes && *read.method == Method::HEAD {
            let size = self.pull.blob_upstream(&read.name, digest).await?;
            notes.outcome = Some(Outcome::Revalidated);
            return Ok(respond::blob_head(
                BlobHead { size, outcome: Outcome::Revalidated },
                digest,
            ));
        }
        if has_it || *read.method == Method::HEAD {
            let head = self.pull.blob_head(&read.name, digest).await?;
            notes.outcome = Some(head.outcome);
            return Ok(if has_it {
                respond::not_modified(digest)
            } else {
                respond::blob_head(head, digest)
            });
        }
        let range = range(read.headers, digest)?;
        let answer = self.pull.blob(&read.name, digest, range, read.deadline).await?;
        notes.outcome = Some(answer.outcome);
        Ok(respond::blob(answer, digest))
    }

    async fn manifest(
        &self,
        read: &ReadRequest<'_>,
        reference: &Reference,
        notes: &mut Notes,
    ) -> Result<Answer, Refusal> {
        if let Reference::Tag(tag) = reference {
            notes.tag = Some(tag.clone());
        }
        let want = if *read.method == Method::HEAD { Want::Head } else { Want::Body };
        let answer = self.pull.manifest(&read.name, reference, want).await?;
        notes.outcome = Some(answer.outcome);
        notes.digest = Some(answer.digest.clone());
        let has_it = header(read.headers, IF_NONE_MATCH)
            .is_some_and(|tags| none_match(tags, &answer.digest));
        Ok(if has_it { respond::not_modified(&answer.digest) } else { respond::manifest(answer) })
    }

    async fn tags(
        &self,
        read: &ReadRequest<'_>,
        page: &PageQuery,
        notes: &mut Notes,
    ) -> Result<Answer, Refusal> {
        let answer = self.pull.tags(&read.name, page, read.deadline).await?;
        notes.outcome = Some(answer.outcome);
        Ok(listing::tags(&read.route, answer))
    }

    async fn referrers(
        &self,
        read: &ReadRequest<'_>,
        digest: &Digest,
        page: &PageQuery,
        notes: &mut Notes,
    ) -> Result<Answer, Refusal> {
        notes.digest = Some(digest.clone());
        let referrers = self.pull.referrers(&read.name, digest, page, read.deadline).await?;
        if referrers.source == ReferrersSource::FallbackTag {
            notes.kind = Some("tag");
        }
        notes.outcome = Some(referrers.outcome);
        Ok(listing::referrers(&read.route, digest, referrers))
    }
}

/// What a read is about, as a label of metrics.
fn kind(endpoint: &Endpoint) -> Option<&'static str> {
    match endpoint {
        Endpoint::Blob { .. } => Some("blob"),
        Endpoint::Manifest { reference: Reference::Digest(_), .. } => Some("manifest"),
        Endpoint::Manifest { reference: Reference::Tag(_), .. } => Some("tag"),
        Endpoint::Tags { .. } => Some("tags"),
        Endpoint::Referrers { .. } => Some("referrers"),
        Endpoint::Upload { .. } | Endpoint::Ping | Endpoint::Catalog => None,
    }
}

/// The asked range. Under an `If-Range` that does not match, the whole is wanted (BLOB-6).
fn range(headers: &HeaderMap, digest: &Digest) -> Result<RangeRequest, Refusal> {
    if header(headers, IF_RANGE).is_some_and(|tag| !if_range_matches(tag, digest)) {
        return Ok(RangeRequest::None);
    }
    match RangeRequest::parse(header(headers, RANGE)) {
        RangeRequest::Multiple => {
            // Clients take it for "too many ranges" and fetch the whole (BLOB-5).
            let message = "one range at a time";
            Err(Refusal::new(StatusCode::BAD_REQUEST, ErrorCode::RangeInvalid, message))
        }
        range @ (RangeRequest::None | RangeRequest::One(_) | RangeRequest::Unsatisfiable) => {
            Ok(range)
        }
    }
}
