//! Sizes and durations as people write them. Pure.

use std::time::Duration;

use super::MinFree;
use super::place::Place;

const SIZES: [(&str, u64); 9] = [
    ("", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

const MILLIS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Ten years: longer than any age here means anything, and far from overflowing a clock.
const DURATION_MAX: Duration = Duration::from_hours(3650 * 24);

/// Bytes: a whole number with an optional unit, as `100GiB`, `512 MiB`, `1000000`.
///
/// # Errors
/// A sentence that says what would be right.
pub(super) fn size(text: &str) -> Result<u64, String> {
    scaled(text, &SIZES).ok_or_else(|| {
        format!(
            "{text:?} is no size; write a whole number of bytes or one with KiB, MiB, GiB or \
            TiB, as 100GiB"
        )
    })
}

/// A whole number with a unit, as `500ms`, `90s`, `5m`, `24h`, `7d`; at most ten years.
///
/// # Errors
/// A sentence that says what would be right.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let millis = scaled(text, &MILLIS).ok_or_else(|| {
        format!("{text:?} is no duration; write a whole number with ms, s, m, h or d, as 5m")
    })?;
    let duration = Duration::from_millis(millis);
    if duration > DURATION_MAX {
        Err(format!("{text:?} is longer than ten years"))
    } else {
        Ok(duration)
    }
}

/// The duration at a place, with a warning if it is longer than anybody would want.
///
/// # Errors
/// Those of [`duration`].
pub(super) fn duration_up_to(place: &Place<'_>, most: Duration) -> Result<Duration, String> {
    let text = place.amount()?;
    let duration = duration(&text)?;
    if duration > most {
        let hours = most.as_secs() / 3600;
        let most = if hours < 48 { format!("{hours}h") } else { format!("{}d", hours / 24) };
        place.warning(format!("{text} is very long; more than {most} is hardly meant"));
    }
    Ok(duration)
}

/// A share of the file system below 100 %, as `5%`, or a size.
///
/// # Errors
/// A sentence that says what would be right.
pub(super) fn min_free(text: &str) -> Result<MinFree, String> {
    let Some(number) = text.strip_suffix('%') else {
        return size(text)
            .map(MinFree::Bytes)
            .map_err(|_| format!("{text:?} is neither a share nor a size; write 5% or 10GiB"));
    };
    match number.trim_end().parse() {
        Ok(percent) if percent < 100 => Ok(MinFree::Percent(percent)),
        Ok(_) | Err(_) => {
            Err(format!("{text:?} leaves nothing to use; write a whole number from 0% to 99%"))
        }
    }
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let (_, scale) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_whole_numbers_with_an_optional_unit() {
        for (text, bytes) in [
            ("0", 0),
            ("1000", 1000),
            ("100GiB", 100 << 30),
            ("512 MiB", 512 << 20),
            ("2KiB", 2048),
            ("1TiB", 1 << 40),
            ("3MB", 3_000_000),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "GiB", "1.5GiB", "-1", "100G", "100gib", "1 2", "20000000TiB", "1e3", "5%"]
        {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_need_a_unit() {
        for (text, millis) in
            [("500ms", 500), ("90s", 90_000), ("5m", 300_000), ("24h", 86_400_000), ("0s", 0)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "5", "m", "1.5h", "-5m", "5min", "1h30m", "3651d", "18446744073709551615s"]
        {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn free_space_is_a_share_below_the_whole_or_a_size() {
        assert_eq!(min_free("5%"), Ok(MinFree::Percent(5)));
        assert_eq!(min_free("0%"), Ok(MinFree::Percent(0)));
        assert_eq!(min_free("10GiB"), Ok(MinFree::Bytes(10 << 30)));
        for text in ["100%", "-1%", "5.5%", "%", "300%", "much"] {
            assert!(min_free(text).is_err(), "{text}");
        }
    }
}
