//! The signed token in a licence: compact JWS with Ed25519 (ACCESS §4.2), read by [`jws`]. Here is
//! what its claims may say.

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::key::{KeyId, PrivateKey, PublicKey};
use super::name::{LicenceId, Slug};
use crate::clock::Timestamp;
use crate::jws::{self, JwsError};

/// Bytes of a token; the Windows credential manager holds 2,560 in all.
pub const LICENCE_TOKEN_BYTES_MAX: usize = 2048;

const TOKEN_AUDIENCE: &str = "roadstead-licence";
const APPLICATIONS_MAX: usize = 32;
const HOSTS_MAX: usize = 8;

/// What a customer has bought. Times are whole seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Licence {
    pub id: LicenceId,
    pub issuer: String,
    pub customer: String,
    pub email: Option<String>,
    /// 1 to 32.
    pub applications: Vec<Slug>,
    /// Where clients find the images, 1 to 8; not enforced.
    pub hosts: Vec<String>,
    pub issued: Timestamp,
    pub not_before: Timestamp,
    pub expires: Timestamp,
}

/// A licence whose signature is right. Whether it is still good depends on the time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedLicence {
    pub licence: Licence,
    pub key: KeyId,
}

/// Why a token is refused. For the log alone: it would help forgers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LicenceRefusal {
    #[error("it is longer than 2,048 bytes")]
    TooLong,
    #[error("no configured key has signed it")]
    UnknownKey,
    #[error("the signature is wrong")]
    Signature,
    #[error("its claims are not those of a licence: {0}")]
    Claims(String),
    #[error("its issuer is not ours")]
    Issuer,
}

/// The claims as they stand in the token. Unknown members refuse it, so that restrictions which are
/// added later hold on old servers, too.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LicenceClaims {
    iss: String,
    sub: String,
    aud: String,
    iat: u64,
    nbf: u64,
    exp: u64,
    customer: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    email: Option<String>,
    applications: Vec<ApplicationClaim>,
    hosts: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ApplicationClaim {
    name: String,
}

/// The keys whose licences are accepted; several while they are rotated.
#[derive(Clone, Debug, Default)]
pub struct PublicKeys(Vec<PublicKey>);

impl PublicKeys {
    pub fn new(keys: Vec<PublicKey>) -> Self {
        Self(keys)
    }

    pub fn knows(&self, key: &KeyId) -> bool {
        self.0.iter().any(|known| known.id() == key)
    }

    /// Whether this is, by its first segment, a licence of one of these keys: then it is no
    /// password.
    pub fn recognise(&self, token: &str) -> bool {
        self.signer(token).is_some()
    }

    /// Checks signature, issuer and shape; no clock.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn verify(&self, token: &str, issuer: &str) -> Result<SignedLicence, LicenceRefusal> {
        if token.len() > LICENCE_TOKEN_BYTES_MAX {
            return Err(LicenceRefusal::TooLong);
        }
        let key = self.signer(token).ok_or(LicenceRefusal::UnknownKey)?;
        let licence = read(&key.jws().verify(token)?)?;
        if licence.issuer != issuer {
            return Err(LicenceRefusal::Issuer);
        }
        Ok(SignedLicence { licence, key: key.id().clone() })
    }

    fn signer(&self, token: &str) -> Option<&PublicKey> {
        self.0.iter().find(|key| key.jws().is_named_by(token))
    }
}

/// A token without the line ends and blanks that get into it where it is pasted, or comes in an
/// e-mail that was wrapped. No token has any.
pub fn unwrapped(text: &str) -> Cow<'_, str> {
    if text.contains(char::is_whitespace) { text.split_whitespace().collect() } else { text.into() }
}

/// What a token says, its signature not verified: for commands on a machine that has no key.
///
/// # Errors
/// If it has not the shape of a licence.
pub fn unverified(token: &str) -> Result<Licence, LicenceRefusal> {
    read(&jws::unverified_payload(token)?)
}

fn read(payload: &[u8]) -> Result<Licence, LicenceRefusal> {
    let claims: LicenceClaims = serde_json::from_slice(payload)
        .map_err(|error| LicenceRefusal::Claims(error.to_string()))?;
    licence(claims).map_err(LicenceRefusal::Claims)
}

impl From<JwsError> for LicenceRefusal {
    fn from(error: JwsError) -> Self {
        match error {
            JwsError::UnknownKey => Self::UnknownKey,
            JwsError::Signature => Self::Signature,
            JwsError::Segments => Self::Claims("it has not three segments".to_owned()),
            JwsError::Encoding => Self::Claims("they are not base64".to_owned()),
        }
    }
}

