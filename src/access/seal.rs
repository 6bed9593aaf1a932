//! Text that a client keeps for us and cannot read or change: where an upload goes on at the
//! registry (ACCESS §7.2). It saves us a table of uploads, and survives a restart.
//!
//! AES-256-GCM with a key that comes from the key file by HKDF. The identity that it was given to
//! and the image that it is for are authenticated with it, so that it opens for no other.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::keys::key_from;

/// The purpose that sets this key apart from others of the same file.
const KEY_PURPOSE: &[u8] = b"upload sealing";

/// Seals with one key; opens with that and the one before, so that uploads under way survive a
/// change of the key file.
#[derive(Clone)]
pub(super) struct Seals {
    current: Arc<RandomizedNonceKey>,
    previous: Option<Arc<RandomizedNonceKey>>,
}

impl Seals {
    /// `material` is the content of the key file.
    ///
    /// # Errors
    /// If no key can be derived from it.
    pub(super) fn new(material: &[u8]) -> Result<Self, String> {
        Ok(Self { current: key(material)?, previous: None })
    }

    /// With another key from now on.
    ///
    /// # Errors
    /// If no key can be derived from it.
    pub(super) fn renewed(&self, material: &[u8]) -> Result<Self, String> {
        Ok(Self { previous: Some(Arc::clone(&self.current)), ..Self::new(material)? })
    }

    /// `text`, to be opened with the same `context`; safe in a path. None if the system gives no
    /// randomness.
    pub(super) fn seal(&self, text: &str, context: &str) -> Option<String> {
        let mut sealed = text.as_bytes().to_vec();
        let nonce = self
            .current
            .seal_in_place_append_tag(Aad::from(context.as_bytes()), &mut sealed)
            .ok()?;
        Some(URL_SAFE_NO_PAD.encode([nonce.as_ref().as_slice(), &sealed].concat()))
    }

    /// What was sealed with this `context`; None for anything else.
    pub(super) fn open(&self, sealed: &str, context: &str) -> Option<String> {
        let bytes = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let (nonce, sealed) = bytes.split_at_checked(NONCE_LEN)?;
        [Some(&self.current), self.previous.as_ref()].into_iter().flatten().find_map(|key| {
            let mut text = sealed.to_vec();
            let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
            let opened = key.open_in_place(nonce, Aad::from(context.as_bytes()), &mut text).ok()?;
            String::from_utf8(opened.to_vec()).ok()
        })
    }
}

fn key(material: &[u8]) -> Result<Arc<RandomizedNonceKey>, String> {
    let key = RandomizedNonceKey::new(&AES_256_GCM, key_from(material, KEY_PURPOSE)?.as_ref());
    key.map(Arc::new).map_err(|_| "no key can be derived from it".to_owned())
}

impl fmt::Debug for Seals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seals").field("rotating", &self.previous.is_some()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "/v2/a/blobs/uploads/1?_state=x";

    #[test]
    fn what_is_sealed_opens_in_its_context_only_and_only_unchanged() {
        let seals = Seals::new(&[7; 32]).expect("a key");
        let sealed = seals.seal(TEXT, "user:ci a/b").expect("randomness");
        assert_eq!(seals.open(&sealed, "user:ci a/b").as_deref(), Some(TEXT));
        assert!(
            !sealed.contains("uploads")
                && sealed.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        );
        for context in ["user:eve a/b", "user:ci a/c", ""] {
            assert_eq!(seals.open(&sealed, context), None, "{context}");
        }
        for i in 0..sealed.len() {
            let mut bytes = sealed.clone().into_bytes();
            bytes[i] = if bytes[i] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).expect("ASCII");
            assert_eq!(seals.open(&changed, "user:ci a/b"), None, "byte {i}");
        }
        for other in ["", "AAAA", "%", &sealed[..sealed.len() - 2], &format!("{sealed}AA")] {
            assert_eq!(seals.open(other, "user:ci a/b"), None, "{other}");
        }
    }

    #[test]
    fn the_key_before_still_opens_and_an_older_one_does_not() {
        let first = Seals::new(&[7; 32]).expect("a key");
        let sealed = first.seal(TEXT, "c").expect("randomness");
        let second = first.renewed(&[8; 32]).expect("a key");
        assert_eq!(second.open(&sealed, "c").as_deref(), Some(TEXT));
        assert_eq!(first.open(&second.seal(TEXT, "c").expect("randomness"), "c"), None);
        assert_eq!(second.renewed(&[9; 32]).expect("a key").open(&sealed, "c"), None);
    }
}
