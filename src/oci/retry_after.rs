//! `Retry-After`, as it is received and as it is sent (RFC 9110 §10.2.3, ERR-2).

use std::time::{Duration, UNIX_EPOCH};

/// No registry that asks for more is obeyed for longer: it would be out of reach until a restart.
const LONGEST_WAIT: Duration = Duration::from_hours(1);
const SHORTEST_WAIT: Duration = Duration::from_secs(1);
/// From here on, a value in digits is a Unix time instead of a wait, as hub.docker.com has sent it.
/// As a wait it would be more than 31 years.
const FIRST_UNIX_TIME: u64 = 1_000_000_000;

/// Reads seconds, an HTTP date or a Unix time; `now` is the time since the Unix epoch. The wait is
/// between a second and an hour. `None` if it is none of these.
pub fn parse_retry_after(value: &str, now: Duration) -> Option<Duration> {
    let value = value.trim();
    let wait = match value.parse::<u64>() {
        Ok(unix) if unix >= FIRST_UNIX_TIME => Duration::from_secs(unix).saturating_sub(now),
        Ok(seconds) => Duration::from_secs(seconds),
        // More digits than fit.
        Err(_) if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) => LONGEST_WAIT,
        Err(_) => {
            let date = httpdate::parse_http_date(value).ok()?;
            date.duration_since(UNIX_EPOCH).ok()?.saturating_sub(now)
        }
    };
    Some(wait.clamp(SHORTEST_WAIT, LONGEST_WAIT))
}

/// The value to send for a wait: whole seconds, rounded up, so that a client which waits as told is
/// not early.
pub fn retry_after_seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_seconds_a_date_or_a_time_within_an_hour() {
        let now = Duration::from_secs(784_111_777); // Sun, 06 Nov 1994 08:49:37 GMT
        for (value, expected) in [
            ("30", Some(30)),
            (" 5 ", Some(5)),
            ("0", Some(1)),
            ("86400", Some(3600)),
            ("1700000000", Some(3600)),
            ("99999999999999999999999", Some(3600)),
            ("Sun, 06 Nov 1994 08:50:07 GMT", Some(30)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(1)),
            ("-3", None),
            ("soon", None),
            ("", None),
        ] {
            let wait = expected.map(Duration::from_secs);
            assert_eq!(parse_retry_after(value, now), wait, "{value:?}");
        }
        let later = Duration::from_secs(1_700_000_000);
        assert_eq!(parse_retry_after("1700000040", later), Some(Duration::from_secs(40)));
    }

    #[test]
    fn what_is_sent_is_never_early() {
        for (millis, seconds) in [(0, 0), (1, 1), (1000, 1), (1001, 2)] {
            assert_eq!(retry_after_seconds(Duration::from_millis(millis)), seconds);
        }
    }
}
