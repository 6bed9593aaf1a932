//! Days and times as people write them: RFC 3339, in UTC. Pure.

use std::time::Duration;

use crate::clock::Timestamp;

const DAY: u64 = 86_400;
/// Days from 0000-03-01 to 1970-01-01, in the calendar that begins years in March.
const EPOCH: u64 = 719_468;
const DAYS_IN_400_YEARS: u64 = 146_097;

/// `2026-11-20`.
pub fn day(time: Timestamp) -> String {
    let (year, month, day) = date(time.unix().as_secs() / DAY);
    format!("{year:04}-{month:02}-{day:02}")
}

/// `2026-11-20T12:34:56Z`.
pub fn format(time: Timestamp) -> String {
    let second = time.unix().as_secs() % DAY;
    format!("{}T{:02}:{:02}:{:02}Z", day(time), second / 3600, second / 60 % 60, second % 60)
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

fn read(text: &str) -> Option<Timestamp> {
    let (date, time) = match text.split_once('T') {
        Some((date, time)) => (date, time.strip_suffix('Z')?),
        None => (text, "00:00:00"),
    };
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let [hour, minute, second] = numbers(time, ':', [2, 2, 2])?;
    let days = days(year, month, day).filter(|_| hour < 24 && minute < 60 && second < 60)?;
    Some(Timestamp::from_unix(Duration::from_secs(days * DAY + hour * 3600 + minute * 60 + second)))
}

/// Exactly three groups of digits of these lengths.
fn numbers(text: &str, separator: char, lengths: [usize; 3]) -> Option<[u64; 3]> {
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

/// Days since 1970-01-01 to year, month and day (Howard Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms").
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + EPOCH;
    let (era, day_of_era) = (days / DAYS_IN_400_YEARS, days % DAYS_IN_400_YEARS);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// The inverse; none for a day that no calendar has, or one before 1970.
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    if year < 1970 || !(1..=12).contains(&month) || day == 0 {
        return None;
    }
    let shifted = year - u64::from(month <= 2);
    let (era, year_of_era) = (shifted / 400, shifted % 400);
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = (era * DAYS_IN_400_YEARS + day_of_era).checked_sub(EPOCH)?;
    // A day that the month does not have would come back as one of the next.
    (date(days) == (year, month, day)).then_some(days)
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
    fn every_day_of_a_century_comes_back() {
        for number in 0..50_000 {
            let (year, month, day) = date(number);
            assert_eq!(days(year, month, day), Some(number));
        }
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
