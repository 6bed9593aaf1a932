//! Where the bytes of a fill come from. Today that is the upstream registry and nothing else; a
//! bundle, a peer or an object store would be a further source, opened here and nowhere else.
//!
//! Only what the upstream itself answers proves that a repository holds a digest (DESIGN §14.1). So
//! whoever opens a source looks at [`Arrived::proves_membership`] before recording a proof.

use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::error::{Error, Missing};
use super::interest::Interest;
use super::shares::{Precedence, Reserve, Share, ShareBounds, Shares};
use crate::clock::Timestamp;
use crate::limits::Limits;
use crate::oci::{CanonicalName, Digest, Extent, Part, Repository, UpstreamName};
use crate::store::{ContentSender, Senders, SendersInReach};
use crate::upstream::{self, BlobBody, BlobResponse, FailureClass, UpstreamClient, Upstreams};

/// A blob, or a part of it, whose body is still to be read.
#[derive(Debug)]
pub(crate) struct Arrived {
    /// Which bytes of the blob the body holds; not always those that were asked for.
    pub(crate) extent: Extent,
    pub(crate) body: SourceBody,
    /// The source is the registry that the name stands for, so its answer is the registry's word.
    pub(crate) proves_membership: bool,
    /// It looks like a web page instead of a blob, and is nobody's word before its digest is right.
    pub(crate) may_be_a_page: bool,
}

/// The bytes as they come, not verified.
#[derive(Debug)]
pub(crate) struct SourceBody {
    body: BlobBody,
    /// What was read and comes first.
    ahead: Option<Bytes>,
    /// They were asked for without any credential. Known from whoever asked: a reload may change
    /// what the next one asks with.
    pub(super) is_public: bool,
}

impl SourceBody {
    /// The next bytes; `None` at the clean end of the body.
    ///
    /// # Errors
    /// If the body breaks off, or stays silent for longer than `limits.upstream_idle`.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        if let Some(bytes) = self.ahead.take() {
            return Ok(Some(bytes));
        }
        self.body.chunk().await.map_err(|error| Error::from_upstream(error, Missing::Blob))
    }

    /// The next chunk is this, if there is anything in it.
    pub(crate) fn put_back(&mut self, bytes: Bytes) {
        self.ahead = Some(bytes).filter(|bytes| !bytes.is_empty());
    }
}

/// All sources, by the upstream that they stand for; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Sources {
    upstreams: Arc<Upstreams>,
    questions: Shares,
}

/// The leave to ask an upstream one thing, which others wait for while it is held.
#[derive(Debug)]
pub(super) struct Question {
    upstream: Arc<UpstreamClient>,
    share: Share,
}

impl Deref for Question {
    type Target = UpstreamClient;

    fn deref(&self) -> &UpstreamClient {
        &self.upstream
    }
}

impl Question {
    /// Starts fetching `digest`, or `part` of it.
    ///
    /// # Errors
    /// What the source says, if it does before `deadline`.
    pub(super) async fn blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        part: Option<Part>,
        deadline: Instant,
    ) -> Result<Arrived, Error> {
        let opened = self.upstream.get_blob(repository, digest, part, deadline).await;
        arrived(opened, self.upstream.is_anonymous(repository))
    }

    /// As [`Question::blob`] for all of it, given up if somebody else has a use for the question
    /// while nobody waits for the blob.
    ///
    /// # Errors
    /// As [`Question::blob`], and `Abandoned`.
    pub(super) async fn whole_blob(
        &mut self,
        name: &CanonicalName,
        digest: &Digest,
        deadline: Instant,
    ) -> Result<Arrived, Error> {
        let Self { upstream, share } = self;
        let opened = tokio::select! {
            opened = upstream.get_blob(&name.repository, digest, None, deadline) => opened,
            _ = share.yielded(|| false) => return Err(Error::Abandoned),
        };
        arrived(opened, upstream.is_anonymous(&name.repository))
    }

    /// Who sends what this question is answered with.
    pub(super) fn sender(&self, name: &CanonicalName) -> ContentSender {
        let is_public = self.upstream.is_anonymous(&name.repository);
        ContentSender { upstream: name.upstream.clone(), is_public }
    }

    /// Resolves once somebody else waits for the question, which has been answered.
    pub(super) async fn wanted_elsewhere(&mut self) {
        self.share.yielded(|| true).await;
    }
}

fn arrived(
    opened: Result<BlobResponse, upstream::Error>,
    is_public: bool,
) -> Result<Arrived, Error> {
    let BlobResponse { extent, may_be_a_page, body } =
        opened.map_err(|error| Error::from_upstream(error, Missing::Blob))?;
    let body = SourceBody { body, ahead: None, is_public };
    Ok(Arrived { extent, body, proves_membership: true, may_be_a_page })
}

