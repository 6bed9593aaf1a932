//! The lists of revoked licences (ACCESS §4.4). Each line counts by itself, at once. What a list
//! does not say any more counts until it has been like that for a while: it may have been emptied by
//! mistake. While something in the lists cannot be read, nothing is taken back at all, since that may
//! be what was revoked before.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::Config;
use crate::files;
use crate::licence::{LicenceId, Revocations};
use crate::reload::unusable::{KeyedMessage, Unusable};

/// The key of the configuration that names the lists.
const KEY: &str = "licences.revoked";

/// Licences that are named in one log line, and wrong lines that are logged.
const NAMED_MAX: usize = 20;

/// What all lists say together, and what in them says nothing.
#[derive(Debug, Default)]
pub(crate) struct RevocationLists {
    pub(crate) all: Revocations,
    /// A sentence for each line that is wrong.
    wrong: Vec<String>,
    /// A sentence for each file that cannot be read.
    unreadable: Vec<String>,
}

impl RevocationLists {
    pub(crate) fn read(config: &Config) -> Self {
        let mut lists = Self::default();
        let licences = config.licences.as_ref();
        let Some(path) = licences.and_then(|licences| licences.revoked.as_ref()) else {
            return lists;
        };
        let files = files::list_files(path).unwrap_or_else(|message| {
            lists.unreadable.push(message);
            Vec::new()
        });
        for file in files {
            match files::read_text(&file) {
                Ok(text) => lists.add(&file.display().to_string(), &text),
                Err(message) => lists.unreadable.push(message),
            }
        }
        lists
    }

    fn add(&mut self, file: &str, text: &str) {
        let (list, wrong) = Revocations::parse_lines(text);
        self.all = std::mem::take(&mut self.all).and(list);
        self.wrong
            .extend(wrong.into_iter().map(|(line, message)| format!("{file}:{line}: {message}")));
    }

    /// # Errors
    /// The files that cannot be read.
    pub(crate) fn can_be_read(&self) -> Result<(), Unusable> {
        let problems = keyed(&self.unreadable);
        if problems.is_empty() { Ok(()) } else { Err(Unusable::new(problems)) }
    }

    /// The lines that revoke nothing.
    pub(crate) fn wrong_lines(&self) -> Vec<KeyedMessage> {
        let named = self.wrong.iter().take(NAMED_MAX);
        let mut lines: Vec<String> = named
            .map(|line| format!("{line}; this line revokes nothing, the others count"))
            .collect();
        if let Some(more) = self.wrong.len().checked_sub(NAMED_MAX).filter(|more| *more > 0) {
            lines.push(format!("{more} more lines are wrong"));
        }
        keyed(&lines)
    }

    /// What is revoked.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub(crate) fn all_right(self) -> Result<Revocations, Unusable> {
        let problems = [keyed(&self.unreadable), keyed(&self.wrong)].concat();
        if problems.is_empty() { Ok(self.all) } else { Err(Unusable::new(problems)) }
    }

    /// # Errors
    /// That something in them is wrong.
    fn outcome(&self) -> Result<(), Unusable> {
        self.can_be_read()?;
        let number = match self.wrong.len() {
            0 => return Ok(()),
            1 => "1 line is wrong".to_owned(),
            more => format!("{more} lines are wrong"),
        };
        let message = format!("{number}; the others count, and nothing is taken back meanwhile");
        Err(Unusable::one(KEY, message))
    }
}

fn keyed(messages: &[String]) -> Vec<KeyedMessage> {
    messages.iter().map(|message| (KEY.to_owned(), message.clone())).collect()
}

/// Lists that have lost lines, as they are, and since when.
#[derive(Debug)]
pub(super) struct LostLines {
    wait: Duration,
    without: Option<(Revocations, Instant)>,
}

impl LostLines {
    pub(super) fn new(wait: Duration) -> Self {
        Self { wait, without: None }
    }

    /// Whether the lists have been without these lines for long enough.
    pub(super) fn are_due(&self) -> bool {
        self.without.as_ref().is_some_and(|(_, since)| since.elapsed() >= self.wait)
    }

