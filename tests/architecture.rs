//! The house rules that a compiler does not know: which module may use which, which foreign crate
//! has which owner, that there is one TLS stack (DESIGN §3), that no room has a circle of files,
//! that type names are not shared, and that nothing is public without need.
//!
//! The checker is a function over one file's path and text, so that it can be shown to fail.

#[path = "architecture/circles.rs"]
mod circles;
#[path = "architecture/names.rs"]
mod names;
#[path = "architecture/public.rs"]
mod public;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Modules that anyone but `oci` may take types from.
const LEAVES: &[&str] = &[
    "config",
    "licence",
    "identity",
    "jws",
    "metrics",
    "telemetry",
    "limits",
    "clock",
    "expiring",
    "files",
    "secret",
    "shortage",
];

/// Each module, and what it may use besides itself and the leaves. A new module has to be entered
/// here.
const ARROWS: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    (
        "cli",
        &[
            "app", "bundle", "control", "reload", "server", "admin", "access", "route", "pull",
            "push", "store", "upstream", "wanted", "oci",
        ],
    ),
    (
        "app",
        &[
            "reload", "control", "server", "admin", "access", "route", "misses", "pull", "push",
            "store", "upstream", "images", "scrub", "oci",
        ],
    ),
    ("fuzzing", &["access", "upstream", "wanted", "oci"]),
    ("reload", &["access", "server"]),
    (
        "control",
        &[
            "images", "import", "misses", "warm", "server", "route", "pull", "store", "upstream",
            "wanted", "oci",
        ],
    ),
    ("misses", &["images", "store", "oci"]),
    ("warm", &["wanted", "pull", "upstream", "oci"]),
    ("images", &["store", "wanted", "oci"]),
    ("scrub", &["images", "pull", "store", "oci"]),
    ("bundle", &["oci"]),
    ("import", &["pull", "store", "oci"]),
    ("admin", &["access", "server", "store", "upstream"]),
    ("server", &["access", "route", "misses", "pull", "push", "store", "oci"]),
    ("access", &["oci", "fuzzing"]),
    ("route", &["oci"]),
    ("pull", &["store", "upstream", "oci"]),
    ("push", &["pull", "store", "upstream", "oci"]),
    ("store", &["oci"]),
    ("upstream", &["oci"]),
    ("wanted", &["oci"]),
    ("oci", &[]),
    ("config", &["wanted", "oci"]),
    ("licence", &["fuzzing"]),
    ("identity", &[]),
    ("jws", &[]),
    ("metrics", &["oci"]),
    ("telemetry", &["oci"]),
    ("limits", &[]),
    ("clock", &[]),
    ("expiring", &[]),
    ("files", &[]),
    ("secret", &[]),
    ("shortage", &[]),
];

/// Modules that use nothing at all: they are pure, or below everything.
const ALONE: &[&str] = &["oci", "wanted", "jws", "limits", "clock", "secret", "shortage"];

/// Foreign paths, and the modules that may name them. Other crates are anybody's.
const OWNERS: &[(&str, &[&str])] = &[
    ("anyhow", &["main", "cli", "app", "control", "telemetry"]),
    ("clap", &["main", "cli"]),
    ("indicatif", &["cli"]),
    ("hyper", &["server", "admin", "control", "upstream"]),
    ("hyper_util", &["server", "admin", "control", "upstream"]),
    ("prometheus", &["metrics", "admin"]),
    ("rusqlite", &["store"]),
    ("rustls", &["main", "upstream", "server", "config"]),
    ("serde_yaml", &["config", "wanted"]),
    // The operator's side reads the process's own figures in /proc, and makes its socket.
    ("std::fs", &["store", "files", "bundle", "admin", "control"]),
    // Credential helpers; of the standard library's own process module others take exit codes.
    ("std::process::Command", &["upstream"]),
    ("tokio::process", &["upstream"]),
    ("tokio::fs", &["store"]),
    ("tower_service", &["upstream"]),
    ("tracing_subscriber", &["telemetry"]),
];

/// Crates that would be a second TLS stack, or a second provider of its cryptography.
const OTHER_TLS: &[&str] = &["boring", "native-tls", "openssl", "openssl-sys", "ring", "s2n-tls"];

