//! What a listed manifest is for.

use std::fmt;

use serde_json::Value;

/// The platform of an entry of an index, as far as clients choose by it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
        Some(Self { os, os_version, ..Self::of(&architecture, &variant) })
    }

    /// Reads `os/architecture[/variant]`, as people write it.
    ///
    /// # Errors
    /// A sentence that says what is right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let word = |part: &&str| {
            !part.is_empty()
                && part.len() <= 32
                && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        };
        let parts: Vec<&str> = text.split('/').collect();
        match *parts {
            [os, architecture] if parts.iter().all(word) => {
                Ok(Self { os: os.to_owned(), ..Self::of(architecture, "") })
            }
            [os, architecture, variant] if parts.iter().all(word) => {
                Ok(Self { os: os.to_owned(), ..Self::of(architecture, variant) })
            }
            _ => Err("a platform is OS/ARCHITECTURE, as linux/amd64 or linux/arm/v7".to_owned()),
        }
    }

    /// Other words for the same are replaced, and a variant that is what there is without one is
    /// left out, as containerd does.
    fn of(architecture: &str, variant: &str) -> Self {
        let architecture = match architecture {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let variant = match (architecture, variant) {
            ("arm64", "8" | "v8") | ("amd64", "v1") => "",
            ("arm", "" | "7") => "v7",
            _ => variant,
        };
        Self {
            os: String::new(),
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
            os_version: String::new(),
        }
    }

    /// Whether a client takes one for the other where it does not find its own version.
    pub fn runs_like(&self, other: &Self) -> bool {
        (&self.os, &self.architecture, &self.variant)
            == (&other.os, &other.architecture, &other.variant)
    }
}

/// As [`Platform::parse`] reads it, without the version of the system.
impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [&self.os, &self.architecture, &self.variant].map(String::as_str);
        let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        f.write_str(&parts.join("/"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_written_in_one_way() {
        for (written, shown) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("linux/amd64/v1", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/7", "linux/arm/v7"),
            ("linux/arm/v6", "linux/arm/v6"),
            ("windows/amd64", "windows/amd64"),
        ] {
            let platform = Platform::parse(written).expect(written);
            assert_eq!(platform.to_string(), shown, "{written}");
            assert_eq!(Platform::parse(shown).as_ref(), Ok(&platform));
        }
        for bad in ["", "linux", "linux/", "/amd64", "linux/amd64/v3/x", "Linux/amd64", "a b/c"] {
            assert!(Platform::parse(bad).is_err(), "{bad}");
        }
    }
}
