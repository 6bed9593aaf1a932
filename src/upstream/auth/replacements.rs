//! Tokens that came in place of refused ones, for requests that cannot be sent a second time
//! (UP-6).
//!
//! Such a request fails with the first refusal, and its client sends it again with the new token.
//! If that is refused too, it is no old token that is the reason. Without this memory the client
//! would be told to send it again for ever: the second time the token is one of the cache, like
//! one that has ended.

use http::HeaderValue;
use moka::sync::Cache;

use super::token::CACHED_TOKENS_MAX;
use crate::upstream::error::Operation;
use crate::upstream::transport::throttle::CredentialIndex;

/// Requests that the registry may refuse alike: by whom, about what, and what they do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::upstream) struct RequestKind {
    pub(in crate::upstream) credential: CredentialIndex,
    pub(in crate::upstream) scope: String,
    pub(in crate::upstream) operation: Operation,
}

#[derive(Clone, Debug)]
struct Replacement {
    token: HeaderValue,
    /// The registry has taken it for such a request, or known it at least.
    is_accepted: bool,
}

/// The last token for each kind of request that came in place of a refused one, or was refused as
/// soon as it was there.
#[derive(Debug)]
pub(in crate::upstream) struct Replacements(Cache<RequestKind, Replacement>);

impl Replacements {
    pub(super) fn new() -> Self {
        Self(Cache::new(CACHED_TOKENS_MAX))
    }

    /// Notes that `token` is for the next try of such a request.
    pub(in crate::upstream) fn note(&self, kind: RequestKind, token: Option<&HeaderValue>) {
        self.insert(kind, token, false);
    }

    /// Notes that `token`, which was issued just now, was refused. If that was about rights, the
    /// registry knows the token, which may still end.
    pub(in crate::upstream) fn note_refused(
        &self,
        kind: RequestKind,
        token: Option<&HeaderValue>,
        is_about_rights: bool,
    ) {
        self.insert(kind, token, is_about_rights);
    }

    fn insert(&self, kind: RequestKind, token: Option<&HeaderValue>, is_accepted: bool) {
        if let Some(token) = token.cloned() {
            self.0.insert(kind, Replacement { token, is_accepted });
        }
    }

    /// Notes that the registry has taken `token` for such a request: when it is refused later, it
    /// may have ended.
    pub(in crate::upstream) fn note_accepted(
        &self,
        kind: RequestKind,
        token: Option<&HeaderValue>,
    ) {
        if let Some(known) = self.0.get(&kind).filter(|known| Some(&known.token) == token) {
            self.0.insert(kind, Replacement { is_accepted: true, ..known });
        }
    }

    /// Whether `refused` came in place of a token that had been refused for the like, so that this
    /// refusal is final. One that is about rights is final although others of the kind were taken:
    /// a small layer may be within the quota that a large one exceeds.
    pub(in crate::upstream) fn is_last(
        &self,
        kind: &RequestKind,
        refused: Option<&HeaderValue>,
        is_about_rights: bool,
    ) -> bool {
        let known = self.0.get(kind).filter(|known| Some(&known.token) == refused);
        known.is_some_and(|known| is_about_rights || !known.is_accepted)
    }
}
