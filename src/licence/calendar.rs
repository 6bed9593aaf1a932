//! Days and times as people write them: RFC 3339, in UTC. Pure.

use std::time::Duration;

use time::{Date, Month, OffsetDateTime, PrimitiveDateTime};

use crate::clock::Timestamp;

/// `2026-11-20`.
pub fn day(time: Timestamp) -> String {
    let date = date_time(time).date();
    format!("{:04}-{:02}-{:02}", date.year(), u8::from(date.month()), date.day())
}

/// `2026-11-20T12:34:56Z`.
pub fn format(time: Timestamp) -> String {
    let (hour, minute, second) = date_time(time).to_hms();
    format!("{}T{hour:02}:{minute:02}:{second:02}Z", day(time))
}

/// Reads `2026-11-20T12:34:56Z`, or a day alone, which means its first moment.
///
/// # Errors
/// A sentence that says what would be right.
pub fn parse(text: &str) -> Result<Timestamp, String> {
    read(text).ok_or_else(|| {
        format!("{text:?} is no time; write it in UTC, as 2026-11-20T12:00:00Z or 2026-11-20")
    })
}

/// Stricter than RFC 3339 and ISO 8601, which know offsets, fractions and short forms: what people
/// write here is compared with what is signed, so that there is one form.
fn read(text: &str) -> Option<Timestamp> {
    let (date, time) = match text.split_once('T') {
        Some((date, time)) => (date, time.strip_suffix('Z')?),
        None => (text, "00:00:00"),
    };
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let [hour, minute, second] = numbers(time, ':', [2, 2, 2])?.map(u8::try_from);
    let month = Month::try_from(u8::try_from(month).ok()?).ok()?;
    let date = Date::from_calendar_date(year.into(), month, u8::try_from(day).ok()?).ok()?;
    let moment = date.with_hms(hour.ok()?, minute.ok()?, second.ok()?).ok()?.assume_utc();
    // A Timestamp begins in 1970.
    let seconds = u64::try_from(moment.unix_timestamp()).ok()?;
    Some(Timestamp::from_unix(Duration::from_secs(seconds)))
}

/// Exactly three groups of digits of these lengths.
fn numbers(text: &str, separator: char, lengths: [usize; 3]) -> Option<[u16; 3]> {
    let mut parts = text.split(separator);
    let mut found = [0; 3];
    for (slot, length) in found.iter_mut().zip(lengths) {
        let part = parts
            .next()
            .filter(|part| part.len() == length && part.bytes().all(|b| b.is_ascii_digit()))?;
        *slot = part.parse().ok()?;
    }
    parts.next().is_none().then_some(found)
}

/// Whatever lies behind the year 9999 is shown as its last moment: no date that can be read back
/// has more digits.
fn date_time(time: Timestamp) -> OffsetDateTime {
    i64::try_from(time.unix().as_secs())
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .unwrap_or(PrimitiveDateTime::MAX.assume_utc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_and_read_back() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_795_262_400, "2026-11-21T12:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            let time = Timestamp::from_unix(Duration::from_secs(seconds));
            assert_eq!((format(time).as_str(), parse(text)), (text, Ok(time)));
        }
        assert_eq!(parse("2000-02-29"), parse("2000-02-29T00:00:00Z"));
    }

    #[test]
    fn a_time_beyond_every_calendar_is_its_end() {
        let never = Timestamp::from_unix(Duration::from_secs(u64::MAX));
        assert_eq!(format(never), "9999-12-31T23:59:59Z");
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "now",
            "2026-11-20T12:00:00",
            "2026-11-20 12:00:00Z",
            "2026-11-20T12:00:00+01:00",
            "2026-11-31",
            "2026-02-29",
            "2026-13-01",
            "2026-00-01",
            "2026-01-00",
            "1969-12-31",
            "2026-11-20T24:00:00Z",
            "2026-11-20T12:60:00Z",
            "26-11-20",
            "2026-1-20",
            "+026-11-20",
            "2026-11-20T1:00:00Z",
            "2026-11-20Z",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
