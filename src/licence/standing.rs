//! Whether a licence is good at a given moment: its times, and what was revoked (ACCESS §4.4,
//! §4.5).

use std::collections::HashMap;
use std::time::Duration;

use super::calendar;
use super::name::LicenceId;
use super::token::Licence;
use crate::clock::Timestamp;

/// How far clocks may differ. It applies to the beginning of a licence, never to its end.
pub const SKEW: Duration = Duration::from_mins(1);

/// How long before the end of a licence people are warned.
pub const EXPIRY_NOTICE: Duration = Duration::from_hours(14 * 24);

/// The times of a licence; what an access token keeps of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    pub id: LicenceId,
    pub issued: Timestamp,
    pub not_before: Timestamp,
    pub expires: Timestamp,
}

/// Whether a licence is good at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Good,
    /// It begins later.
    NotYet,
    Expired,
    Revoked {
        at: Timestamp,
    },
}

impl Licence {
    pub fn term(&self) -> Term {
        Term {
            id: self.id.clone(),
            issued: self.issued,
            not_before: self.not_before,
            expires: self.expires,
        }
    }
}

impl Term {
    pub fn standing(&self, revocations: &Revocations, now: Timestamp) -> Standing {
        if let Some(at) = revocations.revoked(&self.id, self.issued) {
            return Standing::Revoked { at };
        }
        let begins = self.issued.max(self.not_before);
        if now >= self.expires {
            Standing::Expired
        } else if begins > now.plus(SKEW) {
            Standing::NotYet
        } else {
            Standing::Good
        }
    }

    /// Days left, rounded down; none while there are more than [`EXPIRY_NOTICE`].
    pub fn days_left(&self, now: Timestamp) -> Option<u64> {
        let left = self.expires.since(now);
        (left <= EXPIRY_NOTICE).then_some(left.as_secs() / 86_400)
    }
}

/// The revocations: for each id the moment up to which licences that were issued are refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revocations(HashMap<LicenceId, Timestamp>);

impl Revocations {
    /// Reads lines of `<id> <RFC 3339 time> [# reason]`; empty lines and comments are passed over.
    ///
    /// # Errors
    /// Every line that is wrong, by number from 1.
    pub fn parse(text: &str) -> Result<Self, Vec<(usize, String)>> {
        let (list, problems) = Self::parse_lines(text);
        if problems.is_empty() { Ok(list) } else { Err(problems) }
    }

    /// What the lines say that can be read, and every line that is wrong, by number from 1.
    pub fn parse_lines(text: &str) -> (Self, Vec<(usize, String)>) {
        let (mut list, mut problems) = (Self::default(), Vec::new());
        for (i, line) in text.lines().enumerate() {
            match entry(line) {
                Ok(Some((id, at))) => list.add(id, at),
                Ok(None) => {}
                Err(message) => problems.push((i + 1, message)),
            }
        }
        (list, problems)
    }

    /// Lines that say the same, by id.
    pub fn to_lines(&self) -> String {
        let mut lines: Vec<_> =
            self.0.iter().map(|(id, at)| revocation_line(id, *at, None)).collect();
        lines.sort();
        lines.concat()
    }

    /// Whose licences, or some of them, would be good again if `next` took the place of this list.
    pub fn good_again_under(&self, next: &Self) -> Vec<LicenceId> {
        let taken_back = |(id, at): (&LicenceId, &Timestamp)| {
            next.latest(id).is_none_or(|later| later < *at).then(|| id.clone())
        };
        let mut ids: Vec<_> = self.0.iter().filter_map(taken_back).collect();
        ids.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        ids
    }

    /// Both lists as one.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        for (id, at) in other.0 {
            self.add(id, at);
        }
        self
    }

    /// When a licence of that id, issued then, was revoked. One that was issued later under the
    /// same id is a new licence, which the revocation does not end.
    fn revoked(&self, id: &LicenceId, issued: Timestamp) -> Option<Timestamp> {
        self.latest(id).filter(|at| issued <= *at)
    }

    /// The moment up to which licences of that id are refused.
    pub fn latest(&self, id: &LicenceId) -> Option<Timestamp> {
        self.0.get(id).copied()
    }

    fn add(&mut self, id: LicenceId, at: Timestamp) {
        let latest = self.0.entry(id).or_insert(at);
        *latest = at.max(*latest);
    }
}

