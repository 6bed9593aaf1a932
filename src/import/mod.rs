//! Takes over what a trusted bundle says of content that has come: first everything of an image has
//! to be there, then it is proven for its repository, and its tag comes last (BUNDLE-2).

mod reach;

use std::collections::HashMap;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::oci::{CanonicalName, Digest, MediaType, Tag};
use crate::pull::{ImportedTag, PullThrough};
use crate::store::{BlobStore, Error, TagRecord};

use reach::Reached;

/// What a bundle says.
#[derive(Debug)]
pub(crate) struct ImportOrder {
    pub(crate) images: Vec<ImportImage>,
    /// Everything that the images consist of; manifests with as what they were served.
    pub(crate) contents: HashMap<Digest, Option<MediaType>>,
    /// Tags may move back in time.
    pub(crate) force: bool,
}

/// An image of a repository of ours.
#[derive(Clone, Debug)]
pub(crate) struct ImportImage {
    pub(crate) name: CanonicalName,
    pub(crate) tag: Option<Tag>,
    pub(crate) digest: Digest,
    /// When its registry last said so.
    pub(crate) seen: Timestamp,
}

/// What became of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ImportOutcome {
    New,
    Present,
    /// The tag led elsewhere before.
    Moved,
    /// Nothing of it is visible, for this reason.
    Refused(String),
}

/// Takes over each image by itself.
///
/// # Errors
/// If the records fail; images before that are imported.
pub(crate) async fn import(
    pull: &PullThrough,
    store: &BlobStore,
    order: ImportOrder,
) -> Result<Vec<(ImportImage, ImportOutcome)>, Error> {
    let ImportOrder { images, contents, force } = order;
    let (contents, mut outcomes) = (Arc::new(contents), Vec::new());
    for image in images {
        let (survey, contents, root) =
            (store.survey(), Arc::clone(&contents), image.digest.clone());
        let reached = move || Reached::of(&survey, &contents, &root);
        let outcome = match tokio::task::spawn_blocking(reached).await {
            Ok(Ok(reached)) => publish(pull, store, &image, (&reached, force)).await?,
            Ok(Err(refusal)) => ImportOutcome::Refused(refusal),
            Err(panicked) => ImportOutcome::Refused(panicked.to_string()),
        };
        outcomes.push((image, outcome));
    }
    Ok(outcomes)
}

/// Proves every part, and sets the tag.
async fn publish(
    pull: &PullThrough,
    store: &BlobStore,
    image: &ImportImage,
    (reached, force): (&Reached, bool),
) -> Result<ImportOutcome, Error> {
    let ImportImage { name, tag, digest, seen } = image;
    let was_known = store.records().member(name, digest).await?.is_some();
    for (part, media_type) in &reached.parts {
        pull.imported(name, part, media_type.clone(), *seen).await?;
    }
    for subject in &reached.subjects {
        pull.imported_referrer(name, subject);
    }
    let Some(tag) = tag else {
        return Ok(if was_known { ImportOutcome::Present } else { ImportOutcome::New });
    };
    let record = TagRecord { digest: digest.clone(), checked: *seen };
    Ok(match pull.imported_tag(name, tag, record, force).await? {
        ImportedTag::New => ImportOutcome::New,
        ImportedTag::Present => ImportOutcome::Present,
        ImportedTag::Moved => ImportOutcome::Moved,
        ImportedTag::Newer(known) => ImportOutcome::Refused(format!(
            "the cache has a newer one, {}; --force goes back, and {digest} can be pulled by its \
             digest",
            known.digest
        )),
    })
}