#[test]
fn every_arrow_points_the_right_way_and_every_crate_has_its_owner() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    rust_files(&root.join("src"), &mut files);
    assert!(files.len() > 10, "the sources were not found");
    let problems: Vec<String> = files
        .iter()
        .flat_map(|file| {
            let path =
                file.strip_prefix(root).expect("below the root").to_string_lossy().into_owned();
            violations(&path, &fs::read_to_string(file).expect("a readable source"))
        })
        .collect();
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn there_is_one_tls_stack() {
    let lock = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock"))
        .expect("a lock file");
    let locked: Vec<&str> =
        lock.lines().filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"')).collect();
    assert_eq!(tls_problems(&locked, &["ring"]), Vec::<String>::new(), "in Cargo.lock");
    // The lock file also names ring, for features of rustls that are off; what counts is what gets
    // built.
    let built = built_packages();
    let built: Vec<&str> = built.iter().map(String::as_str).collect();
    assert_eq!(tls_problems(&built, &[]), Vec::<String>::new(), "in cargo tree");
}

/// Names of the packages that are compiled for this platform, each once per version.
fn built_packages() -> Vec<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "--prefix", "none", "--format", "{p}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let packages: BTreeSet<(&str, &str)> = text
        .lines()
        .filter_map(|line| Some((line.split(' ').next()?, line.split(' ').nth(1)?)))
        .collect();
    packages.into_iter().map(|(name, _)| name.to_owned()).collect()
}

fn tls_problems(packages: &[&str], tolerated: &[&str]) -> Vec<String> {
    let others =
        packages.iter().filter(|name| OTHER_TLS.contains(name) && !tolerated.contains(name));
    let mut problems: Vec<String> =
        others.map(|name| format!("{name} is another TLS stack")).collect();
    let rustls = packages.iter().filter(|name| **name == "rustls").count();
    if rustls != 1 {
        problems.push(format!("{rustls} versions of rustls"));
    }
    problems
}

fn rust_files(folder: &Path, files: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// What is wrong with the file at `path` (as `src/pull/fill.rs`); owners do not bind test modules.
fn violations(path: &str, text: &str) -> Vec<String> {
    let inside: Vec<&str> =
        path.trim_start_matches("src/").trim_end_matches(".rs").split('/').collect();
    let module = inside[0];
    if module == "lib" {
        return Vec::new();
    }
    let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == module) else {
        return vec![format!("{path}: {module} is not in the table of arrows")];
    };
    let code = without_comments_and_strings(text);
    let arrows = paths(&code).into_iter().filter_map(|used| {
        let target = used.strip_prefix("crate::").or_else(|| used.strip_prefix("roadstead::"))?;
        let target = target.split("::").next().unwrap_or_default();
        let leaf = LEAVES.contains(&target) && !ALONE.contains(&module);
        let fine = target == module || leaf || allowed.contains(&target);
        (!fine).then(|| format!("{path}: {module} may not use {target}"))
    });
    if inside.last() == Some(&"tests") {
        return arrows.collect();
    }
    let depth = inside.len() - usize::from(inside.last() == Some(&"mod"));
    let shipped = paths(&without_test_modules(&code));
    let detours = shipped
        .iter()
        .filter(|used| used.split("::").take_while(|part| *part == "super").count() >= depth);
    let detours = detours.map(|used| format!("{path}: {used} leaves the module; write crate::"));
    let strangers = shipped.iter().filter_map(|used| {
        let within = |owned: &str| used == owned || used.starts_with(&format!("{owned}::"));
        let (owned, owners) = OWNERS.iter().find(|(owned, _)| within(owned))?;
        (!owners.contains(&module))
            .then(|| format!("{path}: {owned} belongs to {}", owners.join(", ")))
    });
    arrows.chain(detours).chain(strangers).collect()
}

/// The text with comments, strings and characters blanked, so that what is left is code.
fn without_comments_and_strings(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let skipped = literal_len(rest, code.chars().next_back());
        if skipped == 0 {
            code.push(next);
            rest = &rest[next.len_utf8()..];
        } else {
            code.push(' ');
            rest = &rest[skipped..];
        }
    }
    code
}

