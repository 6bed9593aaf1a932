//! Of what an image consists: its manifests are fetched, and what they list is noted.

use std::collections::{BTreeSet, HashSet, VecDeque};

use super::attached::Attached;
use super::fetching::{Fetched, WarmTools};
use super::order::WarmImage;
use super::parts::{Awaited, Part, Role};
use super::report::{Amount, MissingPart, MissingReason, WarmedContents, WarmedImage, WarmedPart};
use super::selection::{is_among, select};
use crate::oci::{CanonicalName, Digest, ImageReference, Platform, Reference, Tag};
use crate::pull::Error;
use crate::upstream::FailureClass;
use crate::wanted::WantedPlatforms;

/// Manifests of one image, with what is attached to it. Real ones have some dozens.
const MANIFESTS_MAX: usize = 2000;

/// Indexes in indexes, and what is attached to what is attached.
const DEPTH_MAX: usize = 4;

/// What is known of an image.
#[derive(Clone, Debug)]
pub(super) struct ImagePlan {
    image: ImageReference,
    pub(super) name: CanonicalName,
    digest: Option<Digest>,
    /// Tags of it and of what is attached to it, and where they lead.
    tags: Vec<(Tag, Digest)>,
    /// Manifests that nothing leads to but the registry's list of what is attached.
    attached: Vec<Digest>,
    platforms: BTreeSet<Platform>,
    pub(super) parts: Vec<Part>,
    pub(super) missing: Vec<MissingPart>,
    /// Blobs that found no room while others were on their way.
    pub(super) crowded_out: Vec<Part>,
}

struct Planner {
    tools: WarmTools,
    wanted: WarmImage,
    plan: ImagePlan,
    queue: VecDeque<Awaited>,
    seen: HashSet<Digest>,
    /// Something was found that may be for any platform.
    is_for_any: bool,
}

/// Fetches the manifests of an image that are wanted.
pub(super) async fn plan(tools: WarmTools, wanted: WarmImage) -> ImagePlan {
    let plan = ImagePlan {
        image: wanted.image.clone(),
        name: wanted.name.clone(),
        digest: None,
        tags: Vec::new(),
        attached: Vec::new(),
        platforms: BTreeSet::new(),
        parts: Vec::new(),
        missing: Vec::new(),
        crowded_out: Vec::new(),
    };
    let (queue, seen) = (VecDeque::new(), HashSet::new());
    let mut planner = Planner { tools, wanted, plan, queue, seen, is_for_any: false };
    planner.run().await;
    planner.tools.progress.planned();
    planner.plan
}

impl Planner {
    async fn run(&mut self) {
        let Some(reference) = self.wanted.reference() else { return };
        self.queue.push_back(Awaited { reference, depth: 0, role: Role::Image(None) });
        let mut manifests = 0;
        while let Some(awaited) = self.queue.pop_front() {
            manifests += 1;
            if manifests > MANIFESTS_MAX || awaited.depth > DEPTH_MAX {
                self.too_much(&awaited);
                continue;
            }
            let (name, reference) = (&self.wanted.name, &awaited.reference);
            match self.tools.manifest(name, reference).await {
                Ok(fetched) => self.look_at(awaited, fetched).await,
                Err(error) => self.not_there(&awaited, &error),
            }
        }
        if self.plan.digest.is_some() && !self.is_for_any {
            self.note_absent_platforms();
        }
    }

    fn too_much(&mut self, awaited: &Awaited) {
        let why =
            format!("more than {MANIFESTS_MAX} manifests, or more than {DEPTH_MAX} levels of them");
        let missing =
            MissingPart { what: what(&awaited.reference), reason: MissingReason::Failed, why };
        self.plan.missing.push(missing);
    }

    fn not_there(&mut self, awaited: &Awaited, error: &Error) {
        let is_absence = error.class() == FailureClass::Absent
            || matches!(error, Error::Sealed { .. } | Error::Unconfirmed { .. });
        if awaited.role != Role::MayBe || !is_absence {
            self.plan.missing.push(MissingPart::of(what(&awaited.reference), error));
        }
    }

    async fn look_at(&mut self, awaited: Awaited, fetched: Fetched) {
        let Awaited { reference, depth, role } = awaited;
        if let Reference::Tag(tag) = reference {
            self.plan.tags.push((tag, fetched.digest.clone()));
        }
        if depth == 0 && matches!(role, Role::Image(_)) {
            self.plan.digest = Some(fetched.digest.clone());
        }
        if !self.seen.insert(fetched.digest.clone()) {
            return;
        }
        self.plan.parts.push(Part::manifest(
            fetched.digest.clone(),
            fetched.size,
            fetched.media_type.clone(),
        ));
        if role == Role::Attached && fetched.manifest.subject().is_some() {
            self.plan.attached.push(fetched.digest.clone());
        }
        match (fetched.manifest.is_index(), role) {
            (true, Role::Image(_)) => self.take_index(&fetched, depth),
            (false, Role::Image(platform)) => self.take_image(&fetched, platform).await,
            (true, Role::Attached | Role::MayBe) => {
                let entries = fetched.manifest.descriptors().iter();
                self.queue.extend(entries.map(|entry| Awaited::attached(entry, depth + 1)));
            }
            (false, Role::Attached | Role::MayBe) => self.take_parts(&fetched),
        }
        if self.wanted.referrers {
            let attached = Attached { tools: &self.tools, name: &self.wanted.name };
            let found = attached.to(&fetched.digest).await;
            let deeper = |reference, role| Awaited { reference, depth: depth + 1, role };
            self.queue.extend(found.awaited.into_iter().map(|(at, role)| deeper(at, role)));
            self.plan.missing.extend(found.missing);
        }
    }

