//! The documents stay true of the code where that can be read off: rules, names, figures, links,
//! paths, and every block of code.

mod blocks;
mod commands;
mod facts;
mod folder;
mod links;
mod lists;
mod marks;
mod rules;

use std::fs;
use std::path::Path;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// `docs/NAME.md` of every page, by name.
fn pages() -> Vec<String> {
    let entries = fs::read_dir(root().join("docs")).expect("the project has the folder");
    let paths = entries.map(|entry| entry.expect("readable").path());
    let mut pages: Vec<String> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .filter_map(|path| Some(format!("docs/{}", path.file_name()?.to_str()?)))
        .collect();
    pages.sort();
    pages
}

/// What users read: the README and the pages.
fn user_documents() -> Vec<String> {
    std::iter::once("README.md".to_owned()).chain(pages()).collect()
}

/// Every document of the project, with those for developers.
fn documents() -> Vec<String> {
    let more = ["ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"];
    user_documents().into_iter().chain(more.map(str::to_owned)).collect()
}
