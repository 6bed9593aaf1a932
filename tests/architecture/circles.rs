//! No circle of files within a room: what a file needs can be read before the file itself.
//!
//! The rule, over the files of one folder of `src` and of the folders in it:
//!
//! - A file uses another if it names something of it, outside its tests.
//! - `mod.rs` is not counted. It declares its files and puts them together, and they add to its
//!   types, so it stands at both ends. A name that it only passes on (`use file::Name`) counts for
//!   the file that the name comes from; a name that it defines itself counts for nothing.
//! - No file leads back to itself, over however many others.
//!
//! The checker is a function over paths and texts, so that it can be shown to fail.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::{paths, rust_files, without_comments_and_strings, without_test_modules};

#[test]
fn no_room_has_a_circle_of_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    rust_files(&root.join("src"), &mut files);
    let texts: Vec<(String, String)> = files
        .iter()
        .map(|file| {
            let path = file.strip_prefix(root).expect("below the root").to_string_lossy();
            (path.into_owned(), fs::read_to_string(file).expect("a readable source"))
        })
        .collect();
    let found: Vec<String> = circles(&texts).iter().map(Circle::told).collect();
    assert!(found.is_empty(), "circles of files:\n{}", found.join("\n"));
}

/// Files of one room that lead to each other.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Circle {
    room: String,
    /// Below the room, without `.rs`.
    files: Vec<String>,
}

impl Circle {
    fn told(&self) -> String {
        format!("{}: {}", self.room, self.files.join(", "))
    }
}

/// Every module by its name, as `[store, index]`, with what it names.
type Modules = BTreeMap<Vec<String>, Module>;

struct Module {
    /// Counted: not a `mod.rs`.
    is_file: bool,
    /// From the crate's root on, as `[store, index, Index]`.
    uses: Vec<Vec<String>>,
}

/// Which file uses which of the same room.
type Arrows = BTreeMap<Vec<String>, BTreeSet<Vec<String>>>;

/// Every circle; `files` are paths below the crate and texts.
fn circles(files: &[(String, String)]) -> Vec<Circle> {
    let arrows = arrows(&modules(files));
    let mut found = BTreeSet::new();
    for start in arrows.keys() {
        // Two files are in one circle if each leads to the other.
        let back = |other: &&&Vec<String>| reached(&arrows, other).contains(start);
        let files: BTreeSet<String> =
            reached(&arrows, start).iter().filter(back).map(|name| name[1..].join("/")).collect();
        if !files.is_empty() {
            found.insert(Circle { room: start[0].clone(), files: files.into_iter().collect() });
        }
    }
    found.into_iter().collect()
}

fn modules(files: &[(String, String)]) -> Modules {
    let mut modules = Modules::new();
    for (path, text) in files {
        let inside = path.trim_start_matches("src/").trim_end_matches(".rs");
        let mut name: Vec<String> = inside.split('/').map(str::to_owned).collect();
        let is_file = name.last().is_some_and(|last| last != "mod");
        if !is_file {
            name.pop();
        }
        let code = without_test_modules(&without_comments_and_strings(text));
        let uses = paths(&code).iter().filter_map(|used| absolute(&name, used, is_file)).collect();
        modules.insert(name, Module { is_file, uses });
    }
    modules
}

fn arrows(modules: &Modules) -> Arrows {
    let files = modules.iter().filter(|(_, module)| module.is_file);
    files
        .map(|(name, module)| {
            let sources = module.uses.iter().filter_map(|used| source(modules, used, 0));
            let others = sources.filter(|other| other != name && other[0] == name[0]);
            (name.clone(), others.collect())
        })
        .collect()
}