impl PrivateKey {
    /// The token of a licence.
    ///
    /// # Errors
    /// What is wrong with the licence, in a sentence.
    pub fn sign(&self, licence: &Licence) -> Result<String, String> {
        let claims = claims(licence);
        let json = serde_json::to_vec(&claims).map_err(|error| error.to_string())?;
        let token = self.sign_payload(&json);
        if token.len() > LICENCE_TOKEN_BYTES_MAX {
            return Err(format!(
                "the token would have {} bytes, and clients can store {LICENCE_TOKEN_BYTES_MAX}; \
                 shorten {}, which takes most of it",
                token.len(),
                longest(licence)
            ));
        }
        // What a server would refuse is never issued.
        unverified(&token).map_err(|refusal| refusal.to_string()).map(|_| token)
    }
}

/// What takes most of a licence that is too long, in words.
fn longest(licence: &Licence) -> &'static str {
    let parts = [
        ("the issuer", licence.issuer.len()),
        ("the customer", licence.customer.len()),
        ("the email", licence.email.as_ref().map_or(0, String::len)),
        (
            "the list of applications",
            licence.applications.iter().map(|slug| slug.as_str().len()).sum(),
        ),
        ("the list of hosts", licence.hosts.iter().map(String::len).sum()),
    ];
    parts.into_iter().max_by_key(|(_, length)| *length).map_or("it", |(part, _)| part)
}

fn claims(licence: &Licence) -> LicenceClaims {
    LicenceClaims {
        iss: licence.issuer.clone(),
        sub: licence.id.to_string(),
        aud: TOKEN_AUDIENCE.to_owned(),
        iat: licence.issued.unix().as_secs(),
        nbf: licence.not_before.unix().as_secs(),
        exp: licence.expires.unix().as_secs(),
        customer: licence.customer.clone(),
        email: licence.email.clone(),
        applications: licence
            .applications
            .iter()
            .map(|slug| ApplicationClaim { name: slug.to_string() })
            .collect(),
        hosts: licence.hosts.clone(),
    }
}

