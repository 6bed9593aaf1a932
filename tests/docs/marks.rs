//! Every block of code in the documents for users is tested, or says why not.
//!
//! | mark above the block | the block |
//! |---|---|
//! | `run: FILE TEST` | is read from the document and used by that test, or by a function of tests |
//! | `not run: REASON` | holds commands that no test can run |
//! | `not ours: REASON` | is YAML that another program reads; it has to be valid YAML |
//! | `part of: DOCUMENT` | replaces keys of the first configuration in that document |
//! | none | is a configuration that `roadstead check` accepts; or TOML or JSON; or a picture |

use serde::Deserialize as _;
use serde_yaml::Value;

use crate::blocks::{Block, blocks};
use crate::folder::Folder;
use crate::{read, user_documents};

fn all() -> Vec<Block> {
    user_documents().iter().flat_map(|document| blocks(document)).collect()
}

/// What follows `kind` in the block's mark.
fn marked_as<'a>(block: &'a Block, kind: &str) -> Option<&'a str> {
    block.mark.as_deref()?.strip_prefix(kind)
}

#[test]
fn every_block_says_how_it_is_tested() {
    for block in all() {
        let Block { place, language, mark, .. } = &block;
        let mark = mark.as_deref().map(|mark| mark.split_once(": ").unwrap_or((mark, "")).0);
        let known: &[Option<&str>] = match language.as_str() {
            "sh" => &[Some("run"), Some("not run")],
            "yaml" => &[None, Some("run"), Some("not ours"), Some("part of")],
            "toml" | "json" | "text" => &[None, Some("run")],
            _ => panic!("{place}: {language:?} is not sh, yaml, toml, json or text"),
        };
        assert!(known.contains(&mark), "{place}: the mark above a {language} block is {mark:?}");
        if let Some(reason) = marked_as(&block, "not run: ") {
            assert!(reason.split_whitespace().count() >= 4, "{place}: {reason:?} is no reason");
        }
    }
}

#[test]
fn every_test_that_a_mark_names_reads_the_block_from_the_document() {
    let mut count = 0;
    for block in all() {
        let Some(run) = marked_as(&block, "run: ") else { continue };
        let (file, test) =
            run.split_once(' ').unwrap_or_else(|| panic!("{}: {run:?} names no test", block.place));
        let source: String = read(file).split_whitespace().collect();
        let (document, _) = block.place.split_once(':').expect("a document and a line");
        assert!(source.contains(&format!("fn{test}(")), "{}: no test {test}", block.place);
        let reading = format!("marked(\"{document}\",\"{test}\")");
        assert!(source.contains(&reading), "{}: {file} has no {reading}", block.place);
        count += 1;
    }
    assert!(count > 20, "marks are no longer found: {count}");
}

#[test]
fn every_configuration_in_the_documents_is_accepted() {
    let mut count = 0;
    for block in all().iter().filter(|block| block.language == "yaml") {
        let config = match (&block.mark, marked_as(block, "part of: ")) {
            (None, _) => block.code.clone(),
            (_, Some(document)) => completed(&first_config(document), &block.code),
            (Some(_), None) => continue,
        };
        let folder = Folder::of_a_vendor();
        folder.write_config(&config);
        let checked = folder.shell("roadstead check config.yaml");
        assert!(checked.success, "{}: {}\n{config}", block.place, checked.err);
        count += 1;
    }
    assert!(count > 5, "configurations are no longer found: {count}");
}

/// The first configuration of a document.
pub(crate) fn first_config(document: &str) -> String {
    let found =
        blocks(document).into_iter().find(|block| block.language == "yaml" && block.mark.is_none());
    found.unwrap_or_else(|| panic!("{document} has no configuration")).code
}

/// `whole` with the top-level keys of `part` in place of its own.
fn completed(whole: &str, part: &str) -> String {
    let [mut whole, part] =
        [whole, part].map(|text| serde_yaml::from_str::<Value>(text).expect("it is YAML"));
    let keys = whole.as_mapping_mut().expect("a configuration is a mapping");
    keys.extend(part.as_mapping().expect("a part is a mapping").clone());
    serde_yaml::to_string(&whole).expect("it was YAML")
}

#[test]
fn what_other_programs_read_is_well_formed() {
    for block in all() {
        let problem = match block.language.as_str() {
            "yaml" => serde_yaml::Deserializer::from_str(&block.code)
                .find_map(|document| Value::deserialize(document).err())
                .map(|error| error.to_string()),
            "json" => serde_json::from_str::<serde_json::Value>(&block.code)
                .err()
                .map(|error| error.to_string()),
            "toml" => block.code.lines().find(|line| !is_toml(line)).map(str::to_owned),
            _ => None,
        };
        assert_eq!(problem, None, "{}", block.place);
    }
}

/// Whether a line is TOML as far as the documents use it: tables, and keys with strings, booleans
/// or lists of strings.
pub(crate) fn is_toml(line: &str) -> bool {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return true;
    }
    if let Some(table) = line.strip_prefix('[') {
        let name = table.strip_suffix(']').unwrap_or_default();
        let name = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        return is_path(name);
    }
    let is_text = |text: &str| serde_json::from_str::<String>(text.trim()).is_ok();
    let is_list = |text: &str| serde_json::from_str::<Vec<String>>(text.trim()).is_ok();
    line.split_once('=').is_some_and(|(key, value)| {
        is_path(key.trim())
            && (is_text(value) || is_list(value) || ["true", "false"].contains(&value.trim()))
    })
}

/// Names joined by dots; a name with other characters stands in quotes.
fn is_path(text: &str) -> bool {
    let bare = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    let mut outside = text.split('"').step_by(2);
    let is_name = |name: &str| name.is_empty() || bare(name);
    !text.is_empty()
        && text.matches('"').count().is_multiple_of(2)
        && outside.all(|part| part.split('.').all(is_name))
}

#[test]
fn toml_is_told_from_what_is_none() {
    for line in [
        "server = \"http://mirror:5000\"",
        "[host.\"http://mirror:5000\"]",
        "  capabilities = [\"pull\", \"resolve\"]",
        "[[registry]]",
        "[host.\"https://a.test\".header]",
        "insecure = true",
        "# a comment",
        "",
    ] {
        assert!(is_toml(line), "{line}");
    }
    for line in ["server: x", "[host", "a = b", "a = [\"b\"", "[\"a]", "= \"x\"", "a b = true"] {
        assert!(!is_toml(line), "{line}");
    }
}
