//! A file counts when it is the same at two looks: at one, somebody may be in the middle of writing
//! it, and what is there so far may mean something else (ACCESS §8).

/// What the files of one part held: when they were judged, good or bad, and at the last look if that
/// was something else.
#[derive(Debug)]
pub(super) struct Watched<T> {
    judged: T,
    looked: Option<T>,
}

/// What a look has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// What was judged.
    Same,
    /// Something else, which was not there at the look before: it has to be looked at again.
    Unsettled,
    /// Something else, twice. It counts as judged from now on.
    Changed,
}

impl<T: PartialEq> Watched<T> {
    pub(super) fn new(judged: T) -> Self {
        Self { judged, looked: None }
    }

    pub(super) fn judged(&self) -> &T {
        &self.judged
    }

    /// Compares with what is there `now`.
    pub(super) fn look(&mut self, now: T) -> Look {
        let before = self.looked.take();
        if now == self.judged {
            Look::Same
        } else if before.as_ref() == Some(&now) {
            self.judged = now;
            Look::Changed
        } else {
            self.looked = Some(now);
            Look::Unsettled
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_counts_when_it_is_the_same_twice() {
        let mut watched = Watched::new(1);
        let looks = [1, 2, 3, 3, 3, 4, 3, 4, 4].map(|now| watched.look(now));
        let (same, unsettled, changed) = (Look::Same, Look::Unsettled, Look::Changed);
        assert_eq!(
            looks,
            [same, unsettled, unsettled, changed, same, unsettled, same, unsettled, changed]
        );
    }
}
