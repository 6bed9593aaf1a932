//! The few words of statistics that the figures are told in.

use std::time::Duration;

/// The value that `share` of all values do not exceed (nearest rank).
pub(crate) fn quantile<T: Copy + PartialOrd>(values: &[T], share: f64) -> Option<T> {
    let mut sorted = values.to_vec();
    sorted.sort_by(|one, other| one.partial_cmp(other).unwrap_or(std::cmp::Ordering::Equal));
    let last = sorted.len().checked_sub(1)?;
    let below = (0..last).take_while(|at| ratio(at + 1, sorted.len()) < share).count();
    sorted.get(below).copied()
}

pub(crate) fn median<T: Copy + PartialOrd>(values: &[T]) -> Option<T> {
    quantile(values, 0.5)
}

pub(crate) fn millis(duration: Option<Duration>) -> String {
    duration.map_or("nothing".into(), |duration| format!("{:.2} ms", duration.as_secs_f64() * 1e3))
}

fn ratio(part: usize, whole: usize) -> f64 {
    let small = |count: usize| u32::try_from(count).map_or(f64::INFINITY, f64::from);
    small(part) / small(whole)
}
