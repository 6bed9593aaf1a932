//! Keys of our own: one secret file, and from it a key for every purpose (ACCESS §5.2).

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::secret::Secret;

/// Bytes that a key file has at least, and random ones that a new one is made of: as many as the
/// keys that are derived from it have.
const KEY_FILE_BYTES_MIN: usize = 32;

/// The content of a new key file, as text.
///
/// # Errors
/// If the system gives no randomness.
pub(crate) fn generate_key() -> Result<Secret, String> {
    let mut random = Zeroizing::new([0; KEY_FILE_BYTES_MIN]);
    SystemRandom::new()
        .fill(random.as_mut())
        .map_err(|_| "the system gives no randomness".to_owned())?;
    Ok(Secret::new(URL_SAFE_NO_PAD.encode(random.as_ref())))
}

/// Whether a key file with this text is no whole one.
pub(crate) fn is_too_short(key: &Secret) -> bool {
    key.expose().len() < KEY_FILE_BYTES_MIN
}

/// The length that HKDF is asked for.
struct Bytes32;

impl KeyType for Bytes32 {
    fn len(&self) -> usize {
        32
    }
}

/// The key for `purpose`; `material` is the content of the key file.
///
/// # Errors
/// If the material is too short to be secret.
pub(super) fn key_from(material: &[u8], purpose: &[u8]) -> Result<Zeroizing<[u8; 32]>, String> {
    if material.len() < KEY_FILE_BYTES_MIN {
        return Err(format!(
            "holds {} bytes; a key file has {KEY_FILE_BYTES_MIN} random ones",
            material.len()
        ));
    }
    let mut key = Zeroizing::new([0; 32]);
    let salted = Salt::new(HKDF_SHA256, b"roadstead").extract(material);
    let filled = salted.expand(&[purpose], Bytes32).and_then(|output| output.fill(key.as_mut()));
    filled.map(|()| key).map_err(|_| "no key can be derived from it".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_key_is_long_enough_and_no_other_one() {
        let [one, other] = [(); 2].map(|()| generate_key().expect("randomness"));
        assert!(!is_too_short(&one) && one != other);
        let key = |length| Secret::new("k".repeat(length));
        assert!(is_too_short(&key(31)) && !is_too_short(&key(32)) && !is_too_short(&key(33)));
    }

    #[test]
    fn a_key_is_for_one_purpose_and_from_one_file() {
        let key = |material: &[u8], purpose: &[u8]| *key_from(material, purpose).expect("a key");
        let one = key(&[7; 32], b"one");
        assert_eq!(key(&[7; 32], b"one"), one);
        assert_ne!(key(&[7; 32], b"other"), one);
        assert_ne!(key(&[8; 32], b"one"), one);
        assert!(key_from(&[7; 31], b"one").is_err());
    }
}
