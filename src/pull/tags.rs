//! The story of a tag: `facts::freshness` decides by what is known of it whether it is served,
//! checked with upstream, or looked up there.
//!
//! containerd and dockerd send HEAD by tag, then GET by digest. So a HEAD alone has to be answered
//! without fetching the manifest, and the GET that follows must not cost a second HEAD.

use std::sync::Arc;

use tokio::time::Instant;

use super::answers::{ManifestAnswer, Want, head_answer};
use super::core::{PullCore, PullThrough, TagHeadKey};
use super::error::{Error, Missing};
use super::facts::freshness::{self, Decision, Known, Named, TagLife};
use super::facts::provisional::{CheckedTag, Provisional};
use super::facts::subject::Subject;
use super::interest::Interest;
use super::outcome::Outcome;
use super::single_flight::Unwanted;
use crate::clock::Timestamp;
use crate::oci::{CanonicalName, Digest, Reference, Tag};
use crate::store::TagRecord;
use crate::upstream::{self, FailureClass, ManifestHead};

/// The tag that a client wants.
#[derive(Clone, Copy)]
struct TagQuery<'a> {
    name: &'a CanonicalName,
    tag: &'a Tag,
    want: Want,
    /// When the HEAD was sent whose answer was known as this request decided to ask. If another is
    /// known later, somebody else has asked meanwhile.
    known_head: Option<Timestamp>,
    /// Where the tag is known to have led, if that may stand in.
    old: Option<&'a Digest>,
}

impl PullThrough {
    pub(super) async fn manifest_by_tag(
        &self,
        name: &CanonicalName,
        tag: &Tag,
        want: Want,
    ) -> Result<ManifestAnswer, Error> {
        let durable = match self.0.store.records().tag(name, tag).await {
            Ok(record) => {
                record.map(|record| Known { digest: record.digest, checked: record.checked })
            }
            Err(error) => {
                tracing::warn!(%error, "cannot read the record of a tag; asking upstream");
                None
            }
        };
        let provisional = self.0.provisional.get(name, tag);
        let provisional =
            provisional.map(|Provisional { known, held_since, .. }| Named { known, held_since });
        let known_head = provisional.as_ref().map(|named| named.known.checked);
        let query = TagQuery { name, tag, want, known_head, old: None };
        let life = {
            let settings = self.0.settings.load();
            TagLife { ttl: settings.tag_ttl, stale_if_error: settings.stale_if_error }
        };
        let is_recorded = durable.is_some();
        match freshness::decide(durable, provisional, life, self.0.clock.now()) {
            Decision::Serve(digest) if is_recorded => self.serve_tag(query, &digest).await,
            Decision::Serve(digest) => {
                // It was recorded, and has been purged since: it is again, with its bytes.
                self.0.provisional.list_again(name, tag);
                let answer = self.serve_tag(query, &digest).await?;
                if want == Want::Body {
                    self.0.make_durable(name, &digest).await;
                }
                Ok(answer)
            }
            Decision::Revalidate(old) => self.renew_tag(query, &old, None).await,
            Decision::Move { old, new } => self.renew_tag(query, &old, Some(new)).await,
            Decision::StandIn { old, new } => match self.serve_stale(query, &old).await {
                Ok(answer) => Ok(answer),
                // Without the bytes nothing stands in.
                Err(_) => self.renew_tag(query, &old, Some(new)).await,
            },
            Decision::Fetch => self.resolve_tag(query, self.0.shared_deadline()).await,
        }
    }

    /// Serves a fresh tag, from the stored bytes, or from what a HEAD said about them.
    async fn serve_tag(
        &self,
        query: TagQuery<'_>,
        digest: &Digest,
    ) -> Result<ManifestAnswer, Error> {
        let TagQuery { name, tag, want, .. } = query;
        let head = self.0.provisional.get(name, tag).filter(|head| head.known.digest == *digest);
        // Another HEAD before anybody has fetched the manifest: the answer to the first one is
        // enough.
        if let (Want::Head, Some(head)) = (want, head)
            && self.0.stored_manifest(name, digest).await.is_none()
        {
            let head = ManifestHead { digest: None, media_type: head.media_type, size: head.size };
            if let Some(answer) = head_answer(digest.clone(), head, Outcome::Fresh) {
                return Ok(answer);
            }
        }
        match self.manifest_by_digest(name, digest, want).await {
            // The tag has moved within its time to live, and its old manifest is neither stored
            // here nor at upstream any more. Without this the tag would be a 404 until that time is
            // over.
            Err(error) if error.is_absent(Missing::Manifest) => {
                self.resolve_tag(query, self.0.shared_deadline()).await
            }
            answer => answer.map(|answer| answer.with(Outcome::Fresh)),
        }
    }

