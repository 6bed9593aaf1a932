//! What a refused token says of itself, for the log: which customer to call, and which key to look
//! for. Nothing of it is verified.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use super::key::TOKEN_TYPE;
use super::name::LicenceId;
use super::token::{LICENCE_TOKEN_BYTES_MAX, unwrapped};

/// A licence, and the key that is said to have signed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimedLicence {
    pub id: LicenceId,
    /// As it stands in the token: any text.
    pub key: String,
}

#[derive(Deserialize)]
struct Header {
    typ: String,
    kid: String,
}

#[derive(Deserialize)]
struct Payload {
    sub: String,
}

impl ClaimedLicence {
    /// None if the token does not even look like a licence.
    pub fn of(token: &str) -> Option<Self> {
        let token = unwrapped(token);
        // Nearly every password ends here: this is how a JSON object begins in base64.
        if !token.starts_with("eyJ") || token.len() > LICENCE_TOKEN_BYTES_MAX {
            return None;
        }
        let mut segments = token.split('.').map(|segment| URL_SAFE_NO_PAD.decode(segment).ok());
        let header: Header = serde_json::from_slice(&segments.next()??).ok()?;
        let payload: Payload = serde_json::from_slice(&segments.next()??).ok()?;
        let id = LicenceId::parse(&payload.sub).ok()?;
        (header.typ == TOKEN_TYPE).then_some(Self { id, key: header.kid })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str, payload: &str) -> String {
        format!("{}.{}.x", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload))
    }

    #[test]
    fn a_refused_licence_names_itself_and_its_key() {
        let claimed = ClaimedLicence::of(&token(
            r#"{"alg":"none","typ":"roadstead-licence","kid":"k1"}"#,
            r#"{"sub":"acme-prod","limits":7}"#,
        ));
        let claimed = claimed.expect("the shape of a licence");
        assert_eq!((claimed.id.as_str(), claimed.key.as_str()), ("acme-prod", "k1"));
    }

    #[test]
    fn a_password_is_no_licence() {
        let of_a_stranger = token(r#"{"typ":"JWT","kid":"k1"}"#, r#"{"sub":"acme-prod"}"#);
        let badly_named = token(r#"{"typ":"roadstead-licence","kid":"k1"}"#, r#"{"sub":"A b"}"#);
        for text in ["", "secret", "a.b.c", &of_a_stranger, &badly_named, &"e30.".repeat(999)] {
            assert_eq!(ClaimedLicence::of(text), None, "{text}");
        }
    }
}
