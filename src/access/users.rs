//! The users of an htpasswd file. Pure, but for the cost of a hash.

use std::collections::HashMap;
use std::time::Duration;

use argon2::{Argon2, PasswordVerifier};
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Above these bounds checking one password would block the only hashing thread for seconds.
const BCRYPT_COST_MAX: u32 = 14;
const ARGON2_KIB_MAX: u32 = 64 * 1024;
const ARGON2_PASSES_MAX: u32 = 10;
const ARGON2_LANES_MAX: u32 = 4;
/// bcrypt ignores everything behind these bytes of a password.
const BCRYPT_PASSWORD_BYTES_MAX: usize = 72;

/// Everybody who has a password.
#[derive(Clone, Debug, Default)]
pub(crate) struct Users {
    hashes: HashMap<Box<str>, StoredHash>,
    /// The most expensive of the hashes. A login by an unknown name is checked against it, so that
    /// it takes no less time than that of a user.
    decoy: Option<StoredHash>,
}

/// A password's hash. Shows nothing of itself.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct StoredHash {
    text: Box<str>,
    kind: HashKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HashKind {
    Bcrypt { cost: u32 },
    Argon2id { kib: u32, passes: u32 },
}

impl Users {
    /// Reads lines of `name:hash`; empty lines and those that begin with `#` are passed over.
    ///
    /// # Errors
    /// Every line that is wrong, by number from 1; never with anything of a hash.
    pub(crate) fn parse(text: &str) -> Result<Self, Vec<(usize, String)>> {
        let mut lines: HashMap<&str, usize> = HashMap::new();
        let (mut users, mut problems) = (Self::default(), Vec::new());
        for (i, line) in text.lines().enumerate() {
            let line = line.trim_end();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match user(line) {
                Ok((name, hash)) => {
                    if let Some(first) = lines.insert(name, i + 1) {
                        problems.push((
                            i + 1,
                            format!("{name} has a password on line {first} already; keep one"),
                        ));
                    }
                    users.add(name, hash);
                }
                Err(message) => problems.push((i + 1, message)),
            }
        }
        if problems.is_empty() { Ok(users) } else { Err(problems) }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&StoredHash> {
        self.hashes.get(name)
    }

    /// The hash that takes longest; none if there is nobody.
    pub(super) fn decoy(&self) -> Option<&StoredHash> {
        self.decoy.as_ref()
    }

    /// How long the answer to a wrong password is held back at least: some five times what the
    /// slowest hash takes, so that it was checked by then even after a few others. With bcrypt at
    /// its highest cost that is 6.6 s.
    pub(super) fn wrong_answer_delay(&self) -> Duration {
        self.slowest_hash() * 5
    }

    /// What the slowest hash takes, roughly.
    pub(super) fn slowest_hash(&self) -> Duration {
        self.decoy.as_ref().map_or(Duration::ZERO, StoredHash::usual_time)
    }

    fn add(&mut self, name: &str, hash: StoredHash) {
        let both = self.decoy.take().into_iter().chain([hash.clone()]);
        self.decoy = both.max_by_key(|hash| hash.kind.work());
        self.hashes.insert(name.into(), hash);
    }
}

fn user(line: &str) -> Result<(&str, StoredHash), String> {
    let (name, hash) = line
        .split_once(':')
        .ok_or("is no user; write name:hash, as htpasswd -nB NAME prints it")?;
    if name.is_empty() || name.chars().any(char::is_control) {
        return Err("has no usable name before the colon".to_owned());
    }
    Ok((name, StoredHash::parse(hash).map_err(|message| format!("{name}: {message}"))?))
}

impl StoredHash {
    fn parse(text: &str) -> Result<Self, String> {
        let kind = if text.starts_with("$argon2") { argon2id(text)? } else { bcrypt(text)? };
        Ok(Self { text: text.into(), kind })
    }

    /// Changes with the password, and tells nothing about the hash: the beginning of its SHA-256.
    pub(crate) fn fingerprint(&self) -> String {
        URL_SAFE_NO_PAD.encode(&digest(&SHA256, self.text.as_bytes()).as_ref()[..12])
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Whether no password of this length is right. bcrypt looks at 72 bytes; a longer password is
    /// wrong, not cut, so that nobody logs in with the beginning of one.
    pub(super) fn would_cut(&self, password: &str) -> bool {
        match self.kind {
            HashKind::Bcrypt { .. } => password.len() > BCRYPT_PASSWORD_BYTES_MAX,
            HashKind::Argon2id { .. } => false,
        }
    }

    /// What [`StoredHash::verify`] takes, roughly.
    pub(super) fn usual_time(&self) -> Duration {
        Duration::from_micros(self.kind.work())
    }

    /// Takes tens of milliseconds and a whole core.
    pub(super) fn verify(&self, password: &str) -> bool {
        match self.kind {
            HashKind::Bcrypt { .. } => {
                !self.would_cut(password) && bcrypt::verify(password, &self.text).unwrap_or(false)
            }
            HashKind::Argon2id { .. } => {
                Argon2::default().verify_password(password.as_bytes(), self.text.as_ref()).is_ok()
            }
        }
    }
}

impl HashKind {
    /// What a login costs, roughly, in KiB that argon2 fills: one round of bcrypt takes as long as
    /// some eighty of them.
    fn work(self) -> u64 {
        match self {
            Self::Bcrypt { cost } => 80 << cost,
            Self::Argon2id { kib, passes } => u64::from(kib) * u64::from(passes),
        }
    }
}

impl std::fmt::Debug for StoredHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StoredHash({:?})", self.kind)
    }
}