    /// Asks upstream where the tag leads now, unless a HEAD has just named `new`, and follows it
    /// there; what is known stands in if that cannot be had.
    async fn renew_tag(
        &self,
        query: TagQuery<'_>,
        old: &Known,
        new: Option<Known>,
    ) -> Result<ManifestAnswer, Error> {
        let query = TagQuery { old: Some(&old.digest), ..query };
        let TagQuery { name, tag, .. } = query;
        // One limit for the HEAD and the GET that may follow from it: a client should not wait long
        // for a slow upstream when an answer is at hand.
        let limit = self.0.limits.revalidate;
        let deadline = Instant::now() + limit;
        let renewed =
            tokio::time::timeout_at(deadline, self.follow_tag(query, new, deadline)).await;
        let error = match renewed.unwrap_or(Err(Error::Late(limit))) {
            Ok(answer) if answer.digest == old.digest => {
                return Ok(answer.with(Outcome::Revalidated));
            }
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let stale_if_error = self.0.settings.load().stale_if_error;
        let now = self.0.clock.now();
        let checked = self.0.sources.stands_since(name, old.checked);
        if !error.may_serve_stale() || !freshness::may_stand_in(checked, stale_if_error, now) {
            return Err(error);
        }
        tracing::debug!(%error, image = %name, %tag,
            "serving a tag although upstream does not confirm it");
        self.0.provisional.hold(name, tag, now);
        // Without the bytes nothing can stand in, and upstream's failure is the answer.
        self.serve_stale(query, old).await.map_err(|_| error)
    }

    /// What the tag led to when it was last confirmed.
    async fn serve_stale(&self, query: TagQuery<'_>, old: &Known) -> Result<ManifestAnswer, Error> {
        let stale = self.manifest_by_digest(query.name, &old.digest, query.want).await?;
        Ok(stale.with(Outcome::Stale))
    }

    /// To `new`, or if that is gone, or not known, to where upstream says now.
    async fn follow_tag(
        &self,
        query: TagQuery<'_>,
        new: Option<Known>,
        deadline: Instant,
    ) -> Result<ManifestAnswer, Error> {
        let Some(new) = new else { return self.resolve_tag(query, deadline).await };
        match self.manifest_named(query, new).await {
            Err(error) if error.is_absent(Missing::Manifest) => {
                self.resolve_tag(query, deadline).await
            }
            answer => answer,
        }
    }

    /// HEAD, then GET by the digest that it names; GET by tag only where HEAD names none. Docker
    /// Hub counts GETs against its limit and HEADs not (PROTOCOL §3.10).
    async fn resolve_tag(
        &self,
        query: TagQuery<'_>,
        deadline: Instant,
    ) -> Result<ManifestAnswer, Error> {
        let TagQuery { name, tag, want, .. } = query;
        // No earlier than the question.
        let asked_at = self.0.clock.now();
        let head = self.head_tag(query, deadline).await?;
        let Some(digest) = head.digest.clone() else {
            let answer = self.fetch_manifest(name, &Reference::Tag(tag.clone())).await?;
            let named = Known { digest: answer.digest.clone(), checked: asked_at };
            return self.manifest_named(query, named).await;
        };
        // A tag that moves is not named by a digest whose bytes may not be had.
        let moves = query.old.is_some_and(|old| *old != digest);
        if want == Want::Head
            && !moves
            && self.0.stored_manifest(name, &digest).await.is_none()
            && let Some(answer) = head_answer(digest.clone(), head, Outcome::Miss)
        {
            return Ok(answer);
        }
        self.manifest_named(query, Known { digest, checked: asked_at }).await
    }

    /// The manifest that the tag leads to by upstream's word.
    async fn manifest_named(
        &self,
        query: TagQuery<'_>,
        named: Known,
    ) -> Result<ManifestAnswer, Error> {
        let TagQuery { name, tag, want, old, .. } = query;
        if let Some(old) = old.filter(|old| **old != named.digest) {
            return self.move_tag(name, tag, old, named).await;
        }
        let answer = self.manifest_by_digest(name, &named.digest, want).await?;
        // The bytes may have been stored before, so that nothing else has made the tag durable.
        self.0.make_durable(name, &named.digest).await;
        Ok(answer.with(Outcome::Miss))
    }

    /// One HEAD by tag for everybody who asks at the same time.
    async fn head_tag(
        &self,
        query: TagQuery<'_>,
        deadline: Instant,
    ) -> Result<ManifestHead, Error> {
        let (core, known_head) = (Arc::clone(&self.0), query.known_head);
        // Where something stands in nobody waits for long, and the next one takes what was found.
        let unwanted = query.old.map_or(Unwanted::Cancelled, |_| Unwanted::Finished);
        let (name, tag) = (query.name.clone(), query.tag.clone());
        let epoch = self.0.writes.epoch(&Subject::Tags, &name);
        let key = TagHeadKey { name: name.clone(), tag: tag.clone(), epoch };
        let head = self.0.tag_heads.run(key, &self.1, unwanted, |interest| async move {
            // A run may have ended after this caller decided to ask and before it came here. Its
            // answer is as good as a second HEAD.
            let newer = core.provisional.get(&name, &tag);
            let newer = newer.filter(|head| Some(head.known.checked) != known_head);
            if let Some(Provisional { known, media_type, size, .. }) = newer {
                return Ok(ManifestHead { digest: Some(known.digest), media_type, size });
            }
            core.ask_for_tag((&name, &tag), &interest, deadline).await
        });
        head.await.unwrap_or(Err(Error::Abandoned))
    }
}

impl PullCore {
    /// By when upstream has to have answered a question that several requests may share.
    fn shared_deadline(&self) -> Instant {
        Instant::now() + self.limits.shared_question()
    }

