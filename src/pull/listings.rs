//! Tags and referrers: passed through, page by page.

use super::memory::Subject;
use super::{Error, PullThrough};
use crate::oci::{CanonicalName, Digest, PageQuery};
use crate::upstream::{self, Page};

impl PullThrough {
    /// One page of tags, as upstream gives it.
    ///
    /// # Errors
    /// What upstream says; see [`Error`].
    pub async fn tags(&self, name: &CanonicalName, page: &PageQuery) -> Result<Page, Error> {
        self.absent_before(&Subject::Tags, name, Error::NameUnknown)?;
        let upstream = self.0.upstream(name)?;
        let answer = upstream.list_tags(&name.repository, page.text().as_deref(), self.0.limits.flight_head).await;
        self.settle_page(name, Subject::Tags, answer, Error::NameUnknown).await
    }

    /// One page of referrers. That upstream has none to tell is remembered, because most pulls ask (REF-5).
    ///
    /// # Errors
    /// [`Error::NoReferrers`] on 404, which says nothing about the repository (REF-4); else what upstream says.
    pub async fn referrers(&self, name: &CanonicalName, digest: &Digest, page: &PageQuery) -> Result<Page, Error> {
        let subject = Subject::Referrers(digest.clone());
        self.absent_before(&subject, name, Error::NoReferrers)?;
        let patience = self.0.limits.flight_head;
        let answer = self.0.upstream(name)?.referrers(&name.repository, digest, page.text().as_deref(), patience).await;
        self.settle_page(name, subject, answer, Error::NoReferrers).await
    }

    async fn settle_page(
        &self,
        name: &CanonicalName,
        subject: Subject,
        answer: Result<Page, upstream::Error>,
        absent: Error,
    ) -> Result<Page, Error> {
        match answer {
            Ok(page) => Ok(page),
            Err(error) => {
                let error = Error::from_upstream(error, absent);
                self.0.membership.withdraw(name, subject, &error).await;
                Err(error)
            }
        }
    }
}
