//! Secrets: values that cannot be printed.

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

/// A credential in memory. It has no `Display` and no `Serialize`, its `Debug` says nothing, and it
/// is wiped when dropped.
#[derive(Clone)]
pub struct Secret(Arc<Zeroizing<String>>);

impl Secret {
    pub fn new(value: String) -> Self {
        Self(Arc::new(Zeroizing::new(value)))
    }

    /// A secret as a file, a variable or a program hands it over: without the line ends that
    /// editors and `echo` add. None if nothing is left.
    pub fn of_line(text: &str) -> Option<Self> {
        let value = text.trim_end_matches(['\r', '\n']);
        (!value.is_empty()).then(|| Self::new(value.to_owned()))
    }

    /// The value itself, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}
