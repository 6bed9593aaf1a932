//! What is attached to a manifest: what the referrers API lists, or the tag that stands in for it,
//! and the tags that cosign gives to signatures, attestations and SBOMs.

use tokio::time::Instant;

use super::fetching::WarmTools;
use super::parts::Role;
use super::patience::Patience;
use super::report::MissingPart;
use crate::oci::{
    CanonicalName, Digest, Manifest, MediaType, OCI_INDEX, PageQuery, Reference, Tag,
};
use crate::pull::{Error, ReferrersSource};
use crate::upstream::FailureClass;

/// What cosign puts behind the name of a digest.
const COSIGN_TAGS: [&str; 3] = ["sig", "att", "sbom"];

/// Pages of one list of referrers.
const PAGES_MAX: usize = 100;

pub(super) struct Attached<'a> {
    pub(super) tools: &'a WarmTools,
    pub(super) name: &'a CanonicalName,
}

#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) awaited: Vec<(Reference, Role)>,
    pub(super) missing: Vec<MissingPart>,
}

impl Attached<'_> {
    /// Everything that is attached to `subject`.
    pub(super) async fn to(&self, subject: &Digest) -> Found {
        let mut found = Found::default();
        match self.patient_referrers(subject).await {
            Ok(referrers) => found.awaited = referrers,
            Err(error) if error.class() == FailureClass::Absent => {}
            Err(error) => {
                found.missing.push(MissingPart::of(format!("referrers of {subject}"), &error));
            }
        }
        let tags = COSIGN_TAGS.map(|end| format!("{}.{end}", subject.as_str().replace(':', "-")));
        let tags = tags.iter().filter_map(|tag| Tag::parse(tag).ok());
        found.awaited.extend(tags.map(|tag| (Reference::Tag(tag), Role::MayBe)));
        found
    }

    async fn patient_referrers(&self, subject: &Digest) -> Result<Vec<(Reference, Role)>, Error> {
        let mut patience = Patience::default();
        loop {
            match self.referrers(subject).await {
                Err(error) => self.tools.pause(&mut patience, self.name, error).await?,
                listed => return listed,
            }
        }
    }

    async fn referrers(&self, subject: &Digest) -> Result<Vec<(Reference, Role)>, Error> {
        let mut awaited = Vec::new();
        let mut query = PageQuery::default();
        for _ in 0..PAGES_MAX {
            let deadline = Instant::now() + self.tools.limits.head;
            let page = self.tools.pull.referrers(self.name, subject, &query, deadline).await?;
            let listed = self.listed(&page.index)?;
            if page.source == ReferrersSource::FallbackTag && !listed.is_empty() {
                // Clients that do not find the API look for it.
                awaited.push((Reference::Tag(Tag::of_referrers(subject)), Role::MayBe));
            }
            awaited.extend(listed.into_iter().map(|at| (Reference::Digest(at), Role::Attached)));
            let Some(next) = page.next else { return Ok(awaited) };
            query = PageQuery::parse(Some(&next)).map_err(|error| self.untrue(&error))?;
        }
        Err(self.untrue(&format!("more than {PAGES_MAX} pages of referrers")))
    }

    fn listed(&self, index: &[u8]) -> Result<Vec<Digest>, Error> {
        let media_type = MediaType::parse(OCI_INDEX).ok_or(Error::Abandoned)?;
        let list = Manifest::inspect(index, &media_type).map_err(|error| self.untrue(&error))?;
        Ok(list.descriptors().iter().map(|entry| entry.digest.clone()).collect())
    }

    fn untrue(&self, what: &dyn std::fmt::Display) -> Error {
        Error::Untrue { upstream: self.name.upstream.clone(), reason: what.to_string().into() }
    }
}
