//! Whether a failed attempt is made again, and when. Pure: the jitter is an argument.

use std::time::Duration;

use crate::upstream::error::Symptom;

/// Attempts at a call that fails in passing.
const ATTEMPTS_MAX: u32 = 3;
/// Attempts where each has cost a connect timeout (5 s) already: a third would use up the
/// time of a client that waits for headers (DESIGN §14.8).
const ATTEMPTS_WITHOUT_ANSWER: u32 = 2;

/// The pause before the next attempt, or `None` if `attempt` (counted from 1) was the last.
///
/// Pauses double from `first`; `jitter`, in `0.0..1.0`, takes away up to half of one, so that
/// clients which failed together do not come back together. A 429 is never retried (ERR-2, DESIGN
/// §14.4), nor is any answer that would be the same again.
pub(in crate::upstream) fn pause(
    symptom: Symptom,
    attempt: u32,
    first: Duration,
    jitter: f64,
) -> Option<Duration> {
    let attempts = match symptom {
        Symptom::Connect
        | Symptom::Reset
        | Symptom::Cut
        // What servers, and the proxies and delivery networks in front of them, say of a moment.
        | Symptom::Status(
            408 | 425 | 499 | 500 | 502 | 503 | 504 | 507 | 520..=527 | 530,
        ) => ATTEMPTS_MAX,
        Symptom::Silence => ATTEMPTS_WITHOUT_ANSWER,
        Symptom::Status(_) | Symptom::Answered | Symptom::Local => 1,
    };
    let doubled = first.saturating_mul(1 << attempt.saturating_sub(1).min(8));
    (attempt < attempts).then(|| doubled.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(100);

    #[test]
    fn transient_failures_get_three_attempts_with_doubling_pauses() {
        let statuses = [408, 425, 499, 500, 502, 503, 504, 507, 520, 527, 530].map(Symptom::Status);
        for symptom in [Symptom::Connect, Symptom::Reset].into_iter().chain(statuses) {
            assert_eq!(pause(symptom, 1, FIRST, 0.0), Some(FIRST));
            assert_eq!(pause(symptom, 2, FIRST, 0.0), Some(FIRST * 2));
            assert_eq!(pause(symptom, 3, FIRST, 0.0), None);
        }
        assert_eq!(pause(Symptom::Silence, 2, FIRST, 0.0), None);
    }

    #[test]
    fn jitter_takes_away_at_most_half() {
        assert_eq!(pause(Symptom::Connect, 1, FIRST, 1.0), Some(FIRST / 2));
        assert_eq!(pause(Symptom::Connect, 1, FIRST, 0.5), Some(FIRST * 3 / 4));
    }

    #[test]
    fn answers_are_not_asked_for_again() {
        for symptom in
            [Symptom::Status(429), Symptom::Status(404), Symptom::Status(501), Symptom::Answered]
        {
            assert_eq!(pause(symptom, 1, FIRST, 0.0), None, "{symptom:?}");
        }
        assert_eq!(pause(Symptom::Local, 1, FIRST, 0.0), None);
    }
}