/// Bytes of the comment, string or character that `rest` starts with, or zero.
fn literal_len(rest: &str, before: Option<char>) -> usize {
    let until = |end: &str, from: usize| {
        rest[from..].find(end).map_or(rest.len(), |at| from + at + end.len())
    };
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let raw = rest.strip_prefix('b').unwrap_or(rest).strip_prefix('r').filter(|_| !in_word);
    let hashes = raw.map_or(0, |raw| raw.len() - raw.trim_start_matches('#').len());
    if rest.starts_with("//") {
        until("\n", 0) - usize::from(rest.contains('\n'))
    } else if rest.starts_with("/*") {
        until("*/", 2)
    } else if raw.is_some_and(|raw| raw[hashes..].starts_with('"')) {
        let start = rest.find('"').map_or(rest.len(), |at| at + 1);
        until(&format!("\"{}", "#".repeat(hashes)), start)
    } else if let Some(text) = rest.strip_prefix('"') {
        1 + escaped_len(text, '"')
    } else if rest.starts_with("'\\") || rest.chars().nth(2) == Some('\'') && rest.starts_with('\'')
    {
        1 + escaped_len(&rest[1..], '\'')
    } else {
        0
    }
}

/// Bytes up to and with the first `quote` that no backslash escapes.
fn escaped_len(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, next) in text.char_indices() {
        if next == quote && !escaped {
            return at + next.len_utf8();
        }
        escaped = next == '\\' && !escaped;
    }
    text.len()
}

