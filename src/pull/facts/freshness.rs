//! Decides what to do about a tag. Pure: ages in, decision out.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::oci::Digest;

/// The digest that a tag had when upstream was last asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) digest: Digest,
    /// When the question was sent.
    pub(crate) checked: Timestamp,
}

/// What to do about a tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Serve this digest without asking.
    Serve(Digest),
    /// Ask upstream; if it does not answer, this may be served.
    Revalidate(Known),
    /// Ask upstream; nothing can be served without its answer.
    Fetch,
}

/// Decides by the durable record of a tag and by what a HEAD has said of it since (DESIGN §14.2).
///
/// Only a durable record may be revalidated, because revalidation may end in a stale answer, and
/// only its bytes were once verified under that repository. A provisional answer is served while it
/// is fresh, and then ignored.
pub(crate) fn decide(
    durable: Option<Known>,
    provisional: Option<Known>,
    ttl: Duration,
    now: Timestamp,
) -> Decision {
    let fresh = |known: &Known| now.since(known.checked) < ttl;
    let latest = match (&durable, provisional.filter(fresh)) {
        // A GET by tag writes the record and leaves an older HEAD's answer where it is.
        (Some(durable), Some(provisional)) if provisional.checked < durable.checked => {
            Some(durable.clone())
        }
        (_, Some(provisional)) => Some(provisional),
        (durable, None) => durable.clone(),
    };
    match (latest, durable) {
        (Some(latest), _) if fresh(&latest) => Decision::Serve(latest.digest),
        (_, Some(durable)) => Decision::Revalidate(durable),
        (_, None) => Decision::Fetch,
    }
}

/// Whether an answer that was last checked at `checked` may be served while upstream fails.
pub(crate) fn may_stand_in(checked: Timestamp, stale_if_error: Duration, now: Timestamp) -> bool {
    now.since(checked) <= stale_if_error
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    const TTL: Duration = Duration::from_mins(5);

    fn known(content: &str, at: u64) -> Known {
        let digest = Digest::of(Algorithm::Sha256, content.as_bytes());
        Known { digest, checked: Timestamp::from_unix(Duration::from_secs(at)) }
    }

    #[test]
    fn the_newest_of_what_is_known_decides() {
        let now = Timestamp::from_unix(Duration::from_secs(1000));
        let (old, new) = (known("old", 600), known("new", 900));
        let serve = |known: &Known| Decision::Serve(known.digest.clone());
        for (durable, provisional, expected) in [
            (None, None, Decision::Fetch),
            (Some(new.clone()), None, serve(&new)),
            (Some(old.clone()), None, Decision::Revalidate(old.clone())),
            (None, Some(new.clone()), serve(&new)),
            (None, Some(old.clone()), Decision::Fetch),
            (Some(old.clone()), Some(new.clone()), serve(&new)),
            (Some(known("newest", 950)), Some(new.clone()), serve(&known("newest", 950))),
            (
                Some(known("at the edge", 700)),
                None,
                Decision::Revalidate(known("at the edge", 700)),
            ),
        ] {
            assert_eq!(
                decide(durable.clone(), provisional.clone(), TTL, now),
                expected,
                "{durable:?} {provisional:?}"
            );
        }
    }

    #[test]
    fn a_stale_answer_has_an_age_limit() {
        let day = Duration::from_hours(24);
        let checked = Timestamp::from_unix(Duration::from_secs(1000));
        assert!(may_stand_in(checked, day, checked.plus(day)));
        assert!(!may_stand_in(checked, day, checked.plus(day + Duration::from_millis(1))));
    }
}
