//! What an image consists of, as its manifests in the store say, as far as the bundle names it.

use std::collections::{HashMap, HashSet};

use crate::oci::{Digest, Manifest, MediaType};
use crate::store::Survey;

/// Bytes of a manifest, as for pulls.
const MANIFEST_MAX: u64 = 4 << 20;

/// Missing parts that are told by their digests.
const TOLD_MAX: usize = 3;

/// All of an image, which is here.
#[derive(Debug, Default)]
pub(super) struct Reached {
    /// Manifests with as what they were served.
    pub(super) parts: Vec<(Digest, Option<MediaType>)>,
    /// What its manifests are attached to.
    pub(super) subjects: Vec<Digest>,
}

impl Reached {
    /// Goes through the manifests from `root` on. What an index lists and the bundle does not name was
    /// left out on purpose, as platforms that nobody wanted are.
    ///
    /// # Errors
    /// A sentence: something is not here, or no manifest.
    pub(super) fn of(
        survey: &Survey,
        contents: &HashMap<Digest, Option<MediaType>>,
        root: &Digest,
    ) -> Result<Self, String> {
        if contents.get(root).is_none_or(Option::is_none) {
            return Err(format!("the bundle says nothing of the manifest {root}"));
        }
        let (mut reached, mut missing) = (Self::default(), Vec::new());
        let (mut queue, mut seen) = (vec![root.clone()], HashSet::from([root.clone()]));
        while let Some(digest) = queue.pop() {
            let Some(media_type) = contents.get(&digest) else {
                continue;
            };
            let is_here = match media_type {
                None => survey.kept(&digest).is_some(),
                Some(kind) => match survey.bytes(&digest, MANIFEST_MAX) {
                    Some(bytes) => {
                        let manifest = Manifest::inspect(&bytes, kind)
                            .map_err(|error| format!("{digest}: {error}"))?;
                        reached.subjects.extend(manifest.subject().cloned());
                        let listed = manifest.descriptors().iter().map(|part| part.digest.clone());
                        queue.extend(listed.filter(|part| seen.insert(part.clone())));
                        true
                    }
                    None => false,
                },
            };
            if is_here {
                reached.parts.push((digest, media_type.clone()));
            } else {
                missing.push(digest);
            }
        }
        if missing.is_empty() { Ok(reached) } else { Err(told(&missing)) }
    }
}

fn told(missing: &[Digest]) -> String {
    let first: Vec<_> = missing.iter().take(TOLD_MAX).map(Digest::as_str).collect();
    let more = missing.len().saturating_sub(TOLD_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!(
        "not all of it is here: {}{more} missing; import the bundle that has them as well, or \
         export against an inventory of this cache",
        first.join(", ")
    )
}
