//! What one side has already, so that the other leaves it out.

use std::collections::HashSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::envelope::Trust;
use super::opened::OpenedBundle;
use super::plain_files::read_bounded;
use crate::clock::Timestamp;
use crate::licence::calendar;
use crate::oci::Digest;

const VERSION: u32 = 1;

/// Bytes of an inventory: some 75 for each blob, so several millions of them.
const INVENTORY_MAX: u64 = 512 << 20;

/// Content that is there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inventory(HashSet<Digest>);

#[derive(Deserialize, Serialize)]
struct InventoryFields {
    roadstead_inventory: u32,
    created: String,
    contents: Vec<String>,
}

impl Inventory {
    pub(crate) fn has(&self, digest: &Digest) -> bool {
        self.0.contains(digest)
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// As a file.
    pub(crate) fn to_json(digests: &[Digest], now: Timestamp) -> Vec<u8> {
        let fields = InventoryFields {
            roadstead_inventory: VERSION,
            created: calendar::format(now),
            contents: digests.iter().map(ToString::to_string).collect(),
        };
        // Strings and numbers alone: nothing of it can fail to be written.
        let mut bytes = serde_json::to_vec(&fields).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// Reads an inventory, or a bundle, whose content counts as there. It need not be signed: what is
    /// left out wrongly is noticed by whoever imports the rest.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let told = |error: String| format!("{}: {error}", path.display());
        if path.is_dir() {
            let OpenedBundle { statement, .. } = OpenedBundle::open(path, &Trust::Unsigned)?;
            return Ok(Self(statement.contents.into_iter().map(|one| one.digest).collect()));
        }
        Self::parse(&read_bounded(path, INVENTORY_MAX).map_err(told)?).map_err(told)
    }

    fn parse(json: &[u8]) -> Result<Self, String> {
        let fields: InventoryFields = serde_json::from_slice(json).map_err(|error| {
            format!(
                "this is neither an inventory, as roadstead inventory prints it, nor a bundle: \
                {error}"
            )
        })?;
        if fields.roadstead_inventory != VERSION {
            return Err("a later roadstead has written this inventory: update this one".to_owned());
        }
        let digests = fields.contents.iter().map(|digest| Digest::parse(digest));
        digests.collect::<Result<_, _>>().map(Self).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn an_inventory_is_read_as_it_was_written() {
        let [here, other] = [b"here", b"gone"].map(|bytes| Digest::of(Algorithm::Sha256, bytes));
        let json =
            Inventory::to_json(std::slice::from_ref(&here), Timestamp::from_unix(Duration::ZERO));
        let inventory = Inventory::parse(&json).expect("ours");
        assert!(inventory.has(&here) && !inventory.has(&other));
        for wrong in ["", "{}", "[]", r#"{"roadstead_inventory":1,"created":"","contents":["x"]}"#]
        {
            Inventory::parse(wrong.as_bytes()).expect_err(wrong);
        }
        let later = String::from_utf8(json).expect("text").replace(":1,", ":2,");
        assert!(Inventory::parse(later.as_bytes()).expect_err("later").contains("update"));
    }
}
