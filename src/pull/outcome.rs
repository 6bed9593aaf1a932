//! What the cache did for a request.

/// The same word stands in logs, metrics and tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// From the store.
    Hit,
    /// Fetched for this request.
    Miss,
    /// From a download that others had started.
    Joined,
    /// A tag within its time to live.
    Fresh,
    /// Upstream has confirmed what was known.
    Revalidated,
    /// Upstream does not answer; what was known stands in.
    Stale,
    /// Passed through without being kept.
    Relay,
    /// Known not to exist: upstream said so a moment ago.
    Negative,
    /// Upstream says now that it does not exist.
    Absent,
    /// Not here, and upstream is sealed.
    Sealed,
    /// Not answered; the access line's `reason` says why.
    Failed,
}

impl Outcome {
    /// The one string form, for metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Joined => "joined",
            Self::Fresh => "fresh",
            Self::Revalidated => "revalidated",
            Self::Stale => "stale",
            Self::Relay => "relay",
            Self::Negative => "negative",
            Self::Absent => "absent",
            Self::Sealed => "sealed",
            Self::Failed => "failed",
        }
    }

    /// Whether the answer brings content.
    pub fn has_content(self) -> bool {
        match self {
            Self::Hit
            | Self::Miss
            | Self::Joined
            | Self::Fresh
            | Self::Revalidated
            | Self::Stale
            | Self::Relay => true,
            Self::Negative | Self::Absent | Self::Sealed | Self::Failed => false,
        }
    }
}
