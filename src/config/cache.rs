//! `cache`: where content is kept, how much of it, and how long what is known is believed.

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use super::keys;
use super::place::{Fields, Place};
use super::units;
use super::{Cache, MinFree, PinList};
use crate::files;
use crate::wanted::PinLine;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const MINUTE: Duration = Duration::from_mins(1);
const DAY: Duration = Duration::from_hours(24);

/// Below this a cache holds hardly one image, since a blob takes half of it at most.
const SIZE_USEFUL: u64 = 64 * MIB;

pub(super) fn read(top: &Fields<'_>) -> Cache {
    let section = top.get("cache").map(|place| place.fields(keys::CACHE));
    let default = Cache {
        path: PathBuf::from("./roadstead-data"),
        max_size: 100 * GIB,
        min_free: MinFree::Percent(5),
        tag_ttl: 5 * MINUTE,
        stale_if_error: DAY,
        proof_ttl: 10 * MINUTE,
        abandon_after: 5 * MINUTE,
        pins: PinList::default(),
        scrub: 30 * DAY,
        scrub_rate: NonZeroU64::new(16 * MIB).expect("16 MiB are not 0"),
    };
    let Some(section) = section else { return default };
    let age =
        |key, default, most| section.read(key, default, |place| units::duration_up_to(place, most));
    let cache = Cache {
        tag_ttl: age("tag_ttl", default.tag_ttl, 30 * DAY),
        stale_if_error: age("stale_if_error", default.stale_if_error, 366 * DAY),
        proof_ttl: age("proof_ttl", default.proof_ttl, 30 * DAY),
        abandon_after: age("abandon_after", default.abandon_after, DAY),
        path: section.read("path", default.path, |place| place.text().map(PathBuf::from)),
        max_size: section.read("max_size", default.max_size, max_size),
        min_free: section
            .read("min_free", default.min_free, |place| units::min_free(&place.amount()?)),
        pins: PinList(section.list("pins", PinLine::parse)),
        scrub: section.read("scrub", default.scrub, scrub),
        scrub_rate: section.read("scrub_rate", default.scrub_rate, |place| {
            let rate = units::size(&place.amount()?)?;
            NonZeroU64::new(rate).ok_or_else(|| {
                "reads nothing; to have nothing read again, write scrub: 0".to_owned()
            })
        }),
    };
    compare_with_disk(&section, &cache);
    cache
}

/// 0 is never.
fn scrub(place: &Place<'_>) -> Result<Duration, String> {
    match place.amount()?.as_str() {
        "0" => Ok(Duration::ZERO),
        _ => units::duration_up_to(place, 366 * DAY),
    }
}

fn max_size(place: &Place<'_>) -> Result<u64, String> {
    let size = units::size(&place.amount()?)?;
    if size == 0 {
        return Err(
            "leaves no room for anything; write the largest size the cache may grow to, as 100GiB"
                .to_owned(),
        );
    }
    if size < SIZE_USEFUL {
        place.warning(format!(
            "{size} bytes hold hardly one image, since a blob may take half of it; write it with \
             its unit, as 100GiB"
        ));
    }
    Ok(size)
}

/// Sizes that were written for another disk. Without a word about them the defaults do: `min_free`
/// is a share, and keeps `max_size` from filling the disk.
fn compare_with_disk(section: &Fields<'_>, cache: &Cache) {
    let Some(disk) = files::disk_size(&cache.path) else { return };
    let disk_is = format!("the disk of {} has {} GiB", cache.path.display(), disk / GIB);
    if let Some(place) = section.get("max_size")
        && cache.max_size > disk
    {
        place.warning(format!("{disk_is}, so the cache cannot grow as large"));
    }
    if let Some(place) = section.get("min_free")
        && matches!(cache.min_free, MinFree::Bytes(bytes) if bytes >= disk)
    {
        place.warning(format!("{disk_is}, so nothing can be kept"));
    }
}
