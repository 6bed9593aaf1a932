//! Reads: what somebody has a right to, looked up in the time that there is.

use http::header::{IF_NONE_MATCH, IF_RANGE, RANGE};
use http::{HeaderMap, Method, StatusCode};

use tokio::time::Instant;

use super::error::Refusal;
use super::exchange::Notes;
use super::listing;
use super::respond::{self, Answer};
use super::service::{Service, header};
use crate::oci::{
    CanonicalName, Digest, Endpoint, ErrorCode, PageQuery, RangeRequest, Reference,
    if_range_matches, none_match,
};
use crate::pull::{self, BlobHead, Outcome, ReferrersSource, Want};
use crate::route::Route;

/// What a request is about, once its name is resolved and allowed.
pub(super) struct Asked<'a> {
    pub(super) route: Route,
    pub(super) name: CanonicalName,
    pub(super) method: &'a Method,
    pub(super) headers: &'a HeaderMap,
    /// Whoever may push is told what upstream has, not what we remember (UPL-12).
    pub(super) pushes: bool,
    /// By when the response headers have to leave.
    pub(super) deadline: Instant,
}

impl Service {
    /// Looks up what the asker has a right to, in the time that there is.
    pub(super) async fn granted(
        &self,
        asked: &Asked<'_>,
        endpoint: &Endpoint,
        notes: &mut Notes,
    ) -> Result<Answer, Refusal> {
        let looked_up = self.look_up(asked, endpoint, notes);
        let late = |_| Refusal::from(pull::Error::Late(self.limits.head));
        let mut answer =
            tokio::time::timeout_at(asked.deadline, looked_up).await.map_err(late)??;
        if let Some(ns) = asked.route.echo_ns() {
            respond::echo_namespace(answer.headers_mut(), ns);
        }
        Ok(answer)
    }

    async fn look_up(
        &self,
        asked: &Asked<'_>,
        endpoint: &Endpoint,
        notes: &mut Notes,
    ) -> Result<Answer, Refusal> {
        match endpoint {
            Endpoint::Blob { digest, .. } => self.blob(asked, digest, notes).await,
            Endpoint::Manifest { reference, .. } => self.manifest(asked, reference, notes).await,
            Endpoint::Tags { page, .. } => self.tags(asked, page, notes).await,
            Endpoint::Referrers { digest, page, .. } => {
                self.referrers(asked, digest, page, notes).await
            }
            Endpoint::Upload { .. } => Err(Refusal::read_only()),
            Endpoint::Ping | Endpoint::Catalog => Err(Refusal::unknown_name()),
        }
    }

    async fn blob(
        &self,
        asked: &Asked<'_>,
        digest: &Digest,
        notes: &mut Notes,
    ) -> Result<Answer, Refusal> {
        notes.digest = Some(digest.clone());
        let has_it =
            header(asked.headers, IF_NONE_MATCH).is_some_and(|tags| none_match(tags, digest));
        if asked.pushes && *asked.method == Method::HEAD {
            let size = self.pull.blob_upstream(&asked.name, digest).await?;
            return Ok(respond::blob_head(
                BlobHead { size, outcome: Outcome::Revalidated },
                digest,
            ));
        }
        if has_it || *asked.method == Method::HEAD {
            let head = self.pull.blob_head(&asked.name, digest).await?;
            notes.outcome = Some(("blob", head.outcome));
            return Ok(if has_it {
                respond::not_modified(digest)
            } else {
                respond::blob_head(head, digest)
            });
        }
        let range = range(asked.headers, digest)?;
        let answer = self.pull.blob(&asked.name, digest, range, asked.deadline).await?;
        notes.outcome = Some(("blob", answer.outcome));
        Ok(respond::blob(answer, digest))
    }

    async fn manifest(
        &self,
        asked: &Asked<'_>,
        reference: &Reference,
        notes: &mut Notes,
    ) -> Result<Answer, Refusal> {
        if let Reference::Tag(tag) = reference {
            notes.tag = Some(tag.clone());
        }
        let want = if *asked.method == Method::HEAD { Want::Head } else { Want::Body };
        let answer = self.pull.manifest(&asked.name, reference, want).await?;
        let kind = match reference {
            Reference::Digest(_) => "manifest",
            Reference::Tag(_) => "tag",
        };
        notes.outcome = Some((kind, answer.outcome));
        notes.digest = Some(answer.digest.clone());
        let has_it = header(asked.headers, IF_NONE_MATCH)
            .is_some_and(|tags| none_match(tags, &answer.digest));
        Ok(if has_it { respond::not_modified(&answer.digest) } else { respond::manifest(answer) })
    }

    async fn tags(
        &self,
        asked: &Asked<'_>,
        page: &PageQuery,
        notes: &mut Notes,
    ) -> Result<Answer, Refusal> {
        let answer = self.pull.tags(&asked.name, page, asked.deadline).await?;
        notes.outcome = Some(("tags", answer.outcome));
        Ok(listing::tags(&asked.route, answer))
    }

    async fn referrers(
        &self,
        asked: &Asked<'_>,
        digest: &Digest,
        page: &PageQuery,
        notes: &mut Notes,
    ) -> Result<Answer, Refusal> {
        notes.digest = Some(digest.clone());
        let referrers = self.pull.referrers(&asked.name, digest, page, asked.deadline).await?;
        let kind = match referrers.source {
            ReferrersSource::Api => "referrers",
            ReferrersSource::FallbackTag => "tag",
        };
        notes.outcome = Some((kind, referrers.outcome));
        Ok(listing::referrers(&asked.route, digest, referrers))
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
