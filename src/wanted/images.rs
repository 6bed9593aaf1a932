//! What lists name together: each image once, with every place that names it.

use std::collections::HashMap;

use super::line::ImageLine;
use super::place::FoundAt;
use crate::oci::ImageReference;

/// Images that lists name, the one that is found first first.
#[derive(Debug, Default)]
pub(crate) struct WantedImages {
    images: Vec<WantedImage>,
    /// Where each stands in `images`.
    index: HashMap<ImageReference, usize>,
    /// Of all images.
    pub(super) places: usize,
}

#[derive(Debug)]
pub(crate) struct WantedImage {
    /// What all places together say.
    pub(crate) line: ImageLine,
    pub(crate) places: Vec<FoundAt>,
}

impl WantedImages {
    pub(super) fn add(&mut self, line: ImageLine, at: FoundAt) {
        self.places += 1;
        let known = self.index.get(&line.image).and_then(|index| self.images.get_mut(*index));
        if let Some(image) = known {
            image.line.join(line);
            image.places.push(at);
        } else {
            self.index.insert(line.image.clone(), self.images.len());
            self.images.push(WantedImage { line, places: vec![at] });
        }
    }

    pub(crate) fn list(&self) -> &[WantedImage] {
        &self.images
    }
}
