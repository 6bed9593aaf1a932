//! Compact JWS with Ed25519 (RFC 7515, RFC 8037): the form of licences and of our access tokens.
//! Pure.
//!
//! The first segment has to equal, byte for byte, the one header that a known key writes. That
//! settles algorithm, type and key before anything is parsed: `none`, embedded keys, `crit` and
//! repeated members never get further. What the payload may say, and how long a token may be, is
//! for those to check who know what it is for.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, ParsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The public half of a key, for tokens of one type.
#[derive(Clone, Debug)]
pub(crate) struct JwsKey {
    /// The first segment of every token of this key: base64url of the only header there is.
    header: Box<str>,
    public: ParsedPublicKey,
}

/// Why a token is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JwsError {
    /// It begins with another header than this key's.
    UnknownKey,
    Signature,
    /// Not three segments separated by dots.
    Segments,
    /// The payload is not base64url without padding.
    Encoding,
}

impl JwsKey {
    /// `public` are the 32 bytes of the key; `typ` and `kid` go into the header as they are. None
    /// if the bytes are no point on the curve.
    pub(crate) fn new(public: &[u8], typ: &str, kid: &str) -> Option<Self> {
        let header = format!(r#"{{"alg":"EdDSA","typ":"{typ}","kid":"{kid}"}}"#);
        let public = ParsedPublicKey::new(&ED25519, public).ok()?;
        Some(Self { header: URL_SAFE_NO_PAD.encode(header).into(), public })
    }

    /// Whether the token says, by its first segment, that this key has signed it. Nothing is
    /// verified.
    pub(crate) fn is_named_by(&self, token: &str) -> bool {
        token.split_once('.').is_some_and(|(header, _)| *header == *self.header)
    }

    /// The payload of a token that this key has signed.
    ///
    /// # Errors
    /// Why it is not read.
    pub(crate) fn verify(&self, token: &str) -> Result<Vec<u8>, JwsError> {
        if !self.is_named_by(token) {
            return Err(JwsError::UnknownKey);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(JwsError::Segments)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| JwsError::Signature)?;
        self.public.verify_sig(message.as_bytes(), &signature).map_err(|_| JwsError::Signature)?;
        unverified_payload(token)
    }

    /// A token of `pair`, whose public half this has to be.
    pub(crate) fn sign(&self, pair: &Ed25519KeyPair, payload: &[u8]) -> String {
        let message = format!("{}.{}", self.header, URL_SAFE_NO_PAD.encode(payload));
        let signature = pair.sign(message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// The payload, whoever wrote it.
///
/// # Errors
/// If it has not the shape of a token.
pub(crate) fn unverified_payload(token: &str) -> Result<Vec<u8>, JwsError> {
    let mut segments = token.split('.');
    let (Some(_), Some(payload), Some(_), None) =
        (segments.next(), segments.next(), segments.next(), segments.next())
    else {
        return Err(JwsError::Segments);
    };
    URL_SAFE_NO_PAD.decode(payload).map_err(|_| JwsError::Encoding)
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::KeyPair;

    use super::*;

    fn key(typ: &str) -> (Ed25519KeyPair, JwsKey) {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a key");
        let key = JwsKey::new(pair.public_key().as_ref(), typ, "1").expect("a point");
        (pair, key)
    }

    #[test]
    fn a_token_is_read_by_its_own_key_and_type_only() {
        let (pair, key) = key("a");
        let token = key.sign(&pair, b"payload");
        assert_eq!(key.verify(&token), Ok(b"payload".to_vec()));
        let other_type = JwsKey::new(pair.public_key().as_ref(), "b", "1").expect("a point");
        assert_eq!(other_type.verify(&token), Err(JwsError::UnknownKey));
    }

    #[test]
    fn what_is_not_exactly_three_signed_segments_is_not_read() {
        let (pair, key) = key("a");
        let token = key.sign(&pair, b"payload");
        let (header, rest) = token.split_once('.').expect("a header");
        let (_, signature) = rest.split_once('.').expect("a signature");
        for (text, error) in [
            (String::new(), JwsError::UnknownKey),
            (header.to_owned(), JwsError::UnknownKey),
            (format!("{header}."), JwsError::Signature),
            (format!("{header}.{signature}"), JwsError::Signature),
            (format!("{token}."), JwsError::Signature),
            (format!("{token}="), JwsError::Signature),
            (format!("{header}.!.{signature}"), JwsError::Signature),
        ] {
            assert_eq!(key.verify(&text), Err(error), "{text}");
        }
        // Signed by the right key, in the wrong form.
        for (payload, error) in [("a.b", JwsError::Segments), ("!", JwsError::Encoding)] {
            let message = format!("{header}.{payload}");
            let signature = URL_SAFE_NO_PAD.encode(pair.sign(message.as_bytes()));
            assert_eq!(key.verify(&format!("{message}.{signature}")), Err(error), "{payload}");
        }
    }
}
