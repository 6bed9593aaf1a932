//! The documents stay true of the code where that can be read off: cited rules, metrics, presets,
//! and paths.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Documents whose rules are cited by section.
const SOURCES: [&str; 4] = ["DESIGN", "PROTOCOL", "RELIABILITY", "ACCESS"];
/// Families of rules that are cited by number.
const FAMILIES: [&str; 9] = ["SEL", "NAME", "MAN", "BLOB", "RED", "TAG", "REF", "ERR", "UP"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All Rust files below `folder`.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder)
        .expect("a readable folder")
        .map(|entry| entry.expect("a readable entry").path());
    entries
        .flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}

/// `SEL-1`, `DESIGN §14.2`, and each of `DESIGN §4.4, §6`.
fn citations(text: &str) -> BTreeSet<String> {
    let words: Vec<&str> =
        text.split(|c: char| c.is_whitespace() || "(),;:`\"…".contains(c)).collect();
    let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
    let mut found = BTreeSet::new();
    let mut source = None;
    for word in words {
        if let Some(section) = word.strip_prefix('§') {
            found.extend(
                source.map(|source| format!("{source} §{}", section.trim_end_matches('.'))),
            );
            continue;
        }
        source = SOURCES.into_iter().find(|source| *source == word);
        let rule = word.trim_end_matches('.');
        let numbered = |(family, number): (&str, &str)| {
            FAMILIES.contains(&family)
                && !number.is_empty()
                && number.bytes().all(|b| b.is_ascii_digit())
        };
        if rule.split_once('-').is_some_and(numbered) {
            found.insert(rule.to_owned());
        }
    }
    found
}

#[test]
fn every_cited_rule_is_explained() {
    let rules = read("docs/rules.md");
    let explained: BTreeSet<&str> =
        rules.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next()).collect();
    let mut count = 0;
    for path in ["src", "tests"].iter().flat_map(|folder| sources(&root().join(folder))) {
        if path.ends_with("tests/docs.rs") {
            continue;
        }
        for cited in citations(&fs::read_to_string(&path).expect("text")) {
            count += 1;
            assert!(
                explained.contains(cited.as_str()),
                "{}: {cited} is not in docs/rules.md",
                path.display()
            );
        }
    }
    assert!(count > 100, "citations are no longer found: {count}");
}

#[test]
fn citations_are_found_in_every_form() {
    let text = "(DESIGN §4.4, §6). BLOB-12), SHA-256; RFC 9110 §14.4: UP-2…UP-5. SEL- and SEL-x PROTOCOL §1.9, \"x\"";
    let expected = ["BLOB-12", "DESIGN §4.4", "DESIGN §6", "PROTOCOL §1.9", "UP-2", "UP-5"];
    assert_eq!(citations(text), expected.map(str::to_owned).into());
}

/// The first string literal behind each of `calls`.
fn literals<'a>(text: &'a str, calls: &[&str]) -> Vec<&'a str> {
    let starts =
        calls.iter().flat_map(|call| text.match_indices(call).map(|(at, call)| at + call.len()));
    starts
        .filter_map(|start| text[start..].trim_start().strip_prefix('"')?.split('"').next())
        .collect()
}

#[test]
fn the_readme_names_every_metric_and_every_preset() {
    let readme = read("README.md");
    let metrics = read("src/metrics.rs");
    let metrics =
        literals(&metrics, &["r.counter(", "r.counters(", "r.gauge(", "r.gauges(", "r.histogram("]);
    let process = read("src/admin/process.rs");
    let presets = read("src/config/presets.rs");
    let presets = literals(&presets, &["plain("]);
    assert!(metrics.len() > 20 && presets.len() > 10, "{metrics:?} {presets:?}");
    let metrics = metrics.iter().map(|name| format!("`roadstead_{name}`"));
    let process = literals(&process, &["gauge("]).into_iter().map(|name| format!("`{name}`"));
    for name in metrics.chain(process).chain(presets.into_iter().map(str::to_owned)) {
        assert!(readme.contains(&name), "README.md does not name {name}");
    }
}

#[test]
fn paths_in_the_documents_exist() {
    let mut count = 0;
    for document in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "docs/rules.md"] {
        let text = read(document);
        let quoted = text.split('`').skip(1).step_by(2);
        let folders = ["src/", "tests/", "docs/", "deploy/", ".ci/"];
        for path in quoted.filter(|quoted| folders.iter().any(|folder| quoted.starts_with(folder)))
        {
            count += 1;
            assert!(root().join(path).exists(), "{document}: there is no {path}");
        }
    }
    assert!(count > 20, "paths are no longer found: {count}");
}
