//! Every pin, by the repository that it is for. Pure.

use std::collections::HashMap;

use crate::oci::{CanonicalName, Digest, Tag};
use crate::wanted::{PinLine, PinTarget};

/// Who has set a pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PinSetter {
    Configuration,
    Command,
}

/// A pin that is set.
#[derive(Clone, Debug)]
pub(crate) struct SetPin {
    pub(crate) line: PinLine,
    pub(crate) by: PinSetter,
}

#[derive(Clone, Debug, Default)]
pub(super) struct PinSet {
    pins: Vec<SetPin>,
    /// Where those for one image stand.
    by_name: HashMap<CanonicalName, Vec<usize>>,
    patterns: Vec<usize>,
}

impl PinSet {
    /// Those of the configuration first: where there is no room for all they come before others.
    pub(super) fn of(configured: &[PinLine], commanded: &[PinLine]) -> Self {
        let set = |line: &PinLine, by| SetPin { line: line.clone(), by };
        let configured = configured.iter().map(|line| set(line, PinSetter::Configuration));
        let commanded = commanded.iter().map(|line| set(line, PinSetter::Command));
        let mut all = Self { pins: configured.chain(commanded).collect(), ..Self::default() };
        for (nth, pin) in all.pins.iter().enumerate() {
            match &pin.line.target {
                PinTarget::Image(image) => {
                    all.by_name.entry(image.name().clone()).or_default().push(nth);
                }
                PinTarget::Repositories(_) => all.patterns.push(nth),
            }
        }
        all
    }

    pub(super) fn list(&self) -> &[SetPin] {
        &self.pins
    }

    /// Pins for images of the repository.
    pub(super) fn in_repository(&self, name: &CanonicalName) -> Vec<&SetPin> {
        let by_name = self.by_name.get(name).into_iter().flatten();
        let all = by_name.chain(&self.patterns).filter_map(|nth| self.pins.get(*nth));
        all.filter(|pin| pin.line.target.is_in(name)).collect()
    }

    /// The pin that is for this image.
    pub(super) fn find(
        &self,
        name: &CanonicalName,
        tag: Option<&Tag>,
        digest: &Digest,
    ) -> Option<&SetPin> {
        let pins = self.in_repository(name);
        pins.into_iter().find(|pin| pin.line.target.is_for(name, tag, digest))
    }

    /// Repositories that are named without a pattern.
    pub(super) fn names(&self) -> impl Iterator<Item = &CanonicalName> {
        self.by_name.keys()
    }

    pub(super) fn has_patterns(&self) -> bool {
        !self.patterns.is_empty()
    }
}
