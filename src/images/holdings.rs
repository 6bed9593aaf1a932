//! What pins keep in all, and whether there is room for it. Pure.
//!
//! An image is kept whole or not at all, and never what is too much for all of them together: a tag
//! may move to something larger than whoever pinned it had in mind, and must not take the cache from
//! everybody else (PIN-2). What does not fit is cached like everything that nobody has pinned.

use std::collections::{HashMap, HashSet};

use super::held::HeldImage;
use crate::oci::{CanonicalName, Digest};

/// Of the size of the cache, what pins may keep.
pub(super) fn allowed(max_size: u64) -> u64 {
    max_size / 10 * 9
}

/// An image that a pin is for and that finds no room.
#[derive(Clone, Debug)]
pub(crate) struct UnheldImage {
    pub(super) image: HeldImage,
    /// Bytes of it that nothing else keeps.
    pub(crate) needs: u64,
}

/// What keeps a part.
#[derive(Clone, Copy, Debug)]
struct HeldPart {
    repositories: u32,
    size: u64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Holdings {
    kept: HashMap<CanonicalName, Vec<HeldImage>>,
    unheld: HashMap<CanonicalName, Vec<UnheldImage>>,
    parts: HashMap<Digest, HeldPart>,
    bytes: u64,
}

/// What a change has the store do.
#[derive(Debug, Default)]
pub(super) struct Moves {
    pub(super) retain: Vec<Digest>,
    pub(super) let_go: Vec<Digest>,
}

impl Holdings {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn kept_of(&self, name: &CanonicalName) -> &[HeldImage] {
        self.kept.get(name).map_or(&[], Vec::as_slice)
    }

    pub(super) fn kept(&self) -> impl Iterator<Item = (&CanonicalName, &HeldImage)> {
        self.kept.iter().flat_map(|(name, images)| images.iter().map(move |image| (name, image)))
    }

    pub(super) fn unheld(&self) -> impl Iterator<Item = (&CanonicalName, &UnheldImage)> {
        self.unheld.iter().flat_map(|(name, images)| images.iter().map(move |image| (name, image)))
    }

    pub(super) fn unheld_of(&self, name: &CanonicalName) -> impl Iterator<Item = &UnheldImage> {
        self.unheld.get(name).into_iter().flatten()
    }

    /// Repositories of which something is kept, or would be.
    pub(super) fn names(&self) -> HashSet<CanonicalName> {
        self.kept.keys().chain(self.unheld.keys()).cloned().collect()
    }

    /// Whether the content is kept for the repository.
    pub(super) fn holds(&self, name: &CanonicalName, digest: &Digest) -> bool {
        self.parts.contains_key(digest)
            && self.kept_of(name).iter().any(|image| image.parts.contains_key(digest))
    }

    /// From now on these are the images of the repository that pins are for, as far as there is room
    /// in `allowed` bytes: those that were kept before come first.
    pub(super) fn put(
        &mut self,
        name: &CanonicalName,
        images: Vec<HeldImage>,
        allowed: u64,
    ) -> Moves {
        let before = self.kept.remove(name).unwrap_or_default();
        let was: HashSet<Digest> = parts(&before).cloned().collect();
        for part in &was {
            self.release(part);
        }
        let (mut now, mut kept, mut unheld) = (HashSet::new(), Vec::new(), Vec::new());
        let is_known = |image: &HeldImage| before.iter().any(|known| known.digest == image.digest);
        let (known, new): (Vec<_>, Vec<_>) = images.into_iter().partition(is_known);
        for image in known.into_iter().chain(new) {
            let lacks = image.parts.iter().filter(|(part, _)| !self.parts.contains_key(*part));
            let needs = lacks.fold(0_u64, |sum, (_, size)| sum.saturating_add(*size));
            if self.bytes.saturating_add(needs) > allowed {
                unheld.push(UnheldImage { image, needs });
                continue;
            }
            for (part, size) in &*image.parts {
                if now.insert(part.clone()) {
                    self.keep(part, *size);
                }
            }
            kept.push(image);
        }
        set_or_remove(&mut self.kept, name, kept);
        set_or_remove(&mut self.unheld, name, unheld);
        Moves {
            retain: now.difference(&was).cloned().collect(),
            let_go: was.difference(&now).cloned().collect(),
        }
    }

