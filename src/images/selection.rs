//! Which images a command means.

use super::Root;
use crate::oci::{ImageQuery, Pattern};

/// Images that are named: one, or those of some repositories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ImageSelection {
    /// Without a tag and a digest, every one of the repository.
    Image(ImageQuery),
    Repositories(Pattern),
}

impl ImageSelection {
    /// A pattern has a `*` in it.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.contains('*') {
            Pattern::parse(text).map(Self::Repositories)
        } else {
            ImageQuery::parse(text).map(Self::Image).map_err(|wrong| format!("{text:?}: {wrong}"))
        }
    }

    pub(super) fn means(&self, root: &Root) -> bool {
        match self {
            Self::Image(query) => query.names(&root.name, root.tag.as_ref(), &root.digest),
            Self::Repositories(pattern) => pattern.matches(&root.name.to_string()),
        }
    }
}
