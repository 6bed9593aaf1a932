//! What has to hold of our own tokens and seals, whatever a client presents.

use super::seal::Seals;
use super::token::{AccessTokens, TOKEN_LIFE, TokenSubject};
use crate::clock::Clock;
use crate::fuzzing::changed;

const AUDIENCE: &str = "registry.example.com";
const MATERIAL: [u8; 32] = [7; 32];

/// A byte that says what the rest is: a token, changes of a good one, a sealed address, or changes
/// of one. Nothing is read but what we wrote.
pub(crate) fn tokens(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    match kind % 4 {
        0 => is_ours(|_| String::from_utf8_lossy(rest).into_owned()),
        1 => is_ours(|good| String::from_utf8_lossy(&changed(good.as_bytes(), rest)).into_owned()),
        2 => opens(|_| String::from_utf8_lossy(rest).into_owned()),
        _ => opens(|good| String::from_utf8_lossy(&changed(good.as_bytes(), rest)).into_owned()),
    }
}

fn is_ours(present: impl Fn(&str) -> String) {
    let clock = Clock::manual(std::time::Duration::from_secs(1_000_000));
    let tokens = AccessTokens::new(&MATERIAL, clock).expect("a key");
    let user = TokenSubject::User { name: "ci".to_owned(), hash: "abc".to_owned() };
    let issued = tokens.issue(user.clone(), AUDIENCE, TOKEN_LIFE, None);
    let (good, presented) = (issued.token.expose(), present(issued.token.expose()));
    let read = tokens.read(&presented, AUDIENCE);
    assert_eq!(read.is_ok(), presented == good, "{presented}");
    assert!(read.is_err() || read.as_ref() == Ok(&user));
    assert!(tokens.read(&presented, "mirror.example.com").is_err(), "for another name");
}

fn opens(present: impl Fn(&str) -> String) {
    let seals = Seals::new(&MATERIAL).expect("a key");
    let good = seals.seal("https://registry.test/upload?x", "ci acme/app").expect("randomness");
    let presented = present(&good);
    let opened = seals.open(&presented, "ci acme/app");
    assert_eq!(opened.is_some(), presented == good, "{presented}");
    assert!(seals.open(&presented, "eve acme/app").is_none(), "for another caller");
    let renewed = seals.renewed(&[8; 32]).expect("a key");
    assert_eq!(renewed.open(&presented, "ci acme/app"), opened);
}
