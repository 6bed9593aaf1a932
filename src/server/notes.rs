//! What is noted of a request on the way to its answer, for its access line and the metrics.

use std::borrow::Cow;

use super::error::Refusal;
use super::foreign::cleaned;
use crate::access::ClientCredential;
use crate::licence::{ClaimedLicence, Slug};
use crate::oci::{CanonicalName, Digest, Ns, Repository, Tag};
use crate::pull::Outcome;

/// Characters of a name that a client makes up (a host, a user, a path), and of a sentence that may
/// quote others, as far as they are logged.
const FOREIGN_NAME_MAX: usize = 255;
const FOREIGN_TEXT_MAX: usize = 1000;

/// What the service has found out on the way to an answer, for log and metrics.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// The route label of the endpoint.
    pub(super) route: Option<&'static str>,
    /// Who asks, as rules write it.
    pub(super) identity: Option<Cow<'static, str>>,
    /// The application that gives the right, or under whose name the image was called.
    pub(super) application: Option<Slug>,
    pub(super) name: Option<CanonicalName>,
    /// The repository as the client wrote it, where it leads nowhere.
    pub(super) unknown: Option<Repository>,
    pub(super) tag: Option<Tag>,
    /// What was asked for, or what the tag led to.
    pub(super) digest: Option<Digest>,
    /// What kind of content it is about, as a label of metrics: `blob`, `manifest` (by digest),
    /// `tag`, `tags` or `referrers`.
    pub(super) kind: Option<&'static str>,
    /// What the cache did, if the request came that far.
    pub(super) outcome: Option<Outcome>,
    /// Why it was refused.
    pub(super) failure: Option<FailureNote>,
    /// What more there is to say of a refusal.
    pub(super) stranger: StrangerNote,
}

/// What a refused request was about, in its client's own words.
#[derive(Debug, Default)]
pub(super) struct StrangerNote {
    /// A host that is none of ours.
    pub(super) host: Option<String>,
    /// The path, where it leads to no endpoint.
    pub(super) path: Option<String>,
    /// The registry that was meant by a name that leads nowhere.
    pub(super) ns: Option<String>,
    /// The user name of a login that was rejected, and the licence that was its password.
    pub(super) user: Option<String>,
    pub(super) licence: Option<ClaimedLicence>,
}

/// Why a request was refused, or its body ended short; for log and metrics.
#[derive(Debug)]
pub(super) struct FailureNote {
    /// In one word of a fixed vocabulary, which is a label of metrics.
    pub(super) reason: &'static str,
    /// In a sentence.
    pub(super) error: Cow<'static, str>,
}

impl FailureNote {
    pub(super) fn new(reason: &'static str, sentence: &str) -> Self {
        Self { reason, error: Cow::Owned(cleaned(sentence, FOREIGN_TEXT_MAX).into_owned()) }
    }
}

impl Notes {
    /// The request for `path` is answered with `refusal`, which says by itself what the cache did.
    pub(super) fn set_refused(&mut self, refusal: &Refusal, path: &str) {
        self.outcome = refusal.outcome;
        let sentence = refusal.cause.as_ref().unwrap_or(&refusal.message);
        self.failure = Some(FailureNote::new(refusal.reason, sentence));
        if self.route.is_none() {
            self.stranger.path = Some(foreign_name(path));
        }
    }

    /// The request is for this host, which is none of ours.
    pub(super) fn set_host(&mut self, host: Option<&str>) {
        self.stranger.host = host.map(foreign_name);
    }

    /// The request is about a repository that leads nowhere.
    pub(super) fn set_unknown(&mut self, repository: &Repository, ns: &Ns) {
        self.unknown = Some(repository.clone());
        self.stranger.ns = match ns {
            Ns::Absent | Ns::Unusable => None,
            Ns::Named(named) => Some(foreign_name(named.as_received())),
        };
    }

    /// The request presents a credential that is no good.
    pub(super) fn set_rejected(&mut self, credential: &ClientCredential) {
        if let ClientCredential::Basic { user, password } = credential {
            self.stranger.user = Some(foreign_name(user));
            self.stranger.licence = ClaimedLicence::of(password.expose());
        }
    }
}

fn foreign_name(text: &str) -> String {
    cleaned(text, FOREIGN_NAME_MAX).into_owned()
}
