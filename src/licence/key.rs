//! Keys of licences: Ed25519, in PEM as openssl writes it (ACCESS §4.2).

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

use crate::jws::JwsKey;

/// `typ` in the header of a licence token.
pub(super) const TOKEN_TYPE: &str = "roadstead-licence";

/// The SPKI of an Ed25519 key before its 32 bytes (RFC 8410 §4).
const SPKI_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The name of a key: its RFC 7638 thumbprint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyId(Box<str>);

impl KeyId {
    /// An id that stands in an access token, which we have signed: it is not checked again.
    pub fn known(text: &str) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A key that verifies licences.
#[derive(Clone, Debug)]
pub struct PublicKey {
    id: KeyId,
    raw: [u8; 32],
    jws: JwsKey,
}

impl PublicKey {
    pub(super) fn new(raw: [u8; 32]) -> Result<Self, String> {
        let jwk =
            format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, URL_SAFE_NO_PAD.encode(raw));
        let id = KeyId(URL_SAFE_NO_PAD.encode(digest(&SHA256, jwk.as_bytes())).into());
        let jws = JwsKey::new(&raw, TOKEN_TYPE, id.as_str()).ok_or("is no point on the curve")?;
        Ok(Self { id, raw, jws })
    }

    /// # Errors
    /// A sentence that says what was expected.
    pub fn from_pem(pem: &str) -> Result<Self, String> {
        const WANTED: &str = "a public licence key is an Ed25519 key in PEM, as roadstead \
                              licence keygen writes NAME.pub";
        if pem.contains("PRIVATE KEY") {
            return Err(format!(
                "is a private key, which belongs only where licences are issued; {WANTED}"
            ));
        }
        let der = from_pem(pem, "PUBLIC KEY")
            .ok_or_else(|| format!("holds no PUBLIC KEY block; {WANTED}"))?;
        let raw = der.strip_prefix(&SPKI_PREFIX).and_then(|raw| raw.try_into().ok());
        Self::new(raw.ok_or_else(|| format!("is a key of another kind; {WANTED}"))?)
    }

    pub fn to_pem(&self) -> String {
        to_pem("PUBLIC KEY", &[SPKI_PREFIX.as_slice(), &self.raw].concat())
    }

    pub fn id(&self) -> &KeyId {
        &self.id
    }

    /// Whether `signature` of `message` is of this key.
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.raw).verify(message, signature).is_ok()
    }

    pub(super) fn jws(&self) -> &JwsKey {
        &self.jws
    }
}

/// A key that signs licences. Its Debug output tells nothing of it.
pub struct PrivateKey {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl PrivateKey {
    /// # Errors
    /// If the system gives no randomness.
    pub fn generate() -> Result<Self, String> {
        Self::new(
            Ed25519KeyPair::generate().map_err(|_| "the system gives no randomness".to_owned())?,
        )
    }

    fn new(pair: Ed25519KeyPair) -> Result<Self, String> {
        let raw =
            pair.public_key().as_ref().try_into().map_err(|_| "is no Ed25519 key".to_owned())?;
        Ok(Self { pair, public: PublicKey::new(raw)? })
    }

    /// # Errors
    /// A sentence that says what was expected, without anything of the key.
    pub fn from_pem(pem: &str) -> Result<Self, String> {
        const WANTED: &str = "a private licence key is an unencrypted Ed25519 key in PKCS#8 PEM, as \
                              roadstead licence keygen writes NAME.key";
        let der = from_pem(pem, "PRIVATE KEY")
            .ok_or_else(|| format!("holds no PRIVATE KEY block; {WANTED}"))?;
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der);
        Self::new(pair.map_err(|_| format!("is a key of another kind; {WANTED}"))?)
    }

    /// # Errors
    /// If the key cannot be exported; that is not known to happen.
    pub fn to_pem(&self) -> Result<Zeroizing<String>, String> {
        let der = self.pair.to_pkcs8v1().map_err(|_| "the key cannot be exported".to_owned())?;
        Ok(Zeroizing::new(to_pem("PRIVATE KEY", der.as_ref())))
    }

    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    pub(super) fn sign_payload(&self, payload: &[u8]) -> String {
        self.public.jws.sign(&self.pair, payload)
    }

    /// Signs `message`, which must be of a kind that is never taken for a licence.
    pub(crate) fn sign_message(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(message).as_ref().to_vec()
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateKey").field("id", self.public.id()).finish_non_exhaustive()
    }
}

fn to_pem(label: &str, der: &[u8]) -> String {
    // One line of at most 64 characters each (RFC 7468); a key takes one or two.
    let text = STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// The first block with this label.
fn from_pem(pem: &str, label: &str) -> Option<Zeroizing<Vec<u8>>> {
    let (_, rest) = pem.split_once(&format!("-----BEGIN {label}-----"))?;
    let (body, _) = rest.split_once(&format!("-----END {label}-----"))?;
    let text: Zeroizing<String> = Zeroizing::new(body.split_whitespace().collect());
    STANDARD.decode(text.as_bytes()).ok().map(Zeroizing::new)
}
