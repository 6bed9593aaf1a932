//! Everything that an image needs: its manifests, and what they list.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::{CachedPlatform, PlatformState};
use crate::oci::{Digest, Manifest, MediaType, Platform};
use crate::store::Survey;

/// Bytes of a manifest or configuration that is looked into.
const DOCUMENT_MAX: u64 = 4 << 20;

/// What one manifest leads to.
#[derive(Debug, Default)]
pub(super) struct Closure {
    /// Of an index those that it lists, else itself.
    pub(super) platforms: Vec<CachedPlatform>,
    /// What it is attached to, as a signature is.
    pub(super) subject: Option<Digest>,
    parts: BTreeSet<Digest>,
}

impl Closure {
    /// Manifests, configurations and layers, each once, whether or not they are here.
    pub(super) fn parts(&self) -> impl Iterator<Item = &Digest> {
        self.parts.iter()
    }

    /// The manifest of `root`, and those that it leads to.
    pub(super) fn manifests<'a>(&'a self, root: &'a Digest) -> impl Iterator<Item = &'a Digest> {
        std::iter::once(root).chain(self.platforms.iter().map(|platform| &platform.digest))
    }

    pub(super) fn needs(&self, digest: &Digest) -> bool {
        self.parts.contains(digest)
    }
}

/// Closures that have been looked at, since many tags lead to the same.
pub(super) struct Closures<'a> {
    survey: &'a Survey,
    /// The manifests, and as what they were sent.
    types: HashMap<Digest, MediaType>,
    known: HashMap<Digest, Arc<Closure>>,
}

impl<'a> Closures<'a> {
    pub(super) fn new(survey: &'a Survey, types: HashMap<Digest, MediaType>) -> Self {
        Self { survey, types, known: HashMap::new() }
    }

    pub(super) fn of(&mut self, digest: &Digest) -> Arc<Closure> {
        if let Some(known) = self.known.get(digest) {
            return Arc::clone(known);
        }
        let closure = Arc::new(self.look_at(digest));
        self.known.insert(digest.clone(), Arc::clone(&closure));
        closure
    }

    fn look_at(&self, digest: &Digest) -> Closure {
        let mut closure = Closure::default();
        closure.parts.insert(digest.clone());
        let Some(manifest) = self.manifest(digest) else {
            closure.platforms.push(absent(None, digest));
            return closure;
        };
        closure.subject = manifest.subject().cloned();
        if !manifest.is_index() {
            let platform = self.configured_platform(&manifest);
            self.add_image(&mut closure, platform, digest, &manifest);
            return closure;
        }
        for listed in manifest.descriptors() {
            closure.parts.insert(listed.digest.clone());
            let platform = listed.platform.as_ref().map(Platform::to_string);
            match self.manifest(&listed.digest) {
                Some(image) => self.add_image(&mut closure, platform, &listed.digest, &image),
                None => closure.platforms.push(absent(platform, &listed.digest)),
            }
        }
        closure
    }

    fn add_image(
        &self,
        closure: &mut Closure,
        name: Option<String>,
        digest: &Digest,
        manifest: &Manifest,
    ) {
        let listed = || manifest.descriptors().iter().map(|listed| &listed.digest);
        let lacks: Vec<_> =
            listed().filter(|part| self.survey.kept(part).is_none()).cloned().collect();
        let state =
            if lacks.is_empty() { PlatformState::Complete } else { PlatformState::Lacks(lacks) };
        closure.platforms.push(CachedPlatform { name, digest: digest.clone(), state });
        closure.parts.extend(listed().cloned());
    }

    /// What is stored as `digest`, if it is a manifest.
    pub(super) fn manifest(&self, digest: &Digest) -> Option<Manifest> {
        let media_type = self.types.get(digest)?;
        let bytes = self.survey.bytes(digest, DOCUMENT_MAX)?;
        Manifest::inspect(&bytes, media_type).ok()
    }

    /// What the configuration of an image says that it is for.
    fn configured_platform(&self, manifest: &Manifest) -> Option<String> {
        let config = manifest.descriptors().first()?;
        let bytes = self.survey.bytes(&config.digest, DOCUMENT_MAX)?;
        let document = serde_json::from_slice(&bytes).ok()?;
        Platform::read(&document).map(|platform| platform.to_string())
    }
}

fn absent(name: Option<String>, digest: &Digest) -> CachedPlatform {
    CachedPlatform { name, digest: digest.clone(), state: PlatformState::Absent }
}