fn entry(line: &str) -> Result<Option<(LicenceId, Timestamp)>, String> {
    let line = line.split('#').next().unwrap_or_default();
    let mut words = line.split_whitespace();
    match (words.next(), words.next(), words.next()) {
        (None, _, _) => Ok(None),
        (Some(id), Some(time), None) => Ok(Some((LicenceId::parse(id)?, calendar::parse(time)?))),
        (Some(_), _, _) => {
            Err("is no revocation; write <id> <time>, as acme-prod 2026-11-20T12:00:00Z".to_owned())
        }
    }
}

/// One line of a revocation list.
pub fn revocation_line(id: &LicenceId, at: Timestamp, reason: Option<&str>) -> String {
    let reason = reason
        .map(|reason| format!(" # {}", reason.replace(char::is_control, " ")))
        .unwrap_or_default();
    format!("{id} {}{reason}\n", calendar::format(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix(Duration::from_secs(seconds))
    }

    fn id(text: &str) -> LicenceId {
        LicenceId::parse(text).expect(text)
    }

    fn term() -> Term {
        Term { id: id("acme"), issued: at(1_000), not_before: at(2_000), expires: at(9_000) }
    }

    #[test]
    fn skew_is_allowed_at_the_beginning_and_never_at_the_end() {
        let none = Revocations::default();
        for (now, expected) in [
            (1_939, Standing::NotYet),
            (1_940, Standing::Good),
            (1_941, Standing::Good),
            (8_999, Standing::Good),
            (9_000, Standing::Expired),
            (9_001, Standing::Expired),
        ] {
            assert_eq!(term().standing(&none, at(now)), expected, "{now}");
        }
        let issued_late = Term { issued: at(2_061), ..term() };
        assert_eq!(issued_late.standing(&none, at(2_000)), Standing::NotYet);
        assert_eq!(issued_late.standing(&none, at(2_001)), Standing::Good);
    }

    #[test]
    fn a_revocation_ends_what_was_issued_before_it() {
        let list = Revocations::parse(
            "# head\n\nother 1970-01-01T00:30:00Z\nacme 1970-01-01T00:16:40Z # left\n",
        );
        let list = list.expect("a good list");
        assert_eq!(list.0.len(), 2);
        assert_eq!(term().standing(&list, at(3_000)), Standing::Revoked { at: at(1_000) });
        assert_eq!(Term { issued: at(1_001), ..term() }.standing(&list, at(3_000)), Standing::Good);
        assert_eq!(Term { id: id("acme-2"), ..term() }.standing(&list, at(3_000)), Standing::Good);
        assert_eq!(
            term().standing(&list, at(10_000)),
            Standing::Revoked { at: at(1_000) },
            "that it was revoked says more"
        );
    }

    #[test]
    fn the_latest_revocation_counts_whatever_the_order() {
        let early = Revocations::parse("acme 1970-01-01T00:00:01Z").expect("a list");
        let late = Revocations::parse("acme 1970-01-01T01:00:00Z\nacme 1970-01-01T00:00:02Z")
            .expect("a list");
        for list in [early.clone().and(late.clone()), late.and(early)] {
            assert_eq!(list.revoked(&id("acme"), at(1_000)), Some(at(3_600)));
        }
    }

    #[test]
    fn every_wrong_line_is_told() {
        let problems = Revocations::parse(
            "acme\nACME 2026-11-20T12:00:00Z\n\nacme yesterday\na 2026-11-20T12:00:00Z b",
        )
        .expect_err("four wrong lines");
        assert_eq!(problems.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [1, 2, 4, 5]);
    }

    #[test]
    fn a_written_line_is_read_back() {
        let line = revocation_line(&id("acme"), at(1_000), Some("left\nus"));
        assert_eq!(line, "acme 1970-01-01T00:16:40Z # left us\n");
        assert!(
            Revocations::parse(&line)
                .expect("its own line")
                .revoked(&id("acme"), at(1_000))
                .is_some()
        );
    }

    #[test]
    fn a_list_is_read_back_as_it_was() {
        for text in [
            "",
            "acme 1970-01-01T00:00:01Z\nacme-2 2026-01-01T00:00:00Z\nother 1970-01-01T00:00:00Z\n",
        ] {
            let list = Revocations::parse(text).expect("a list");
            assert_eq!(list.to_lines(), text);
        }
    }

    #[test]
    fn people_are_warned_two_weeks_before() {
        let day = 86_400;
        let term = Term { expires: at(100 * day), ..term() };
        for (now, expected) in
            [(85 * day, None), (86 * day, Some(14)), (99 * day, Some(1)), (99 * day + 1, Some(0))]
        {
            assert_eq!(term.days_left(at(now)), expected);
        }
    }
}
