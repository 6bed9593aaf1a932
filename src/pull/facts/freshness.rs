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

/// What a HEAD has said of a tag, whose bytes nobody may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) known: Known,
    /// When the bytes could not be had; for a moment nobody asks for them again.
    pub(crate) held_since: Option<Timestamp>,
}

/// How long after a failure a tag that has moved is served from what it led to, before what it
/// leads to now is asked for again.
const MOVE_PAUSE: Duration = Duration::from_secs(5);

/// For how long a tag is believed, and stands in for an upstream that fails.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TagLife {
    pub(crate) ttl: Duration,
    pub(crate) stale_if_error: Duration,
}

/// What to do about a tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Serve this digest without asking.
    Serve(Digest),
    /// Ask upstream; if it does not answer, this may be served.
    Revalidate(Known),
    /// The tag has moved. Fetch what `new` leads to; until that is here, `old` is served.
    Move { old: Known, new: Known },
    /// Serve what the tag led to, because what it leads to now could not be had a moment ago.
    StandIn { old: Known, new: Known },
    /// Ask upstream; nothing can be served without its answer.
    Fetch,
}

/// Decides by the durable record of a tag and by what a HEAD has said of it since (DESIGN §14.2).
///
/// Only a durable record may be revalidated, because revalidation may end in a stale answer, and
/// only its bytes were once verified under that repository. A provisional answer is served while it
/// is fresh, and then ignored; but not where a durable record can still stand in for it, because
/// its bytes may not be had.
pub(crate) fn decide(
    durable: Option<Known>,
    provisional: Option<Named>,
    life: TagLife,
    now: Timestamp,
) -> Decision {
    let fresh = |known: &Known| now.is_within(life.ttl, known.checked);
    let provisional = provisional.filter(|named| fresh(&named.known));
    match (durable, provisional) {
        (None, None) => Decision::Fetch,
        (None, Some(named)) => Decision::Serve(named.known.digest),
        (Some(durable), None) if fresh(&durable) => Decision::Serve(durable.digest),
        (Some(durable), None) => Decision::Revalidate(durable),
        // A GET by tag writes the record and leaves an older HEAD's answer where it is.
        (Some(durable), Some(named))
            if named.known.checked < durable.checked && durable.checked <= now =>
        {
            Decision::Serve(durable.digest)
        }
        (Some(old), Some(Named { known: new, held_since })) => {
            if old.digest == new.digest || !may_stand_in(old.checked, life.stale_if_error, now) {
                Decision::Serve(new.digest)
            } else if held_since.is_some_and(|since| now.is_within(MOVE_PAUSE, since)) {
                Decision::StandIn { old, new }
            } else {
                Decision::Move { old, new }
            }
        }
    }
}

/// Whether an answer that was last checked at `checked` may be served while upstream fails.
pub(crate) fn may_stand_in(checked: Timestamp, stale_if_error: Duration, now: Timestamp) -> bool {
    checked <= now && now.since(checked) <= stale_if_error
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
        let life = TagLife { ttl: TTL, stale_if_error: Duration::from_secs(500) };
        let serve = |known: &Known| Decision::Serve(known.digest.clone());
        let named = |known: &Known, held: Option<u64>| {
            let held_since = held.map(|at| Timestamp::from_unix(Duration::from_secs(at)));
            Some(Named { known: known.clone(), held_since })
        };
        let moves = Decision::Move { old: old.clone(), new: new.clone() };
        let stands_in = Decision::StandIn { old: old.clone(), new: new.clone() };
        for (durable, provisional, expected) in [
            (None, None, Decision::Fetch),
            (Some(new.clone()), None, serve(&new)),
            (Some(old.clone()), None, Decision::Revalidate(old.clone())),
            (None, named(&new, None), serve(&new)),
            (None, named(&new, Some(996)), serve(&new)),
            (None, named(&old, None), Decision::Fetch),
            (Some(old.clone()), named(&new, None), moves.clone()),
            (Some(old.clone()), named(&new, Some(996)), stands_in),
            (Some(old.clone()), named(&new, Some(995)), moves.clone()),
            (Some(known("too old", 499)), named(&new, None), serve(&new)),
            (Some(known("new", 600)), named(&new, None), serve(&new)),
            // From a clock that has been set back since.
            (Some(known("ahead", 1001)), None, Decision::Revalidate(known("ahead", 1001))),
            (None, named(&known("ahead", 1001), None), Decision::Fetch),
            (Some(known("ahead", 1001)), named(&new, None), serve(&new)),
            (Some(old.clone()), named(&new, Some(1001)), moves),
            (Some(known("newest", 950)), named(&new, None), serve(&known("newest", 950))),
            (
                Some(known("at the edge", 700)),
                None,
                Decision::Revalidate(known("at the edge", 700)),
            ),
        ] {
            assert_eq!(
                decide(durable.clone(), provisional.clone(), life, now),
                expected,
                "{durable:?} {provisional:?}"
            );
        }
    }

    #[test]
    fn a_stale_answer_has_an_age_limit() {
        let day = Duration::from_hours(24);
        let checked = Timestamp::from_unix(Duration::from_secs(1000));
        let ahead = checked.plus(Duration::from_millis(1));
        assert!(!may_stand_in(ahead, day, checked), "nobody knows how old it is");
        assert!(may_stand_in(checked, day, checked.plus(day)));
        assert!(!may_stand_in(checked, day, checked.plus(day + Duration::from_millis(1))));
    }
}