/// `used` from the crate's root on, if it starts with a word that says where it is.
fn absolute(module: &[String], used: &str, is_file: bool) -> Option<Vec<String>> {
    let parts: Vec<String> = used.split("::").map(str::to_owned).collect();
    match parts[0].as_str() {
        "crate" => Some(parts[1..].to_vec()),
        "self" => Some([module, &parts[1..]].concat()),
        "super" => {
            let up = parts.iter().take_while(|part| *part == "super").count();
            let above = module.len().checked_sub(up)?;
            Some([&module[..above], &parts[up..]].concat())
        }
        // In a `mod.rs` a path may begin with one of its files.
        _ if !is_file => Some([module, &parts[..]].concat()),
        _ => None,
    }
}

/// The file that `used` comes from, through the `mod.rs` files that pass it on; none if such a file
/// defines it.
fn source(modules: &Modules, used: &[String], depth: usize) -> Option<Vec<String>> {
    let known = (1..=used.len()).rev().find(|len| modules.contains_key(&used[..*len]))?;
    let module = &modules[&used[..known]];
    if module.is_file {
        return Some(used[..known].to_vec());
    }
    let name = used.get(known)?;
    let passed_on =
        module.uses.iter().find(|path| path.last() == Some(name) && path.len() > known + 1)?;
    // A name that is passed on in a ring comes from nowhere.
    (depth < 8).then(|| source(modules, passed_on, depth + 1)).flatten()
}

/// Every file that `start` leads to; itself only if it is in a circle.
fn reached<'a>(arrows: &'a Arrows, start: &[String]) -> BTreeSet<&'a Vec<String>> {
    let mut seen = BTreeSet::new();
    let mut open = vec![start];
    while let Some(file) = open.pop() {
        for next in arrows.get(file).into_iter().flatten() {
            if seen.insert(next) {
                open.push(next);
            }
        }
    }
    seen
}

fn found(files: &[(&str, &str)]) -> Vec<String> {
    let files: Vec<(String, String)> =
        files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
    circles(&files).iter().map(Circle::told).collect()
}

#[test]
fn circles_are_found_directly_around_and_through_what_is_passed_on() {
    for (files, circle) in [
        (
            &[("src/a/b.rs", "use super::c::C;"), ("src/a/c.rs", "fn f(b: &crate::a::b::B) {}")][..],
            "a: b, c",
        ),
        (
            &[
                ("src/a/b.rs", "use super::{c, e};"),
                ("src/a/c.rs", "use super::d::D;"),
                ("src/a/d.rs", "use super::b::B;"),
                ("src/a/e.rs", ""),
            ],
            "a: b, c, d",
        ),
        (
            &[
                ("src/a/mod.rs", "mod b; mod c; pub use b::B; use c::{C, D};"),
                ("src/a/b.rs", "use super::C;"),
                ("src/a/c.rs", "fn f() -> super::B {}"),
            ],
            "a: b, c",
        ),
        (
            &[
                ("src/a/mod.rs", "pub use sub::B;"),
                ("src/a/sub/mod.rs", "mod b; pub use b::B;"),
                ("src/a/sub/b.rs", "use crate::a::c::C;"),
                ("src/a/c.rs", "use crate::a::B;"),
            ],
            "a: c, sub/b",
        ),
    ] {
        assert_eq!(found(files), [circle], "{files:?}");
    }
}

#[test]
fn what_goes_one_way_only_is_no_circle() {
    for files in [
        // What mod.rs defines, and uses, counts for nothing.
        &[
            ("src/a/mod.rs", "mod b; use b::B; pub struct A(B); impl A { fn f() { b::f() } }"),
            ("src/a/b.rs", "use super::A; pub struct B;"),
        ][..],
        &[
            ("src/a/b.rs", "use super::c::C;"),
            ("src/a/c.rs", "#[cfg(test)]\nmod tests { use crate::a::b::B; }\n// super::b::B"),
        ],
        // Circles over several rooms are arrows that point the wrong way.
        &[("src/a/b.rs", "use crate::c::d::D;"), ("src/c/d.rs", "use crate::a::b::B;")],
        &[("src/a/b.rs", "use super::c::C; use super::b::Own;"), ("src/a/c.rs", "")],
    ] {
        assert_eq!(found(files), Vec::<String>::new(), "{files:?}");
    }
}