impl Sources {
    pub(crate) fn new(upstreams: Arc<Upstreams>, limits: &Limits) -> Self {
        let bounds = ShareBounds { all: None, each: limits.questions, reserve: Reserve::AsMuch };
        Self { upstreams, questions: Shares::new(bounds) }
    }

    /// Waits until the upstream of `name` may be asked for `what`, as it is configured then: a
    /// transfer that is continued uses the newest credential.
    ///
    /// # Errors
    /// `Sealed` if it is, or will be meanwhile; `Overloaded` if that is not before `deadline`, or
    /// too many wait.
    pub(super) async fn ask(
        &self,
        name: &CanonicalName,
        what: Missing,
        interest: &Interest,
        deadline: Instant,
    ) -> Result<Question, Error> {
        let upstream = self.upstream(name)?;
        let share = tokio::select! {
            biased;
            () = upstream.sealed() => return Err(Error::Sealed { what }),
            share = self.questions.get(name, interest, Precedence::Wanted, deadline) => share?,
        };
        Ok(Question { share, upstream: self.upstream(name)? })
    }

    /// From whom anything can be fetched again.
    pub(super) fn in_reach(&self) -> SendersInReach {
        let mut reach = SendersInReach::default();
        for seal in self.upstreams.seals() {
            let names = if seal.is_configured { &mut reach.sealed } else { &mut reach.open };
            names.insert(seal.upstream);
        }
        reach
    }

    /// Whether nothing may be asked of the upstream of `name`.
    pub(super) fn is_sealed(&self, name: &CanonicalName) -> bool {
        self.upstreams.get(&name.upstream).is_some_and(|upstream| upstream.is_sealed())
    }

    /// Waits until it is sealed.
    pub(super) async fn sealed(&self, name: &CanonicalName) {
        match self.upstreams.get(&name.upstream) {
            Some(upstream) => upstream.sealed().await,
            None => std::future::pending().await,
        }
    }

    /// What `error` is where the upstream of `name` is sealed: it was not asked, or was cut off,
    /// unless it had said something before.
    pub(super) fn or_sealed(&self, name: &CanonicalName, what: Missing, error: Error) -> Error {
        let may_be_why =
            error.class() == FailureClass::Passing || matches!(error, Error::Abandoned);
        if may_be_why && self.is_sealed(name) { Error::Sealed { what } } else { error }
    }

    /// Since when something counts as not confirmed that upstream said at `checked`, for how long it
    /// may stand in: the time does not count in which nobody could be asked (SEAL-3).
    pub(super) fn stands_since(&self, name: &CanonicalName, checked: Timestamp) -> Timestamp {
        let opened = self.upstreams.get(&name.upstream).and_then(|upstream| upstream.opened());
        opened.map_or(checked, |opened| opened.max(checked))
    }

    /// Waits until it is known with which login the source will be asked, for which a credential
    /// helper may have to run.
    ///
    /// # Errors
    /// If the helper fails, or `deadline` passes.
    pub(crate) async fn prepare(
        &self,
        name: &CanonicalName,
        deadline: Instant,
    ) -> Result<(), Error> {
        let known = self.upstream(name)?.ensure_login(&name.repository, deadline).await;
        known.map_err(|error| Error::from_upstream(error, Missing::Blob))
    }

    /// The registry itself, for questions that only it can answer.
    ///
    /// # Errors
    /// If a reload has taken the upstream away since the request was routed.
    pub(crate) fn upstream(&self, name: &CanonicalName) -> Result<Arc<UpstreamClient>, Error> {
        self.upstreams.get(&name.upstream).ok_or(Error::absent(Missing::Repository))
    }

    /// Whether what these have sent may be given to readers of `upstream`, where it has confirmed
    /// that it has it too (DESIGN §14.1). If nobody is known to have sent it, whether it can be what
    /// the credential of another has brought.
    pub(super) fn may_share(&self, senders: Option<&Senders>, upstream: &UpstreamName) -> bool {
        let shares = |sender: &UpstreamName| {
            self.upstreams.get(sender).is_some_and(|sender| sender.shares_with(upstream))
        };
        match senders.filter(|senders| !senders.upstreams.is_empty()) {
            Some(senders) => {
                senders.is_public
                    || senders.upstreams.contains(upstream)
                    || senders.upstreams.iter().any(shares)
            }
            None => !self.upstreams.others_have_logins(upstream),
        }
    }

    pub(crate) fn upstreams(&self) -> &Upstreams {
        &self.upstreams
    }
}
