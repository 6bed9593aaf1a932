//! What has to hold of our own tokens and seals, whatever a client presents.

use std::sync::LazyLock;
use std::time::Duration;

use super::seal::Seals;
use super::token::{AccessTokens, TOKEN_LIFE, TokenSubject};
use crate::clock::Clock;
use crate::fuzzing::changed;

const AUDIENCE: &str = "registry.example.com";
const CONTEXT: &str = "ci acme/app";
const MATERIAL: [u8; 32] = [7; 32];

/// What we have written. Made once: deriving the keys takes longer than all the rest.
static OURS: LazyLock<Ours> = LazyLock::new(Ours::new);

struct Ours {
    tokens: AccessTokens,
    token: String,
    seals: Seals,
    renewed: Seals,
    sealed: String,
}

impl Ours {
    fn new() -> Self {
        let clock = Clock::manual(Duration::from_secs(1_000_000));
        let tokens = AccessTokens::new(&MATERIAL, clock).expect("a key");
        let issued = tokens.issue(user(), AUDIENCE, TOKEN_LIFE, None);
        let seals = Seals::new(&MATERIAL).expect("a key");
        let sealed = seals.seal("https://registry.test/upload?x", CONTEXT).expect("randomness");
        let renewed = seals.renewed(&[8; 32]).expect("a key");
        Self { tokens, token: issued.token.expose().to_owned(), seals, renewed, sealed }
    }
}

fn user() -> TokenSubject {
    TokenSubject::User { name: "ci".to_owned(), hash: "abc".to_owned() }
}

/// A byte that says what the rest is: a token, changes of a good one, a sealed address, or changes
/// of one. Nothing is read but what we wrote.
pub(crate) fn tokens(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match kind % 4 {
        0 => is_ours(&text(rest)),
        1 => is_ours(&text(&changed(OURS.token.as_bytes(), rest))),
        2 => opens(&text(rest)),
        _ => opens(&text(&changed(OURS.sealed.as_bytes(), rest))),
    }
}

fn is_ours(presented: &str) {
    let read = OURS.tokens.read(presented, AUDIENCE);
    assert_eq!(read.is_ok(), presented == OURS.token, "{presented}");
    assert!(read.is_err() || read.as_ref() == Ok(&user()));
    assert!(OURS.tokens.read(presented, "mirror.example.com").is_err(), "for another name");
}

fn opens(presented: &str) {
    let opened = OURS.seals.open(presented, CONTEXT);
    assert_eq!(opened.is_some(), presented == OURS.sealed, "{presented}");
    assert!(OURS.seals.open(presented, "eve acme/app").is_none(), "for another caller");
    assert_eq!(OURS.renewed.open(presented, CONTEXT), opened);
}
