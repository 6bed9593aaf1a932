//! Content digests: `algorithm:hex`, and the hasher that makes them.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest as aws;

use super::{ErrorCode, ParseError};

/// A digest algorithm that roadstead can verify (NAME-4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    Sha256,
    Sha512,
}

impl Algorithm {
    /// The name as it stands before the colon.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// The algorithm of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "sha256" => Some(Self::Sha256),
            "sha512" => Some(Self::Sha512),
            _ => None,
        }
    }

    fn hex_len(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

/// A valid digest of an algorithm that can be verified; the only thing a file name in the cache is
/// made from.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    text: Arc<str>,
}

impl Digest {
    /// Parses `algorithm:hex`.
    ///
    /// # Errors
    /// `DIGEST_INVALID` if the form, the algorithm, the length or the case of the hex digits is
    /// wrong (image-spec descriptor.md, "Registered Algorithms"; NAME-2).
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let invalid = |message: &str| ParseError::new(ErrorCode::DigestInvalid, message);
        let (name, hex) =
            text.split_once(':').ok_or_else(|| invalid("a digest is algorithm:hex"))?;
        let algorithm = Algorithm::from_name(name)
            .ok_or_else(|| invalid("the digest algorithm must be sha256 or sha512"))?;
        let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if hex.len() != algorithm.hex_len() || !hex.bytes().all(lower_hex) {
            return Err(invalid(
                "a sha256 digest has 64 lower-case hex digits, a sha512 digest 128",
            ));
        }
        Ok(Self { algorithm, text: text.into() })
    }

    /// The digest of `bytes`.
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }

    /// The digest whose hash is `hash`, of as many bytes as the algorithm makes.
    pub(crate) fn of_hash(algorithm: Algorithm, hash: &[u8]) -> Self {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut text = format!("{}:", algorithm.name());
        for byte in hash {
            text.push(char::from(HEX[usize::from(byte >> 4)]));
            text.push(char::from(HEX[usize::from(byte & 15)]));
        }
        Self { algorithm, text: text.into() }
    }

    /// The hash itself, of as many bytes as the algorithm makes.
    pub(crate) fn hash<const N: usize>(&self) -> [u8; N] {
        let digit = |byte: u8| byte.wrapping_sub(if byte <= b'9' { b'0' } else { b'a' - 10 });
        let (pairs, _) = self.hex().as_bytes().as_chunks::<2>();
        let mut hash = [0; N];
        for (byte, [high, low]) in hash.iter_mut().zip(pairs) {
            *byte = 16 * digit(*high) + digit(*low);
        }
        hash
    }

    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The part after the colon.
    pub fn hex(&self) -> &str {
        &self.text[self.algorithm.name().len() + 1..]
    }

    /// The whole text, `algorithm:hex`.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Hashes a stream; a clone hashes on from the same state.
#[derive(Clone)]
pub struct Hasher {
    algorithm: Algorithm,
    context: aws::Context,
}

impl Hasher {
    pub fn new(algorithm: Algorithm) -> Self {
        let context = aws::Context::new(match algorithm {
            Algorithm::Sha256 => &aws::SHA256,
            Algorithm::Sha512 => &aws::SHA512,
        });
        Self { algorithm, context }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
    }

    pub fn finish(self) -> Digest {
        Digest::of_hash(self.algorithm, self.context.finish().as_ref())
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hasher").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_vectors_hash_to_their_published_digests() {
        let sha256 = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let sha512 = "sha512:ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
                      2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f";
        assert_eq!(Digest::of(Algorithm::Sha256, b"abc").as_str(), sha256);
        assert_eq!(Digest::of(Algorithm::Sha512, b"abc").as_str(), sha512);
    }

    #[test]
    fn what_a_hasher_makes_parses_back_to_itself() {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let digest = Digest::of(algorithm, b"roadstead");
            assert_eq!(Digest::parse(digest.as_str()).as_ref(), Ok(&digest));
            assert_eq!(digest.hex().len(), algorithm.hex_len());
            let again = match algorithm {
                Algorithm::Sha256 => Digest::of_hash(algorithm, &digest.hash::<32>()),
                Algorithm::Sha512 => Digest::of_hash(algorithm, &digest.hash::<64>()),
            };
            assert_eq!(again, digest);
        }
    }

    #[test]
    fn anything_but_a_verifiable_digest_is_refused() {
        let hex = "b".repeat(64);
        for text in [
            String::new(),
            "sha256".into(),
            "sha256:".into(),
            format!("sha256:{}", "B".repeat(64)),
            format!("sha256:{}", "b".repeat(63)),
            format!("sha256:{}", "b".repeat(65)),
            format!("sha512:{hex}"),
            format!("md5:{hex}"),
            format!("SHA256:{hex}"),
            format!("sha256:../{}", "b".repeat(61)),
            format!("sha256:{hex}\n"),
        ] {
            let error = Digest::parse(&text).expect_err(&text);
            assert_eq!(error.code(), ErrorCode::DigestInvalid);
        }
    }
}
