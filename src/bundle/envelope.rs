//! The signature around a statement: a DSSE envelope (Dead Simple Signing Envelope 1.0.2), as
//! in-toto and cosign use, with Ed25519. Other tools can read and verify it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::statement::Statement;
use crate::licence::{KeyId, PrivateKey, PublicKey};

/// The file beside the layout.
pub(crate) const ENVELOPE_FILE: &str = "roadstead-bundle.json";

/// The payload's type, which is signed with it: no signature of a licence is one of a bundle.
const PAYLOAD_TYPE: &str = "application/vnd.roadstead.bundle.v1+json";

/// What a bundle is signed with, if it is.
#[derive(Debug, Default)]
pub(crate) struct Signer(pub(crate) Option<PrivateKey>);

/// Whose bundles are taken.
#[derive(Debug)]
pub(crate) enum Trust {
    /// Those that one of these keys has signed.
    Keys(Vec<PublicKey>),
    /// Anybody's, signed or not.
    Unsigned,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload_type: String,
    payload: String,
    signatures: Vec<Signature>,
}

#[derive(Deserialize, Serialize)]
struct Signature {
    #[serde(default)]
    keyid: String,
    sig: String,
}

impl Signer {
    /// The envelope as it is written to its file.
    pub(super) fn seal(&self, statement: &Statement) -> Vec<u8> {
        let payload = statement.to_json();
        let signatures = self.0.iter().map(|key| Signature {
            keyid: key.public().id().to_string(),
            sig: STANDARD.encode(key.sign_message(&pre_authentication(&payload))),
        });
        let envelope = Envelope {
            payload_type: PAYLOAD_TYPE.to_owned(),
            signatures: signatures.collect(),
            payload: STANDARD.encode(&payload),
        };
        // Strings alone: nothing of it can fail to be written.
        let mut bytes = serde_json::to_vec(&envelope).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }
}

impl Trust {
    /// What is signed, and by whom. Nothing of it is looked at before the signature is.
    ///
    /// # Errors
    /// A sentence: it is no statement, nobody who is trusted has signed it, or it was changed.
    pub(super) fn open(&self, bytes: &[u8]) -> Result<(Statement, Option<KeyId>), String> {
        let envelope: Envelope = serde_json::from_slice(bytes)
            .map_err(|error| format!("{ENVELOPE_FILE} cannot be read: {error}"))?;
        if envelope.payload_type != PAYLOAD_TYPE {
            return Err(format!("{ENVELOPE_FILE} is of another kind: {:?}", envelope.payload_type));
        }
        let payload = STANDARD.decode(&envelope.payload);
        let payload =
            payload.map_err(|_| format!("the payload of {ENVELOPE_FILE} is no base64"))?;
        let signer = match self {
            Self::Unsigned => None,
            Self::Keys(keys) => Some(signer(keys, &envelope.signatures, &payload)?),
        };
        Ok((Statement::parse(&payload)?, signer))
    }
}

fn signer(keys: &[PublicKey], signatures: &[Signature], payload: &[u8]) -> Result<KeyId, String> {
    let message = pre_authentication(payload);
    // What a signature says of its key is a hint (DSSE, "protocol").
    let verifies = |key: &&PublicKey| {
        signatures.iter().take(SIGNATURES_MAX).any(|signature| {
            STANDARD.decode(&signature.sig).is_ok_and(|sig| key.verifies(&message, &sig))
        })
    };
    if let Some(key) = keys.iter().find(verifies) {
        return Ok(key.id().clone());
    }
    let trusted: Vec<&str> = keys.iter().map(|key| key.id().as_str()).collect();
    Err(match signatures.first() {
        None => "it is not signed; --unsigned takes it all the same".to_owned(),
        Some(signature) if trusted.contains(&signature.keyid.as_str()) => {
            "it was changed after it was signed".to_owned()
        }
        Some(signature) => {
            let by: String = signature.keyid.chars().take(64).collect();
            format!("it is signed by {by:?}, and only {} is trusted", trusted.join(", "))
        }
    })
}

/// Signatures that are tried.
const SIGNATURES_MAX: usize = 8;

/// What is signed: `PAE(type, payload)` of DSSE.
fn pre_authentication(payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::statement::tests::sample;

    fn key() -> PrivateKey {
        PrivateKey::generate().expect("randomness")
    }

    fn told(trust: &Trust, bytes: &[u8]) -> String {
        trust.open(bytes).expect_err("it is refused")
    }

    #[test]
    fn a_signed_statement_is_read_by_who_trusts_its_key() {
        let (ours, other) = (key(), key());
        let id = ours.public().id().clone();
        let trust = Trust::Keys(vec![other.public().clone(), ours.public().clone()]);
        let sealed = Signer(Some(ours)).seal(&sample());
        let (statement, signer) = trust.open(&sealed).expect("it is signed by one of them");
        assert_eq!((statement, signer), (sample(), Some(id)));
        let trust = Trust::Keys(vec![other.public().clone()]);
        assert!(told(&trust, &sealed).contains("only"));
    }

    #[test]
    fn an_unsigned_one_is_read_only_by_who_says_so() {
        let sealed = Signer(None).seal(&sample());
        assert!(told(&Trust::Keys(vec![key().public().clone()]), &sealed).contains("--unsigned"));
        assert_eq!(Trust::Unsigned.open(&sealed).expect("asked for"), (sample(), None));
    }

    #[test]
    fn whatever_is_changed_is_refused() {
        let ours = key();
        let trust = Trust::Keys(vec![ours.public().clone()]);
        let sealed = Signer(Some(ours)).seal(&sample());
        let fields: serde_json::Value = serde_json::from_slice(&sealed).expect("JSON");
        let payload = STANDARD.decode(fields["payload"].as_str().expect("text")).expect("base64");
        for at in (0..payload.len()).step_by(7) {
            let mut changed = payload.clone();
            changed[at] ^= 1;
            let mut fields = fields.clone();
            fields["payload"] = STANDARD.encode(&changed).into();
            assert!(told(&trust, fields.to_string().as_bytes()).contains("was changed"));
        }
        let mut other_type = fields.clone();
        other_type["payloadType"] = "application/vnd.in-toto+json".into();
        assert!(told(&trust, other_type.to_string().as_bytes()).contains("another kind"));
        for cut in [0, 1, sealed.len() / 2, sealed.len() - 2] {
            told(&trust, &sealed[..cut]);
        }
    }
}
