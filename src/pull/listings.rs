//! The story of a list: passed through, page by page. A page that upstream has given stands in when
//! it fails, for as long as a tag would (LIST-1).

use serde::Deserialize;
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

/// One page of the tags of a repository.
#[derive(Clone, Debug)]
pub struct TagPage {
    /// As upstream wrote them.
    pub tags: Vec<String>,
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
struct TagDocument {
    tags: Option<Vec<String>>,
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
        let key = PageKey { name: name.clone(), subject: Subject::Tags, page: page.clone() };
        let (sent_at, deadline) = (self.0.clock.now(), self.list_deadline(&key, false, deadline));
        let upstream = self.0.sources.upstream(name)?;
        let answer = upstream.list_tags(&name.repository, page, deadline).await;
        let settled = self.0.membership.settle(name, Subject::Tags, answer, Missing::Repository);
        let listed = match settled.await {
            Ok(page) if tags_in(&page).is_some() => self.given(&key, page, sent_at),
            Ok(_) => return Err(Error::untrue(&name.upstream, "a tag list that is none")),
            Err(error) => self.stale_list(&key, error)?,
        };
        let ListAnswer { page, outcome } = listed;
        Ok(TagPage { tags: tags_in(&page).unwrap_or_default(), next: page.next, outcome })
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
            self.0.lists.keep(key.clone(), GivenPage { page: page.clone(), asked });
        }
        ListAnswer { page, outcome: Outcome::Relay }
    }

    /// What upstream gave before, if its failure says nothing about the list.
    pub(super) fn stale_list(&self, key: &PageKey, error: Error) -> Result<ListAnswer, Error> {
        if matches!(error.class(), FailureClass::Absent | FailureClass::Refused) {
            self.0.lists.drop_list(key);
        }
        let (now, stale_if_error) = (self.0.clock.now(), self.0.settings.load().stale_if_error);
        let given = self.0.lists.get(key).filter(|given| {
            error.may_serve_stale() && freshness::may_stand_in(given.asked, stale_if_error, now)
        });
        let given = given.ok_or(error)?;
        Ok(ListAnswer { page: given.page, outcome: Outcome::Stale })
    }
}

fn tags_in(page: &Page) -> Option<Vec<String>> {
    let document: TagDocument = serde_json::from_slice(&page.bytes).ok()?;
    Some(document.tags.unwrap_or_default())
}