    /// What is revoked from now on, and whether that is all that the lists say.
    pub(super) fn next(
        &mut self,
        before: &Revocations,
        lists: RevocationLists,
    ) -> (Revocations, Result<(), Unusable>) {
        for (key, line) in lists.wrong_lines() {
            tracing::warn!(key, "{line}");
        }
        let outcome = lists.outcome();
        let may_replace = if outcome.is_ok() {
            self.may_replace(before, &lists.all)
        } else {
            self.without = None;
            false
        };
        let kept = if may_replace { Revocations::default() } else { before.clone() };
        (lists.all.and(kept), outcome)
    }

    /// Whether `next` may take the place of what was revoked `before`.
    fn may_replace(&mut self, before: &Revocations, next: &Revocations) -> bool {
        let good_again = before.good_again_under(next);
        let (is_due, without) = (self.are_due(), self.without.take());
        if good_again.is_empty() {
            return true;
        }
        let (number, licences) = (good_again.len(), shown(&good_again));
        let lost = without.filter(|(list, _)| list == next);
        if lost.is_some() && is_due {
            tracing::warn!(
                number,
                licences,
                "these are not revoked any more: licences of theirs are good again"
            );
            return true;
        }
        if lost.is_none() {
            tracing::warn!(
                number,
                licences,
                "the revocations have lost lines; if they stay like that for {} s, licences of \
                 these will be good again",
                self.wait.as_secs()
            );
        }
        self.without = lost.or_else(|| Some((next.clone(), Instant::now())));
        false
    }
}

fn shown(ids: &[LicenceId]) -> String {
    let named: Vec<&str> = ids.iter().take(NAMED_MAX).map(LicenceId::as_str).collect();
    let more = if ids.len() > NAMED_MAX { ", …" } else { "" };
    named.join(", ") + more
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(30);
    const BOTH: &str = "acme 2026-01-01T00:00:00Z\nother 2026-01-01T00:00:00Z\n";
    const ACME: &str = "acme 2026-01-01T00:00:00Z\n";

    /// What is revoked after the lists were read as `text`, `seconds` later than before.
    async fn after(lost: &mut LostLines, revoked: &mut Revocations, step: (u64, &str)) -> usize {
        tokio::time::advance(Duration::from_secs(step.0)).await;
        let mut lists = RevocationLists::default();
        lists.add("revoked", step.1);
        *revoked = lost.next(revoked, lists).0;
        let none = Revocations::default();
        revoked.good_again_under(&none).len()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_there_any_more_counts_until_it_has_been_so_for_a_while() {
        for (steps, expected) in [
            (&[(0, BOTH), (0, ACME), (29, ACME), (1, ACME)][..], &[2, 2, 2, 1][..]),
            // Back again, in whole or in part: the wait begins anew.
            (&[(0, BOTH), (0, ""), (20, BOTH), (20, ""), (20, ""), (10, "")], &[2, 2, 2, 2, 2, 0]),
            (&[(0, BOTH), (0, ""), (20, ACME), (20, ACME), (10, ACME)], &[2, 2, 2, 2, 1]),
            // Written again and again with the same lines.
            (&[(0, BOTH), (0, ""), (20, "# none"), (10, "# none")], &[2, 2, 2, 0]),
            // A line that is wrong may be the one that is missing.
            (
                &[(0, BOTH), (0, "acme soon"), (300, "acme soon"), (0, ""), (29, ""), (1, "")],
                &[2, 2, 2, 2, 2, 0],
            ),
            (&[(0, ACME), (0, "x\nother 2026-01-01T00:00:00Z")], &[1, 2]),
            // A revocation that is dated back lets some licences be good again.
            (&[(0, ACME), (0, "acme 2025-01-01T00:00:00Z"), (30, "")], &[1, 1, 1]),
        ] {
            let (mut lost, mut revoked) = (LostLines::new(WAIT), Revocations::default());
            for (i, (step, expected)) in steps.iter().zip(expected).enumerate() {
                let found = after(&mut lost, &mut revoked, *step).await;
                assert_eq!(found, *expected, "step {i} of {steps:?}");
            }
        }
    }
}
