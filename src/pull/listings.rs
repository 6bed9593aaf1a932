//! The story of a list: passed through, page by page. A page that upstream has given stands in when
//! it fails, for as long as a tag would (LIST-1).

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::core::PullThrough;
use super::error::{Error, Missing};
use super::facts::freshness;
use super::facts::lists::{GivenPage, PageKey};
use super::facts::subject::Subject;
use super::outcome::Outcome;
use crate::clock::Timestamp;
use crate::oci::{CanonicalName, PageQuery};
use crate::upstream::{FailureClass, Page};

const NO_TAGS: Bytes = Bytes::from_static(b"[]");

/// One page of the tags of a repository.
#[derive(Clone, Debug)]
pub struct TagPage {
    /// As upstream wrote them: an array of strings, in JSON. There may be a million.
    pub tags: Bytes,
    /// The query of the next page, if there is one (TAG-3).
    pub next: Option<String>,
    pub outcome: Outcome,
}

/// A page of a list, from upstream or from what it gave before.
pub(super) struct ListAnswer {
    pub(super) page: Page,
    pub(super) outcome: Outcome,
}

/// What is read of upstream's list; `null` counts as no tags (TAG-1).
#[derive(Deserialize)]
struct TagDocument<'a> {
    #[serde(borrow)]
    tags: Option<&'a RawValue>,
}

/// A string that is not kept: a list of them takes no memory.
#[derive(Deserialize)]
#[serde(from = "String")]
struct AnyTag;

impl From<String> for AnyTag {
    fn from(_: String) -> Self {
        Self
    }
}

impl PullThrough {
    /// One page of tags, as upstream gives it; no page is followed on the client's behalf (TAG-4).
    ///
    /// # Errors
    /// What upstream says; see [`Error`].
    pub async fn tags(
        &self,
        name: &CanonicalName,
        page: &PageQuery,
        deadline: Instant,
    ) -> Result<TagPage, Error> {
        self.check_negative_cache(&Subject::Tags, name, Missing::Repository)?;
        if self.0.sources.is_sealed(name) {
            return self.kept_tags(name, page).await;
        }
        let key = PageKey { name: name.clone(), subject: Subject::Tags, page: page.clone() };
        let (sent_at, deadline) = (self.0.clock.now(), self.list_deadline(&key, false, deadline));
        let upstream =
            self.0.sources.ask(name, Missing::Repository, &self.1.interest(), deadline).await?;
        let answer = upstream.list_tags(&name.repository, page, deadline).await;
        let settled = self.0.membership.settle(name, Subject::Tags, answer, Missing::Repository);
        let listed = match settled.await {
            Ok(page) => match tags_in(&page) {
                Some(tags) => (tags, self.given(&key, page, sent_at)),
                None => return Err(Error::untrue(&name.upstream, "a tag list that is none")),
            },
            Err(error) => {
                let stale = self.stale_list(&key, error)?;
                (tags_in(&stale.page).unwrap_or(NO_TAGS), stale)
            }
        };
        let (tags, ListAnswer { page, outcome }) = listed;
        Ok(TagPage { tags, next: page.next, outcome })
    }

    /// By when upstream has to answer: soon, if something can stand in (DESIGN §14.2).
    pub(super) fn list_deadline(
        &self,
        key: &PageKey,
        stands_in: bool,
        deadline: Instant,
    ) -> Instant {
        let stands_in = stands_in || self.0.lists.get(key).is_some();
        let soon = Instant::now() + self.0.limits.revalidate;
        if stands_in { deadline.min(soon) } else { deadline }
    }

    /// Keeps a page that upstream has just given, unless the answer is older than a refusal.
    pub(super) fn given(&self, key: &PageKey, page: Page, asked: Timestamp) -> ListAnswer {
        if !self.0.writes.outdates(&key.subject, &key.name, asked) {
            // A copy: a large page holds its place until its bytes are dropped.
            let page = Page { bytes: Bytes::copy_from_slice(&page.bytes), ..page.clone() };
            self.0.lists.keep(key.clone(), GivenPage { page, asked });
        }
        ListAnswer { page, outcome: Outcome::Relay }
    }

    /// What upstream gave before, if its failure says nothing about the list.
    pub(super) fn stale_list(&self, key: &PageKey, error: Error) -> Result<ListAnswer, Error> {
        if matches!(error.class(), FailureClass::Absent | FailureClass::Refused) {
            self.0.lists.drop_list(key);
        }
        let (now, stale_if_error) = (self.0.clock.now(), self.0.settings.load().stale_if_error);
        let since = |given: &GivenPage| self.0.sources.stands_since(&key.name, given.asked);
        let given = self.0.lists.get(key).filter(|given| {
            error.may_serve_stale() && freshness::may_stand_in(since(given), stale_if_error, now)
        });
        let given = given.ok_or(error)?;
        Ok(ListAnswer { page: given.page, outcome: Outcome::Stale })
    }
}

/// The tags, if it is a list of them; a part of the page's own bytes.
fn tags_in(page: &Page) -> Option<Bytes> {
    let document: TagDocument<'_> = serde_json::from_slice(&page.bytes).ok()?;
    let Some(tags) = document.tags else { return Some(NO_TAGS) };
    serde_json::from_str::<Vec<AnyTag>>(tags.get()).ok()?;
    Some(page.bytes.slice_ref(tags.get().as_bytes()))
}