    async fn ask_for_tag(
        &self,
        (name, tag): (&CanonicalName, &Tag),
        interest: &Interest,
        deadline: Instant,
    ) -> Result<ManifestHead, Error> {
        // Before the question: a write that happens while it is under way must win.
        let sent_at = self.clock.now();
        let reference = Reference::Tag(tag.clone());
        let upstream = self.sources.ask(name, Missing::Manifest, interest, deadline).await?;
        let head = match self.store.records().tag(name, tag).await {
            Ok(Some(_)) => {
                upstream.head_known_manifest(&name.repository, &reference, deadline).await
            }
            Ok(None) | Err(_) => {
                upstream.head_manifest(&name.repository, &reference, deadline).await
            }
        };
        let head = self.settle_tag(name, tag, head).await?;
        if let Some(digest) = &head.digest {
            let known = Known { digest: digest.clone(), checked: sent_at };
            let (media_type, size) = (head.media_type.clone(), head.size);
            self.membership.prove_as_of(sent_at, name, digest, media_type.clone()).await;
            self.note_head(name, tag, Provisional { known, media_type, size, held_since: None });
        }
        Ok(head)
    }

    /// Notes what upstream has said of a tag, unless the repository was written since.
    pub(super) fn note_head(&self, name: &CanonicalName, tag: &Tag, named: Provisional) {
        if !self.writes.outdates(&Subject::Tags, name, named.known.checked) {
            self.provisional.put(name, tag, named);
        }
    }

    /// Tags that upstream has said to lead to `digest` become durable, now that its bytes are
    /// verified (DESIGN §14.2). One that leads to another manifest here has its own story
    /// (`moves`).
    pub(super) async fn make_durable(&self, name: &CanonicalName, digest: &Digest) {
        for CheckedTag { tag, checked } in self.provisional.take(name, digest) {
            if !self.is_moving(name, &tag, digest).await {
                self.put_tag(name, &tag, TagRecord { digest: digest.clone(), checked }).await;
            }
        }
    }

    /// Records where a tag led when upstream was asked, unless the repository was written since:
    /// the answer would bring back a tag from before the write.
    pub(super) async fn put_tag(&self, name: &CanonicalName, tag: &Tag, record: TagRecord) {
        if !self.writes.outdates(&Subject::Tags, name, record.checked) {
            self.record_tag(name, tag, record).await;
        }
    }

    /// Records a tag; a failure is only logged, because upstream can be asked again.
    pub(super) async fn record_tag(&self, name: &CanonicalName, tag: &Tag, record: TagRecord) {
        if let Err(error) = self.store.records().put_tag(name, tag, record).await {
            tracing::warn!(%error, image = %name, %tag, "cannot record a tag");
        }
    }

    /// Passes on what upstream answered about a tag. A refusal or an absence is never covered up by
    /// what is known, so that is dropped (DESIGN §4). Any other failure says nothing about the tag.
    pub(super) async fn settle_tag<T>(
        &self,
        name: &CanonicalName,
        tag: &Tag,
        answer: Result<T, upstream::Error>,
    ) -> Result<T, Error> {
        let subject = Subject::Manifest(Reference::Tag(tag.clone()));
        let settled = self.membership.settle(name, subject, answer, Missing::Manifest).await;
        if let Err(error) = &settled
            && matches!(error.class(), FailureClass::Absent | FailureClass::Refused)
        {
            self.provisional.drop_tag(name, tag);
            if let Err(error) = self.store.records().drop_tag(name, tag).await {
                tracing::warn!(%error, image = %name, %tag, "cannot drop the record of a tag");
            }
        }
        settled
    }
}
