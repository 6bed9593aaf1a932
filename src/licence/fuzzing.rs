//! What has to hold of licences, whatever a stranger presents or a vendor signs.

use std::sync::LazyLock;

use super::{
    ClaimedLicence, LicenceId, PrivateKey, PublicKeys, Revocations, Slug, calendar, unverified,
    unwrapped,
};
use crate::fuzzing::changed;

const ISSUER: &str = "Acme Inc.";
/// A licence as a vendor's program writes it.
const CLAIMS: &str = r#"{"iss":"Acme Inc.","aud":"roadstead-licence","sub":"acme-prod","customer":"Acme GmbH","email":"ops@acme.test","iat":1000,"nbf":1000,"exp":2000,"applications":[{"name":"myapp"}],"hosts":["registry.example.com"]}"#;
/// The private half of nobody's key: PKCS#8 of a seed of sevens.
const KEY: &str = "-----BEGIN PRIVATE KEY-----\n\
    MC4CAQAwBQYDK2VwBCIEIAcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH\n\
    -----END PRIVATE KEY-----\n";

/// The vendor's key, what proxies know of it, and a good licence. Made once: reading a key takes
/// longer than all the rest.
static VENDOR: LazyLock<(PrivateKey, PublicKeys, String)> = LazyLock::new(|| {
    let key = PrivateKey::from_pem(KEY).expect("a key in PEM");
    let keys = PublicKeys::new(vec![key.public().clone()]);
    let good = key.sign_payload(CLAIMS.as_bytes());
    assert!(keys.verify(&good, "Acme").is_err(), "of another issuer");
    (key, keys, good)
});

/// A byte that says what the rest is: a token, changes of a good one, claims to be signed, or a
/// list of revocations.
pub(crate) fn licences(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    let (key, keys, good) = &*VENDOR;
    match kind % 4 {
        0 => is_refused(keys, good, &String::from_utf8_lossy(rest)),
        1 => is_refused(keys, good, &String::from_utf8_lossy(&changed(good.as_bytes(), rest))),
        2 => is_read_in_one_way(key, keys, rest),
        _ => revocations(&String::from_utf8_lossy(rest)),
    }
}

/// No token but the good one is read, and of one that is not nothing that breaks a line.
fn is_refused(keys: &PublicKeys, good: &str, token: &str) {
    let is_good = keys.verify(token, ISSUER).is_ok();
    assert_eq!(is_good, token == good, "{token}");
    if let Some(claimed) = ClaimedLicence::of(token) {
        assert!(LicenceId::parse(claimed.id.as_str()).is_ok());
        assert!(unwrapped(token).matches('.').count() >= 1);
    }
}

/// What is signed is read back, and says the same when it is signed again.
fn is_read_in_one_way(key: &PrivateKey, keys: &PublicKeys, claims: &[u8]) {
    let token = key.sign_payload(claims);
    let Ok(signed) = keys.verify(&token, ISSUER) else { return };
    let licence = signed.licence;
    assert_eq!(licence.issuer, ISSUER);
    assert!(!licence.customer.contains(['\n', '\r']));
    assert!((1..=32).contains(&licence.applications.len()));
    assert!(licence.applications.iter().all(|slug| Slug::parse(slug.as_str()).is_ok()));
    assert_eq!(unverified(&token).as_ref(), Ok(&licence));
    let _ = (calendar::day(licence.expires), calendar::format(licence.issued));
    if let Ok(again) = key.sign(&licence) {
        assert_eq!(keys.verify(&again, ISSUER).expect("just signed").licence, licence);
    }
}

/// A list is read whole or not at all, and every line of what cannot be read is told.
fn revocations(text: &str) {
    match Revocations::parse(text) {
        Ok(_) => {}
        Err(problems) => {
            assert!(!problems.is_empty());
            let lines = text.lines().count().max(1);
            assert!(problems.iter().all(|(line, _)| (1..=lines).contains(line)), "{problems:?}");
        }
    }
    if let Ok(time) = calendar::parse(text) {
        assert_eq!(calendar::parse(&calendar::format(time)), Ok(time), "{text}");
    }
}