fn licence(claims: LicenceClaims) -> Result<Licence, String> {
    let at = |seconds| Timestamp::from_unix(Duration::from_secs(seconds));
    let one_line = |text: &String| !text.is_empty() && !text.chars().any(char::is_control);
    if claims.aud != TOKEN_AUDIENCE {
        return Err("the audience is another".to_owned());
    }
    if claims.exp <= claims.nbf {
        return Err("it ends before it begins".to_owned());
    }
    if !(1..=APPLICATIONS_MAX).contains(&claims.applications.len()) {
        return Err(format!("a licence is for 1 to {APPLICATIONS_MAX} applications"));
    }
    if !(1..=HOSTS_MAX).contains(&claims.hosts.len()) || !claims.hosts.iter().all(one_line) {
        return Err(format!("a licence names 1 to {HOSTS_MAX} hosts"));
    }
    if ![Some(&claims.iss), Some(&claims.customer), claims.email.as_ref()]
        .into_iter()
        .flatten()
        .all(one_line)
    {
        return Err("issuer, customer and email are one line of text each".to_owned());
    }
    Ok(Licence {
        id: LicenceId::parse(&claims.sub)?,
        issuer: claims.iss,
        customer: claims.customer,
        email: claims.email,
        applications: claims
            .applications
            .iter()
            .map(|claim| Slug::parse(&claim.name))
            .collect::<Result<_, _>>()?,
        hosts: claims.hosts,
        issued: at(claims.iat),
        not_before: at(claims.nbf),
        expires: at(claims.exp),
    })
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    const ISSUER: &str = "Acme Inc.";

    fn key() -> PrivateKey {
        PrivateKey::generate().expect("randomness")
    }

    fn keys(of: &[&PrivateKey]) -> PublicKeys {
        PublicKeys::new(of.iter().map(|key| key.public().clone()).collect())
    }

    fn acme() -> Licence {
        let at = |seconds| Timestamp::from_unix(Duration::from_secs(seconds));
        Licence {
            id: LicenceId::parse("acme-prod").expect("an id"),
            issuer: ISSUER.to_owned(),
            customer: "Acme GmbH".to_owned(),
            email: Some("ops@acme.test".to_owned()),
            applications: vec![Slug::parse("myapp").expect("a slug")],
            hosts: vec!["registry.example.com".to_owned()],
            issued: at(1_000),
            not_before: at(1_000),
            expires: at(2_000),
        }
    }

    /// Signs whatever it is given, as an attacker with the key of another vendor could.
    fn forge(key: &PrivateKey, header: Option<&str>, json: &str) -> String {
        let own = || {
            let kid = key.public().id();
            format!(r#"{{"alg":"EdDSA","typ":"roadstead-licence","kid":"{kid}"}}"#)
        };
        let header = URL_SAFE_NO_PAD.encode(header.map_or_else(own, str::to_owned));
        let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(json));
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(key.sign_message(message.as_bytes())))
    }

    #[test]
    fn what_was_signed_is_read_back() {
        let (key, other) = (key(), key());
        let token = key.sign(&acme()).expect("a token");
        let signed = keys(&[&other, &key]).verify(&token, ISSUER).expect("a good token");
        assert_eq!((&signed.licence, &signed.key), (&acme(), key.public().id()));
        assert!(keys(&[&key]).recognise(&token) && !keys(&[&other]).recognise(&token));
        assert_eq!(keys(&[&other]).verify(&token, ISSUER), Err(LicenceRefusal::UnknownKey));
        assert_eq!(keys(&[&key]).verify(&token, "Acme"), Err(LicenceRefusal::Issuer));
        assert_eq!(unverified(&token), Ok(acme()));
    }

    #[test]
    fn keys_survive_their_pem() {
        let key = key();
        let again = PrivateKey::from_pem(&key.to_pem().expect("PEM")).expect("its own PEM");
        assert_eq!(again.public().id(), key.public().id());
        let public = PublicKey::from_pem(&key.public().to_pem()).expect("its own PEM");
        assert_eq!(public.id(), key.public().id());
        assert!(public.jws().is_named_by(&key.sign(&acme()).expect("a token")));
        assert!(!format!("{key:?}").contains("pair"));
        for bad in [
            "",
            "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
            &key.to_pem().expect("PEM"),
        ] {
            assert!(PublicKey::from_pem(bad).is_err());
        }
        assert!(PrivateKey::from_pem(&key.public().to_pem()).is_err());
    }

    /// RFC 8037 appendix A.3.
    #[test]
    fn the_key_id_is_the_rfc_7638_thumbprint() {
        let raw =
            URL_SAFE_NO_PAD.decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo").expect("base64");
        let key = PublicKey::new(raw.try_into().expect("32 bytes")).expect("a key");
        assert_eq!(key.id().as_str(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }

    #[test]
    fn a_token_with_any_byte_changed_is_refused() {
        let key = key();
        let token = key.sign(&acme()).expect("a token");
        let keys = keys(&[&key]);
        for i in 0..token.len() {
            for replacement in [b'A', b'B', b'.', b'=', b' '] {
                let mut bytes = token.clone().into_bytes();
                if bytes[i] == replacement {
                    continue;
                }
                bytes[i] = replacement;
                let changed = String::from_utf8(bytes).expect("ASCII");
                assert!(
                    keys.verify(&changed, ISSUER).is_err(),
                    "byte {i} as {:?}",
                    char::from(replacement)
                );
            }
        }
        for changed in [
            format!("{token}="),
            format!("{token} "),
            format!(" {token}"),
            format!("{token}.x"),
            token + "\n",
        ] {
            assert!(keys.verify(&changed, ISSUER).is_err(), "{changed:?}");
        }
    }

    #[test]
    fn only_the_one_header_of_a_configured_key_is_looked_at() {
        let key = key();
        let json = serde_json::to_string(&claims(&acme())).expect("JSON");
        let kid = key.public().id();
        let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        for header in [
            r#"{"alg":"none"}"#.to_owned(),
            format!(r#"{{"alg":"none","typ":"roadstead-licence","kid":"{kid}"}}"#),
            format!(r#"{{"alg":"HS256","typ":"roadstead-licence","kid":"{kid}"}}"#),
            format!(r#"{{"alg":"EdDSA","typ":"JWT","kid":"{kid}"}}"#),
            format!(r#"{{"alg":"EdDSA","typ":"roadstead-licence","kid":"{kid}" }}"#),
            format!(r#"{{"typ":"roadstead-licence","alg":"EdDSA","kid":"{kid}"}}"#),
            format!(r#"{{"alg":"EdDSA","alg":"none","typ":"roadstead-licence","kid":"{kid}"}}"#),
            format!(
                r#"{{"alg":"EdDSA","typ":"roadstead-licence","kid":"{kid}","crit":["x"],"x":1}}"#
            ),
            format!(
                r#"{{"alg":"EdDSA","typ":"roadstead-licence","kid":"{kid}","jwk":{{"kty":"OKP","x":"{x}"}}}}"#
            ),
            r#"{"alg":"EdDSA","typ":"roadstead-licence","kid":"another"}"#.to_owned(),
        ] {
            let token = forge(&key, Some(&header), &json);
            assert_eq!(
                keys(&[&key]).verify(&token, ISSUER),
                Err(LicenceRefusal::UnknownKey),
                "{header}"
            );
        }
        assert!(
            keys(&[&key]).verify(&forge(&key, None, &json), ISSUER).is_ok(),
            "the forger can sign"
        );
    }

    #[test]
    fn claims_are_exactly_those_of_a_licence() {
        let key = key();
        let good = serde_json::to_value(claims(&acme())).expect("JSON");
        let text = good.to_string();
        let mut bad: Vec<String> = [
            (r#""iat":1000"#, r#""iat":1000,"iat":1"#),
            (r#""exp":2000"#, r#""exp":2000,"exp":9000"#),
            (r#""name":"myapp""#, r#""name":"myapp","name":"other""#),
            (r#""name":"myapp""#, r#""name":"myapp","tags":["1.*"]"#),
            (r#""name":"myapp""#, r#""name":"my.app""#),
            (r#""exp":2000"#, r#""exp":"2000""#),
            (r#""exp":2000"#, r#""exp":2000.5"#),
            (r#""exp":2000"#, r#""exp":-1"#),
            (r#""exp":2000"#, r#""exp":null"#),
            (r#""exp":2000"#, r#""exp":1000"#),
            (r#""exp":2000"#, r#""exp":2000,"scope":"all""#),
            (r#""aud":"roadstead-licence""#, r#""aud":"other""#),
            (r#""aud":"roadstead-licence""#, r#""aud":["roadstead-licence"]"#),
            (r#""sub":"acme-prod""#, r#""sub":"Acme""#),
            (r#""applications":[{"name":"myapp"}]"#, r#""applications":[]"#),
            (r#""applications":[{"name":"myapp"}]"#, r#""applications":["myapp"]"#),
            (r#""hosts":["registry.example.com"]"#, r#""hosts":[]"#),
            (r#""customer":"Acme GmbH""#, r#""customer":"""#),
            (r#""customer":"Acme GmbH""#, r#""customer":"a\nb""#),
        ]
        .map(|(from, to)| {
            assert!(text.contains(from), "{from} in {text}");
            text.replace(from, to)
        })
        .into();
        for name in ["iss", "sub", "aud", "iat", "nbf", "exp", "customer", "applications", "hosts"]
        {
            let mut without = good.clone();
            without.as_object_mut().expect("an object").remove(name);
            bad.push(without.to_string());
        }
        let many: Vec<_> = (0..33).map(|i| format!(r#"{{"name":"a{i}"}}"#)).collect();
        bad.push(text.replace(r#"{"name":"myapp"}"#, &many.join(",")));
        bad.extend(["[]".to_owned(), String::new(), format!("{text}{text}"), format!("{text} x")]);
        for json in bad {
            let refused = keys(&[&key]).verify(&forge(&key, None, &json), ISSUER);
            assert!(
                matches!(refused, Err(LicenceRefusal::Claims(_) | LicenceRefusal::TooLong)),
                "{json} gave {refused:?}"
            );
        }
        let without_email = text.replace(r#""email":"ops@acme.test","#, "");
        assert!(keys(&[&key]).verify(&forge(&key, None, &without_email), ISSUER).is_ok());
    }

    #[test]
    fn a_token_that_clients_cannot_store_is_neither_issued_nor_read() {
        let key = key();
        let long = Licence { customer: "x".repeat(LICENCE_TOKEN_BYTES_MAX), ..acme() };
        assert!(key.sign(&long).expect_err("too long").contains("bytes"));
        let token = forge(&key, None, &serde_json::to_string(&claims(&long)).expect("JSON"));
        assert_eq!(keys(&[&key]).verify(&token, ISSUER), Err(LicenceRefusal::TooLong));
        assert!(key.sign(&Licence { applications: vec![], ..acme() }).is_err());
    }
}
