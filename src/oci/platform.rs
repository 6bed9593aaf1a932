//! What a listed manifest is for.

use serde_json::Value;

/// The platform of an entry of an index, as far as clients choose by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    os: String,
    architecture: String,
    variant: String,
    /// Matters on Windows, where it changes with every release.
    os_version: String,
}

impl Platform {
    /// Reads the platform of an entry, or that of an image's configuration, which has the same
    /// words; none if it says of itself that it is no platform, as attestations do.
    pub fn read(document: &Value) -> Option<Self> {
        let text = |key| document.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let [os, architecture, variant, os_version] =
            ["os", "architecture", "variant", "os.version"].map(text);
        if os.is_empty() || os == "unknown" {
            return None;
        }
        // A variant that is what there is without one is left out, as containerd does.
        let variant = match (architecture.as_str(), variant.as_str()) {
            ("arm64", "8" | "v8") | ("amd64", "v1") => String::new(),
            ("arm", "" | "7") => "v7".to_owned(),
            _ => variant,
        };
        Some(Self { os, architecture, variant, os_version })
    }

    /// As clients write it: `linux/arm/v7`.
    pub fn to_text(&self) -> String {
        let Self { os, architecture, variant, .. } = self;
        let parts = [os.as_str(), architecture, variant];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/")
    }

    /// Whether a client takes one for the other where it does not find its own version.
    pub fn runs_like(&self, other: &Self) -> bool {
        (&self.os, &self.architecture, &self.variant)
            == (&other.os, &other.architecture, &other.variant)
    }
}