    fn keep(&mut self, part: &Digest, size: u64) {
        let held = self.parts.entry(part.clone()).or_insert(HeldPart { repositories: 0, size });
        if held.repositories == 0 {
            self.bytes += held.size;
        }
        held.repositories += 1;
    }

    fn release(&mut self, part: &Digest) {
        if let Some(held) = self.parts.get_mut(part) {
            held.repositories -= 1;
            if held.repositories == 0 {
                self.bytes -= held.size;
                self.parts.remove(part);
            }
        }
    }
}

fn parts(images: &[HeldImage]) -> impl Iterator<Item = &Digest> {
    images.iter().flat_map(|image| image.parts.keys())
}

fn set_or_remove<T>(of: &mut HashMap<CanonicalName, Vec<T>>, name: &CanonicalName, images: Vec<T>) {
    if images.is_empty() {
        of.remove(name);
    } else {
        of.insert(name.clone(), images);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::oci::Algorithm;
    use crate::wanted::PinLine;

    fn digest(n: u8) -> Digest {
        Digest::of(Algorithm::Sha256, &[n])
    }

    fn image(n: u8, parts: &[(u8, u64)]) -> HeldImage {
        HeldImage {
            pin: PinLine::parse("a/b:1").expect("a pin"),
            tag: None,
            digest: digest(n),
            parts: Arc::new(parts.iter().map(|(part, size)| (digest(*part), *size)).collect()),
        }
    }

    #[test]
    fn images_are_kept_whole_while_there_is_room_and_shared_parts_count_once() {
        let [a, b] = ["docker.io/a/a", "docker.io/b/b"]
            .map(|name| CanonicalName::parse(name).expect("a name"));
        let mut holdings = Holdings::default();
        let moves = holdings.put(&a, vec![image(1, &[(1, 10), (2, 40)])], 100);
        assert_eq!((moves.retain.len(), moves.let_go.len(), holdings.bytes()), (2, 0, 50));
        let moves = holdings.put(&b, vec![image(3, &[(3, 10), (2, 40)])], 100);
        assert_eq!((moves.retain.len(), holdings.bytes()), (2, 60));
        // It has become too large: it is not kept at all, and what others keep stays.
        let large = image(4, &[(4, 10), (2, 40), (5, 41)]);
        let moves = holdings.put(&b, vec![large.clone()], 100);
        assert_eq!((moves.retain.len(), moves.let_go.len(), holdings.bytes()), (0, 2, 50));
        assert_eq!(holdings.unheld().map(|(_, unheld)| unheld.needs).collect::<Vec<_>>(), [51]);
        let moves = holdings.put(&a, Vec::new(), 100);
        assert_eq!((moves.let_go.len(), holdings.bytes()), (2, 0));
        let moves = holdings.put(&b, vec![large], 100);
        assert_eq!((moves.retain.len(), holdings.bytes(), holdings.unheld().count()), (3, 91, 0));
        assert!(holdings.holds(&b, &digest(5)) && !holdings.holds(&a, &digest(5)));
    }

    #[test]
    fn what_was_kept_before_comes_first_and_sizes_that_are_lies_do_not_overflow() {
        let name = CanonicalName::parse("docker.io/a/a").expect("a name");
        let mut holdings = Holdings::default();
        holdings.put(&name, vec![image(1, &[(1, 60)])], 100);
        let huge = image(3, &[(3, u64::MAX), (4, u64::MAX)]);
        let images = vec![huge, image(2, &[(2, 60)]), image(1, &[(1, 60)])];
        let moves = holdings.put(&name, images, 100);
        assert!(moves.retain.is_empty() && moves.let_go.is_empty());
        assert_eq!((holdings.bytes(), holdings.unheld().count()), (60, 2));
    }
}