    fn take_index(&mut self, fetched: &Fetched, depth: usize) {
        let (platforms, referrers) = (&self.wanted.platforms, self.wanted.referrers);
        for selected in select(&fetched.manifest, platforms, referrers) {
            let awaited = Awaited::attached(selected.entry, depth + 1);
            let role = if selected.is_attestation {
                Role::Attached
            } else {
                Role::Image(selected.entry.platform.clone())
            };
            self.queue.push_back(Awaited { role, ..awaited });
        }
    }

    /// An image for one platform, unless its configuration says that it is for another.
    async fn take_image(&mut self, fetched: &Fetched, platform: Option<Platform>) {
        let platform = match (&self.wanted.platforms, platform) {
            (_, Some(platform)) => Some(platform),
            (WantedPlatforms::All, None) => None,
            (WantedPlatforms::Only(_), None) => self.configured_platform(fetched).await,
        };
        match (&self.wanted.platforms, platform) {
            (WantedPlatforms::Only(wanted), Some(platform)) if !is_among(wanted, &platform) => {}
            (_, platform) => {
                self.is_for_any |= platform.is_none();
                self.plan.platforms.extend(platform);
                self.take_parts(fetched);
            }
        }
    }

    async fn configured_platform(&mut self, fetched: &Fetched) -> Option<Platform> {
        let config = fetched.manifest.descriptors().first()?;
        let name = &self.wanted.name;
        let document = self.tools.document(name, &config.digest).await;
        // If it cannot be had, it will be missing with the rest.
        let document = serde_json::from_slice(&document.ok()??).ok()?;
        Platform::read(&document)
    }

    fn take_parts(&mut self, fetched: &Fetched) {
        let parts = fetched.manifest.descriptors().iter();
        self.plan
            .parts
            .extend(parts.filter(|part| self.seen.insert(part.digest.clone())).map(Part::blob));
    }

    fn note_absent_platforms(&mut self) {
        let WantedPlatforms::Only(wanted) = &self.wanted.platforms else { return };
        let found = &self.plan.platforms;
        let is_found = |wanted: &&Platform| found.iter().any(|found| found.runs_like(wanted));
        let absent = wanted.iter().filter(|wanted| !is_found(wanted)).map(|platform| MissingPart {
            what: format!("platform {platform}"),
            reason: MissingReason::Absent,
            why: "the image is not for this platform".to_owned(),
        });
        self.plan.missing.extend(absent);
    }
}

/// As it is told.
fn what(reference: &Reference) -> String {
    match reference {
        Reference::Digest(digest) => digest.to_string(),
        Reference::Tag(tag) => format!("tag {tag}"),
    }
}

impl ImagePlan {
    /// Configurations and layers, each once.
    pub(super) fn blobs(&self) -> Vec<Part> {
        self.parts.iter().filter(|part| !part.is_manifest()).cloned().collect()
    }

    /// A part could not be had. Layers that registries need not have are no loss: clients know
    /// where else to get them.
    pub(super) fn lack(&mut self, blob: &Part, error: &Error) {
        if matches!(error, Error::NoRoom) {
            self.crowded_out.push(blob.clone());
            return;
        }
        let is_no = matches!(error.class(), FailureClass::Absent | FailureClass::Refused);
        if blob.is_foreign && is_no {
            let parts = self.parts.iter_mut().filter(|part| part.digest == blob.digest);
            parts.for_each(|part| part.left_out = true);
        } else {
            self.missing.push(MissingPart::of(blob.digest.as_str(), error));
        }
    }

    pub(super) fn was_not_kept(&mut self, part: &Part) {
        self.missing.push(MissingPart::not_kept(part.digest.as_str()));
    }

    /// All of it, if it is complete.
    pub(super) fn contents(&self) -> Option<WarmedContents> {
        let digest = self.digest.clone().filter(|_| self.missing.is_empty())?;
        let parts = self.parts.iter().filter(|part| !part.left_out).map(|part| WarmedPart {
            digest: part.digest.clone(),
            size: part.size,
            media_type: part.media_type.clone(),
        });
        Some(WarmedContents {
            image: self.image.clone(),
            name: self.name.clone(),
            digest,
            tags: self.tags.clone(),
            attached: self.attached.clone(),
            parts: parts.collect(),
        })
    }

    pub(super) async fn report(&self, tools: &WarmTools) -> WarmedImage {
        let (mut all, mut absent) = (Amount::default(), Amount::default());
        for part in self.blobs() {
            all.add(&part);
            if !tools.pull.has(&self.name, &part.digest).await {
                absent.add(&part);
            }
        }
        WarmedImage {
            image: self.image.clone(),
            name: self.name.clone(),
            digest: self.digest.clone(),
            platforms: self.platforms.iter().map(ToString::to_string).collect(),
            all,
            absent,
            missing: self.missing.clone(),
        }
    }
}
