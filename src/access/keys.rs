//! Keys of our own: one secret file, and from it a key for every purpose (ACCESS §5.2).

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use zeroize::Zeroizing;

/// Bytes of a key file at least.
const KEY_FILE: usize = 32;

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
    if material.len() < KEY_FILE {
        return Err(format!(
            "holds {} bytes; a key file has {KEY_FILE} random ones",
            material.len()
        ));
    }
    let mut key = Zeroizing::new([0; 32]);
    let salted = Salt::new(HKDF_SHA256, b"roadstead").extract(material);
    let filled = salted.expand(&[purpose], Bytes32).and_then(|output| output.fill(key.as_mut()));
    filled.map(|()| key).map_err(|_| "no key can be derived from it".to_owned())
}
