//! Tags and referrers: passed through, page by page.

use super::memory::Subject;
use super::{Error, PullThrough};
use crate::oci::{CanonicalName, Digest, PageQuery};
use crate::upstream::Page;

impl PullThrough {
    /// One page of tags, as upstream gives it.
    ///
    /// # Errors
    /// What upstream says; see [`Error`].
    pub async fn tags(&self, name: &CanonicalName, page: &PageQuery) -> Result<Page, Error> {
        self.absent_before(&Subject::Tags, name, Error::NameUnknown)?;
        let upstream = self.0.upstream(name)?;
        let answer = upstream.list_tags(&name.repository, page, self.0.limits.flight_head).await;
        self.0.membership.settle(name, Subject::Tags, answer, Error::NameUnknown).await
    }

    /// One page of referrers. That upstream has none to tell is remembered, because most pulls ask (REF-5).
    ///
    /// # Errors
    /// [`Error::NoReferrers`] on 404, which says nothing about the repository (REF-4); else what upstream says.
    pub async fn referrers(&self, name: &CanonicalName, digest: &Digest, page: &PageQuery) -> Result<Page, Error> {
        let subject = Subject::Referrers(digest.clone());
        self.absent_before(&subject, name, Error::NoReferrers)?;
        let patience = self.0.limits.flight_head;
        let answer = self.0.upstream(name)?.referrers(&name.repository, digest, page, patience).await;
        self.0.membership.settle(name, subject, answer, Error::NoReferrers).await
    }
}