/// `code` without its inline `#[cfg(test)] mod … { … }`.
fn without_test_modules(code: &str) -> String {
    let Some(start) = code.find("#[cfg(test)]\nmod ") else { return code.to_owned() };
    let (head, module) = code.split_at(start);
    let mut depth = 0_usize;
    for (at, next) in module.char_indices() {
        match next {
            ';' if depth == 0 => return format!("{head}{}", without_test_modules(&module[at..])),
            '{' => depth += 1,
            '}' if depth == 1 => {
                return format!("{head}{}", without_test_modules(&module[at + 1..]));
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    head.to_owned()
}

/// Every path in `code`, with the groups of `use` spelled out: `a::{b, c::d}` is `a::b` and
/// `a::c::d`. A word alone is a path only behind `use`; elsewhere it may be anybody's variable.
fn paths(code: &str) -> Vec<String> {
    let tokens = tokens(code);
    let (mut found, mut at) = (Vec::new(), 0);
    while at < tokens.len() {
        let (start, known) = (at, found.len());
        let behind_use = start > 0 && tokens[start - 1] == "use";
        at = if is_word(tokens[at]) { path_at(&tokens, at, "", &mut found) } else { at + 1 };
        if !behind_use && at == start + 1 {
            found.truncate(known);
        }
    }
    found
}

/// Reads one path that starts at `at`; returns where it ends.
fn path_at(tokens: &[&str], mut at: usize, prefix: &str, found: &mut Vec<String>) -> usize {
    let mut path = prefix.to_owned();
    while let Some(token) = tokens.get(at) {
        if *token == "{" && path.ends_with("::") {
            return group_at(tokens, at + 1, &path, found);
        }
        if !is_word(token) {
            break;
        }
        path.push_str(token);
        at += 1;
        if tokens.get(at) != Some(&"::") {
            break;
        }
        path.push_str("::");
        at += 1;
    }
    found.push(path.trim_end_matches("::").to_owned());
    at
}

fn group_at(tokens: &[&str], mut at: usize, prefix: &str, found: &mut Vec<String>) -> usize {
    while let Some(token) = tokens.get(at) {
        match *token {
            "}" => return at + 1,
            token if is_word(token) => at = path_at(tokens, at, prefix, found),
            _ => at += 1,
        }
    }
    at
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Words, `::`, and single other characters.
fn tokens(code: &str) -> Vec<&str> {
    let (mut tokens, mut rest) = (Vec::new(), code.trim_start());
    while let Some(first) = rest.chars().next() {
        let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let len = if rest.starts_with("::") { 2 } else { word.max(first.len_utf8()) };
        tokens.push(&rest[..len]);
        rest = rest[len..].trim_start();
    }
    tokens
}

mod checker {
    use super::*;

    fn assert_refused(path: &str, text: &str, reason: &str) {
        let problems = violations(path, text);
        assert!(
            problems.len() == 1 && problems[0].contains(reason),
            "{path}: {text}\n{problems:?}"
        );
    }

    fn assert_fine(path: &str, text: &str) {
        assert_eq!(violations(path, text), Vec::<String>::new(), "{path}: {text}");
    }

    #[test]
    fn arrows_that_point_the_other_way_are_found() {
        for (path, text, reason) in [
            ("src/store/blobs.rs", "use crate::upstream::Client;", "store may not use upstream"),
            (
                "src/upstream/mod.rs",
                "use crate::{oci::Digest, store::BlobStore};",
                "upstream may not use store",
            ),
            ("src/pull/fill.rs", "fn f() -> crate::server::Body {}", "pull may not use server"),
            ("src/route/mod.rs", "use crate::access;", "route may not use access"),
            ("src/oci/name.rs", "use crate::config::Config;", "oci may not use config"),
            ("src/wanted/tree.rs", "use crate::config::Config;", "wanted may not use config"),
            (
                "src/oci/name.rs",
                "macro_rules! m { () => { $crate::clock::Clock } }",
                "oci may not use clock",
            ),
            ("src/main.rs", "fn main() { roadstead::app::run() }", "main may not use app"),
            ("src/server/mod.rs", "use crate::Surprise;", "server may not use Surprise"),
            (
                "src/store/mod.rs",
                "#[cfg(test)]\nmod tests { use crate::upstream; }",
                "store may not use upstream",
            ),
            ("src/store/mod.rs", "use super::upstream;", "write crate::"),
            ("src/store/blobs.rs", "use super::super::upstream;", "write crate::"),
            ("src/util/mod.rs", "", "not in the table"),
        ] {
            assert_refused(path, text, reason);
        }
    }

    #[test]
    fn crates_outside_their_owner_are_found() {
        for (path, text, reason) in [
            (
                "src/pull/fill.rs",
                "use tower_service::Service;",
                "tower_service belongs to upstream",
            ),
            ("src/pull/fill.rs", "use std::{fs, io};", "std::fs belongs to"),
            ("src/pull/fill.rs", "use tokio::fs::File as F;", "tokio::fs belongs to"),
            ("src/pull/fill.rs", "fn f() { ::std::fs::remove_file(p); }", "std::fs belongs to"),
            (
                "src/pull/fill.rs",
                "use tokio::process::Command;",
                "tokio::process belongs to upstream",
            ),
            ("src/pull/mod.rs", "use hyper::{body::Body};", "hyper belongs to"),
            ("src/store/mod.rs", "fn f() -> Vec<prometheus::Registry> {}", "prometheus belongs to"),
            ("src/access/mod.rs", "use serde_yaml;", "serde_yaml belongs to"),
            (
                "src/pull/mod.rs",
                "#[cfg(test)]\nmod tests { }\nuse rusqlite::Connection;",
                "rusqlite belongs to",
            ),
            (
                "src/store/mod.rs",
                "fn f<'a>(x: &'a str) { '\"'; rustls::x('\"') }",
                "rustls belongs to",
            ),
            ("src/pull/mod.rs", "// \"\nfn f() -> anyhow::Result<()> {}", "anyhow belongs to"),
        ] {
            assert_refused(path, text, reason);
        }
    }

    #[test]
    fn what_the_rules_allow_is_not_reported() {
        for (path, text) in [
            (
                "src/pull/mod.rs",
                "use crate::{clock::Clock, oci::{Digest, Ns}, store, upstream::Client};",
            ),
            (
                "src/store/fs.rs",
                "use std::fs::{self, File}; use super::index::Index; use crate::store::Room;",
            ),
            (
                "src/store/mod.rs",
                "#[cfg(test)]\nmod tests { use super::*; use tower_service::Service; }",
            ),
            ("src/pull/tests.rs", "use super::*; use std::fs;"),
            (
                "src/pull/mod.rs",
                "// use crate::server;\n/* tower_service::x */ const A: &str = \"std::fs::\\\"x\";",
            ),
            (
                "src/pull/mod.rs",
                "const A: &str = r#\"a \" crate::server::x\"#; const B: char = '\\'';",
            ),
            (
                "src/pull/mod.rs",
                "fn f() { x.hyper = tower_service; my::tower_service::y(); hyperactive::z() }",
            ),
            ("src/main.rs", "fn main() -> ExitCode { roadstead::cli::run() }"),
            ("src/lib.rs", "pub mod store; pub use crate::app::App;"),
        ] {
            assert_fine(path, text);
        }
    }

    #[test]
    fn a_second_tls_stack_is_found() {
        assert!(tls_problems(&["rustls", "rustls-pki-types", "openssl-probe"], &[]).is_empty());
        for packages in
            [&["rustls", "openssl"][..], &["rustls", "rustls"], &["tokio"], &["rustls", "ring"]]
        {
            assert_eq!(tls_problems(packages, &[]).len(), 1, "{packages:?}");
        }
        assert!(tls_problems(&["rustls", "ring"], &["ring"]).is_empty());
    }
}
