//! `POST /v1/warm`: images are brought in.

use std::sync::{Arc, Weak};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::documents::Unanswered;
use super::lines::Lines;
use super::parts::{ControlParts, ImageNames};
use crate::licence::calendar;
use crate::oci::{Digest, MediaType};
use crate::pull::PullThrough;
use crate::wanted::{ImageLine, WantedPlatforms};
use crate::warm::{
    self, Amount, WarmEvent, WarmImage, WarmOrder, WarmProgress, WarmReport, WarmTools, WarmTotals,
    WarmedContents, WarmedImage,
};

/// Between two lines of progress.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

/// Blobs at once, if nothing is said: as many as podman fetches.
const JOBS_DEFAULT: usize = 6;
/// As many downloads as there may be at once.
const JOBS_MAX: usize = 64;

/// What is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WarmRequest {
    /// Lines of a list.
    images: Vec<String>,
    jobs: Option<usize>,
    #[serde(default)]
    dry_run: bool,
    /// Whether a line for each image that is complete says of what it consists.
    #[serde(default)]
    contents: bool,
}

/// What is to be done, if every line can be read and leads to an upstream.
pub(super) fn order(names: &ImageNames, request: &WarmRequest) -> Result<WarmOrder, Unanswered> {
    let jobs = request.jobs.unwrap_or(JOBS_DEFAULT);
    if !(1..=JOBS_MAX).contains(&jobs) {
        return Err(Unanswered::bad_request(format!("jobs is 1 to {JOBS_MAX}")));
    }
    let mut wrong = Vec::new();
    let mut images = Vec::new();
    for line in &request.images {
        match image(names, line) {
            Ok(image) => images.push(image),
            Err(error) => wrong.push(error),
        }
    }
    if wrong.is_empty() {
        let WarmRequest { dry_run, contents, .. } = *request;
        Ok(WarmOrder { images, jobs, dry_run, contents })
    } else {
        Err(Unanswered::bad_request(wrong.join("\n")))
    }
}

fn image(names: &ImageNames, line: &str) -> Result<WarmImage, String> {
    let ImageLine { image, platforms, referrers } = ImageLine::parse(line)?;
    let name = names.find(image.name());
    let name = name.ok_or_else(|| format!("{image}: no such upstream is configured"))?;
    let platforms = platforms.unwrap_or(WantedPlatforms::All);
    Ok(WarmImage { image, name, platforms, referrers: referrers.unwrap_or(true) })
}

/// Does it, and tells how it goes on.
pub(super) async fn warm(
    parts: ControlParts,
    order: WarmOrder,
    told: Lines,
) -> Result<Value, String> {
    let (pull, (progress, events)) = (parts.pull.clone(), WarmProgress::new());
    let progress = Arc::new(progress);
    let telling = tell(events, Arc::downgrade(&progress), &told);
    let work = async {
        let tools = WarmTools::new(&parts.pull, parts.limits, Arc::clone(&progress));
        let report = warm::run(tools, order).await;
        told.tell(&totals(progress.totals())).await;
        drop(progress);
        report
    };
    // Side by side: the work goes on while somebody reads slowly.
    let (report, ()) = tokio::join!(work, telling);
    for contents in &report.contents {
        told.tell(&described(&pull, contents).await).await;
    }
    Ok(result(&report))
}

/// Tells of every image, and now and then how far it has come, until that is gone.
async fn tell(mut events: mpsc::Receiver<WarmEvent>, progress: Weak<WarmProgress>, told: &Lines) {
    let mut ticks = interval_at(Instant::now(), PROGRESS_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Some(WarmEvent::Finished(image)) => {
                    told.tell(&json!({ "image": warmed(&image) })).await;
                }
                Some(WarmEvent::Waits { name, pause, why }) => told.mention(&json!({
                    "waits": { "name": name.to_string(), "seconds": pause.as_secs(), "why": why }
                })),
                None => return,
            },
            _ = ticks.tick() => {
                if let Some(progress) = progress.upgrade() {
                    told.mention(&totals(progress.totals()));
                }
            }
        }
    }
}

fn totals(totals: WarmTotals) -> Value {
    json!({ "progress": {
        "images": {
            "of": totals.images, "planned": totals.images_planned, "done": totals.images_done
        },
        "blobs": { "of": totals.blobs, "done": totals.blobs_done },
        "bytes": { "of": totals.bytes, "done": totals.bytes_done },
    } })
}

fn result(report: &WarmReport) -> Value {
    json!({
        "complete": report.incomplete.is_empty(),
        "dry_run": report.is_dry_run,
        "images": report.images,
        "fetched": amount(report.fetched),
        "present": amount(report.present),
        "incomplete": report.incomplete.iter().map(warmed).collect::<Vec<_>>(),
    })
}

fn warmed(image: &WarmedImage) -> Value {
    let missing = image.missing.iter().map(|missing| {
        json!({
            "what": missing.what, "reason": missing.reason.to_string(), "why": missing.why
        })
    });
    json!({
        "image": image.image.to_string(),
        "name": image.name.to_string(),
        "digest": image.digest.as_ref().map(Digest::as_str),
        "platforms": image.platforms,
        "all": amount(image.all),
        "absent": amount(image.absent),
        "missing": missing.collect::<Vec<_>>(),
    })
}

/// Of what an image consists, and when its registry last said so.
async fn described(pull: &PullThrough, contents: &WarmedContents) -> Value {
    let WarmedContents { image, name, digest, tags, attached, parts } = contents;
    let (mut described, mut named) = (Vec::new(), Vec::new());
    for part in parts {
        described.push(json!({
            "digest": part.digest.as_str(),
            "size": part.size,
            "media_type": part.media_type.as_ref().map(MediaType::as_str),
            "seen": pull.when_seen(name, &part.digest).await.map(calendar::format),
        }));
    }
    for (tag, digest) in tags {
        named.push(json!({
            "tag": tag.as_str(),
            "digest": digest.as_str(),
            "seen": pull.when_tag_seen(name, tag).await.map(calendar::format),
        }));
    }
    json!({ "contents": {
        "image": image.to_string(),
        "digest": digest.as_str(),
        "tags": named,
        "attached": attached.iter().map(Digest::as_str).collect::<Vec<_>>(),
        "parts": described,
    } })
}

fn amount(amount: Amount) -> Value {
    json!({ "blobs": amount.blobs, "bytes": amount.bytes })
}
