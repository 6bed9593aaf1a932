//! A type name means one thing: where two files define the same, a reader of one story meets both.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::{rust_files, without_comments_and_strings, without_test_modules};

/// How many of a hundred type names may be defined a second time. `object_store` has 5,
/// `pingora-cache` 6, `mini-redis` 16.
const SHARED_PERCENT_MAX: usize = 5;

#[test]
fn hardly_any_type_name_is_defined_twice() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    rust_files(&root.join("src"), &mut files);
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in &files {
        let path = file.strip_prefix(root).expect("below the root").to_string_lossy();
        for name in type_names(&fs::read_to_string(file).expect("a readable source")) {
            places.entry(name).or_default().push(path.clone().into_owned());
        }
    }
    let total: usize = places.values().map(Vec::len).sum();
    let shared: BTreeMap<_, _> = places.iter().filter(|(_, files)| files.len() > 1).collect();
    let count: usize = shared.values().map(|files| files.len()).sum();
    println!("{count} of {total} type names are shared: {shared:#?}");
    assert!(count * 100 <= total * SHARED_PERCENT_MAX, "{count} of {total}: {shared:#?}");
}

/// Types that `text` defines. Each module may have an `Error`, and implementations of foreign
/// traits name the associated types that those want.
fn type_names(text: &str) -> Vec<String> {
    let code = without_test_modules(&without_comments_and_strings(text));
    let mut names = Vec::new();
    for line in code.lines() {
        let item = line.strip_prefix("pub").unwrap_or(line);
        let item = item
            .strip_prefix('(')
            .and_then(|rest| rest.split_once(')'))
            .map_or(item, |rest| rest.1);
        let item = item.strip_prefix(' ').unwrap_or(item);
        for keyword in ["struct ", "enum ", "trait ", "type "] {
            let Some(rest) = item.strip_prefix(keyword) else { continue };
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            if &rest[..end] != "Error" {
                names.push(rest[..end].to_owned());
            }
        }
    }
    names
}

#[test]
fn definitions_are_told_from_other_mentions() {
    let text = "pub struct A;\npub(in crate::x) enum B {}\n    type Data = u8;\ntype C<T> = T;\n\
        // struct D;\nfn f() -> E {}\npub enum Error {}\n#[cfg(test)]\nmod tests { struct F; }";
    assert_eq!(type_names(text), ["A", "B", "C"]);
}
