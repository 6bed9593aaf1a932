//! Only what tests, benchmarks, `fuzz` and `main` need is public: of everything else the compiler says when
//! nobody calls it any more. Within a module that is not public, rustc's `unreachable_pub` sees to
//! the same.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::{paths, rust_files, without_comments_and_strings};

#[test]
fn only_what_tests_and_main_need_is_public() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &Path| fs::read_to_string(path).expect("a readable source");
    let mut files = vec![root.join("src/main.rs")];
    for folder in ["tests", "benches", "fuzz/src"] {
        rust_files(&root.join(folder), &mut files);
    }
    let needed: BTreeSet<String> = files.iter().flat_map(|file| needed(&read(file))).collect();
    assert_eq!(public(&read(&root.join("src/lib.rs"))), needed, "public in lib.rs, and needed");
}

/// The modules that `lib` declares as public.
fn public(lib: &str) -> BTreeSet<String> {
    let names = lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    names.map(str::to_owned).collect()
}

/// The modules of the library that `text` names from outside.
fn needed(text: &str) -> BTreeSet<String> {
    let used = paths(&without_comments_and_strings(text));
    let inside = used.iter().filter_map(|path| path.strip_prefix("roadstead::"));
    inside.map(|path| path.split("::").next().unwrap_or(path).to_owned()).collect()
}

#[test]
fn modules_are_found_where_they_are_declared_and_where_they_are_named() {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(public("pub mod a;\nmod b;\n/// pub mod c;\npub mod d;"), names(&["a", "d"]));
    let text = "use roadstead::{a::X, d}; fn f() { roadstead::e::g() } // roadstead::h";
    assert_eq!(needed(text), names(&["a", "d", "e"]));
}
