//! Warming: images are brought in before anybody pulls them, in the way of a pull, so that later
//! pulls are hits under the same access rules (WARM-1).
//!
//! 1. `plan` finds out of what each image consists. For that its manifests are fetched, and what is
//!    attached to it (`attached`).
//! 2. Of all images the blobs are brought in, some at once, each tried again with `patience`.
//! 3. At the end the store is asked for every part: what has been evicted meanwhile, because not all
//!    of it has room, is missing.

mod at_once;
mod attached;
mod fetching;
mod order;
mod parts;
mod patience;
mod plan;
mod progress;
mod report;
mod selection;

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::oci::Digest;

pub(crate) use fetching::WarmTools;
pub(crate) use order::{WarmImage, WarmOrder};
pub(crate) use progress::{WarmEvent, WarmProgress, WarmTotals};
pub(crate) use report::{Amount, WarmReport, WarmedContents, WarmedImage};

use at_once::at_once;
use parts::Part;
use plan::{ImagePlan, plan};

/// Warms what is ordered, and says how it goes on. Whoever drops it cancels it: what has come is
/// kept.
pub(crate) async fn run(tools: WarmTools, order: WarmOrder) -> WarmReport {
    let WarmOrder { images, jobs, dry_run, contents } = order;
    tools.progress.begin(images.len());
    let plans = at_once(images, jobs, |image| plan(tools.clone(), image)).await;
    let mut report = count(&tools, &plans, dry_run).await;
    tools.progress.expect(report.fetched);
    let places = Arc::new(Semaphore::new(jobs));
    let plans = at_once(plans, jobs, |plan| {
        let (tools, places) = (tools.clone(), Arc::clone(&places));
        async move {
            let plan = if dry_run { plan } else { bring(&tools, plan, jobs, places).await };
            tools.progress.finished(plan.report(&tools).await).await;
            plan
        }
    });
    let mut plans = plans.await;
    for plan in &mut plans {
        fit_in(&tools, plan).await;
    }
    for mut plan in plans {
        if !dry_run {
            check(&tools, &mut plan).await;
        }
        if contents {
            report.contents.extend(plan.contents());
        }
        if !plan.missing.is_empty() {
            report.incomplete.push(plan.report(&tools).await);
        }
    }
    report
}

/// What there is to bring in, and what is here, each part once.
async fn count(tools: &WarmTools, plans: &[ImagePlan], is_dry_run: bool) -> WarmReport {
    let mut seen: HashSet<Digest> = HashSet::new();
    let (mut fetched, mut present) = (Amount::default(), Amount::default());
    for plan in plans {
        for part in plan.blobs() {
            if seen.insert(part.digest.clone()) {
                let is_here = tools.pull.has(&plan.name, &part.digest).await;
                if is_here { present.add(&part) } else { fetched.add(&part) }
            }
        }
    }
    let (incomplete, contents) = (Vec::new(), Vec::new());
    WarmReport { images: plans.len(), is_dry_run, fetched, present, incomplete, contents }
}

/// Brings the blobs of an image in.
async fn bring(
    tools: &WarmTools,
    mut plan: ImagePlan,
    jobs: usize,
    places: Arc<Semaphore>,
) -> ImagePlan {
    let fetch = |blob: Part| {
        let (tools, name, places) = (tools.clone(), plan.name.clone(), Arc::clone(&places));
        async move {
            // It is never closed.
            let _place = places.acquire().await;
            let fetched = tools.blob(&name, &blob).await;
            fetched.err().map(|error| (blob, error))
        }
    };
    let failed = at_once(plan.blobs(), jobs, fetch).await;
    for (blob, error) in failed.into_iter().flatten() {
        plan.lack(&blob, &error);
    }
    plan
}

/// Brings in what found no room beside others, which are there by now: one at a time may fit
/// (DESIGN §14.10).
async fn fit_in(tools: &WarmTools, plan: &mut ImagePlan) {
    for part in std::mem::take(&mut plan.crowded_out) {
        if tools.blob(&plan.name, &part).await.is_err() {
            plan.was_not_kept(&part);
        }
    }
}

/// Looks for every part of an image that was brought in.
async fn check(tools: &WarmTools, plan: &mut ImagePlan) {
    let known: HashSet<String> = plan.missing.iter().map(|missing| missing.what.clone()).collect();
    for part in plan.parts.clone() {
        let is_known = part.left_out || known.contains(part.digest.as_str());
        if !is_known && !tools.keeps(&plan.name, &part).await {
            plan.was_not_kept(&part);
        }
    }
}