fn bcrypt(text: &str) -> Result<HashKind, String> {
    let known = ["$2a$", "$2b$", "$2y$"].iter().any(|prefix| text.starts_with(prefix));
    let parts = text.parse::<bcrypt::HashParts>().ok().filter(|_| known).ok_or(
        "the hash is neither bcrypt nor argon2id; make one with htpasswd -B (plain text, MD5 and \
         SHA are not accepted)",
    )?;
    let cost = parts.get_cost();
    if (4..=BCRYPT_COST_MAX).contains(&cost) {
        return Ok(HashKind::Bcrypt { cost });
    }
    Err(format!(
        "bcrypt with cost {cost} is out of bounds; use htpasswd -B -C 10, at most {BCRYPT_COST_MAX}"
    ))
}

fn argon2id(text: &str) -> Result<HashKind, String> {
    let wrong = || {
        "the hash is no argon2id in PHC form, as $argon2id$v=19$m=19456,t=2,p=1$salt$hash"
            .to_owned()
    };
    let hash = argon2::PasswordHash::new(text).map_err(|_| wrong())?;
    let params = argon2::Params::try_from(&hash).map_err(|_| wrong())?;
    if hash.algorithm.as_str() != "argon2id" || hash.salt.is_none() || hash.hash.is_none() {
        return Err(wrong());
    }
    let (kib, passes, lanes) = (params.m_cost(), params.t_cost(), params.p_cost());
    if kib > ARGON2_KIB_MAX || passes > ARGON2_PASSES_MAX || lanes > ARGON2_LANES_MAX {
        return Err(format!(
            "argon2id with m={kib},t={passes},p={lanes} is out of bounds; use at most \
             m={ARGON2_KIB_MAX},t={ARGON2_PASSES_MAX},p={ARGON2_LANES_MAX}"
        ));
    }
    Ok(HashKind::Argon2id { kib, passes })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `htpasswd -nbB -C 4 ci secret`
    const BCRYPT: &str = "$2y$04$9.jo8ITCZ3aWJrApmzvVAeSwEupNWwEqyRkmMOUsXUcT.1NEh836q";
    /// The same of 72 times `x`.
    const BCRYPT_OF_72: &str = "$2y$04$UxAgLBwKFrEnWnvkqy2l0uatY08JKKFTNaaDTZL5xhnHui7wNoY9W";

    fn argon2id() -> String {
        use argon2::PasswordHasher;
        let params = argon2::Params::new(64, 1, 1, None).expect("small parameters");
        let hash =
            Argon2::from(params).hash_password_with_salt(b"secret", b"saltsalt").expect("a hash");
        hash.to_string()
    }

    fn bcrypt_of(password: &str) -> String {
        bcrypt::hash(password, 4).expect("a hash")
    }

    #[test]
    fn both_kinds_of_hash_tell_right_from_wrong() {
        let text =
            format!("# users\n\nci:{}\r\nops@acme.test:{}\n", bcrypt_of("secret"), argon2id());
        let users = Users::parse(&text).expect("two users");
        assert_eq!(users.hashes.len(), 2);
        for name in ["ci", "ops@acme.test"] {
            let hash = users.get(name).expect(name);
            assert!(hash.verify("secret") && !hash.verify("Secret") && !hash.verify(""), "{name}");
            assert_eq!(hash.would_cut(&"x".repeat(73)), name == "ci", "argon2id takes all of it");
            assert!(!hash.would_cut(&"x".repeat(72)));
        }
        assert!(users.get("CI").is_none());
        assert!(!format!("{users:?}").contains("$2"));
    }

    fn only_user(hash: &str) -> StoredHash {
        Users::parse(&format!("ci:{hash}")).expect("a user").get("ci").expect("ci").clone()
    }

    #[test]
    fn what_htpasswd_writes_is_read() {
        for prefix in ["$2y$", "$2b$", "$2a$"] {
            let hash = only_user(&BCRYPT.replace("$2y$", prefix));
            assert!(hash.verify("secret") && !hash.verify("secret "), "{prefix}");
        }
    }

    #[test]
    fn a_password_that_bcrypt_would_cut_is_wrong() {
        let (hash, longest) = (only_user(BCRYPT_OF_72), "x".repeat(72));
        assert!(hash.verify(&longest), "72 bytes are not cut");
        assert!(!hash.verify(&longest[..71]));
        assert!(!hash.verify(&format!("{longest}y")));
    }

    #[test]
    fn every_wrong_line_is_told_without_its_hash() {
        let good = bcrypt_of("x");
        let lines = [
            "no colon".to_owned(),
            format!(":{good}"),
            "a:$apr1$xyz$abcdefghijklmnop".to_owned(),
            "b:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=".to_owned(),
            "c:plain-secret".to_owned(),
            "d:".to_owned(),
            format!("e:{}", BCRYPT.replace("$04$", "$15$")),
            format!("f:{}", &good[..59]),
            format!("f:{good}a"),
            // PHP's broken variant.
            format!("f:{}", BCRYPT.replace("$2y$", "$2x$")),
            format!("\u{7}f:{good}"),
            format!("g:{}", argon2id().replace("argon2id", "argon2i")),
            format!("g:{}", argon2id().rsplit_once('$').expect("a hash").0),
            format!("h:{}", argon2id().replace("m=64", "m=1000000")),
            format!("i:{good}"),
            format!("i:{good}"),
        ];
        let problems = Users::parse(&lines.join("\n")).expect_err("wrong lines");
        assert_eq!(
            problems.iter().map(|(line, _)| *line).collect::<Vec<_>>(),
            [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16]
        );
        let told = format!("{problems:?}");
        assert!(
            !told.contains("plain-secret")
                && !told.contains("W6ph5")
                && !told.contains(&good[10..]),
            "{told}"
        );
        assert!(told.contains("htpasswd -B") && told.contains("line 15"), "{told}");
    }

    #[test]
    fn argon2id_is_taken_up_to_what_one_login_may_cost() {
        let line = |params: &str| format!("ci:{}", argon2id().replace("m=64,t=1,p=1", params));
        for most in ["m=65536,t=1,p=1", "m=64,t=10,p=1", "m=64,t=1,p=4", "m=65536,t=10,p=4"] {
            assert!(Users::parse(&line(most)).is_ok(), "{most}");
        }
        for more in ["m=65537,t=1,p=1", "m=64,t=11,p=1", "m=64,t=1,p=5"] {
            let problems = Users::parse(&line(more)).expect_err(more);
            assert!(problems[0].1.contains("out of bounds"), "{problems:?}");
        }
    }

    #[test]
    fn the_decoy_is_the_most_expensive_hash_of_either_kind() {
        let decoy = |hashes: &[&str]| {
            let lines: Vec<_> =
                hashes.iter().enumerate().map(|(i, hash)| format!("u{i}:{hash}")).collect();
            Users::parse(&lines.join("\n")).expect("users").decoy().map(|decoy| decoy.kind)
        };
        let (expensive, argon2id) = (BCRYPT.replace("$04$", "$12$"), argon2id());
        assert_eq!(decoy(&[BCRYPT, &expensive]), Some(HashKind::Bcrypt { cost: 12 }));
        assert_eq!(decoy(&[&expensive, &argon2id]), Some(HashKind::Bcrypt { cost: 12 }));
        let usual = argon2id.replace("m=64,t=1", "m=19456,t=2");
        // Two passes over 19 MiB take longer than cost 8, and less than cost 9.
        for (cost, usual_is_slower) in [("04", true), ("08", true), ("09", false)] {
            let bcrypt = BCRYPT.replace("$04$", &format!("${cost}$"));
            for both in [[usual.as_str(), &bcrypt], [&bcrypt, &usual]] {
                let slower = decoy(&both) == Some(HashKind::Argon2id { kib: 19456, passes: 2 });
                assert_eq!(slower, usual_is_slower, "beside bcrypt of cost {cost}");
            }
        }
        assert!(Users::default().decoy().is_none());
    }

    #[test]
    fn the_time_for_a_wrong_login_is_that_of_the_slowest_hash_several_times() {
        let slowest = BCRYPT.replace("$04$", "$12$");
        let users = Users::parse(&format!("a:{BCRYPT}\nb:{slowest}")).expect("users");
        assert_eq!(users.wrong_answer_delay(), Duration::from_micros((80 << 12) * 5));
        assert_eq!(Users::default().wrong_answer_delay(), Duration::ZERO);
    }

    #[test]
    fn a_changed_password_changes_the_fingerprint() {
        let users = |hash: &str| Users::parse(&format!("ci:{hash}")).expect("a user");
        let (first, second) = (bcrypt_of("secret"), bcrypt_of("secret"));
        let print = |hash: &str| users(hash).get("ci").expect("ci").fingerprint();
        assert_eq!(print(&first), print(&first));
        assert_ne!(print(&first), print(&second));
    }
}
