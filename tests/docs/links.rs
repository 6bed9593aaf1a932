//! Every link within the project leads somewhere.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use crate::{documents, read, root};

/// The lines of a document that are not within a block of code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        inside ^= is_fence;
        !inside && !is_fence
    })
}

/// What stands in brackets behind the text of a link.
fn targets(text: &str) -> Vec<String> {
    // A link may be broken into two lines.
    let text = prose(text).collect::<Vec<_>>().join("\n");
    // Quoted code holds no links.
    let plain: String = text.split('`').step_by(2).collect();
    let behind = plain.split("](").skip(1);
    behind.filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())).collect()
}

/// The anchors of a document, as GitHub makes them from headings.
fn anchors(text: &str) -> Vec<String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let headings = prose(text).filter(|line| line.starts_with('#'));
    headings
        .map(|heading| {
            let slug = slug(heading.trim_start_matches('#').trim());
            let count = seen.entry(slug.clone()).or_default();
            *count += 1;
            if *count == 1 { slug } else { format!("{slug}-{}", *count - 1) }
        })
        .collect()
}

fn slug(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[test]
fn anchors_are_made_as_github_makes_them() {
    let text = "# A\n## podman, CRI-O, buildah\n## A\n```\n# no heading\n```\n### What `x` is\n";
    assert_eq!(anchors(text), ["a", "podman-cri-o-buildah", "a-1", "what-x-is"]);
}

#[test]
fn every_link_within_the_project_leads_somewhere() {
    let mut count = 0;
    for document in documents() {
        for target in targets(&read(&document)) {
            if target.starts_with("https://") {
                continue;
            }
            count += 1;
            let (path, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let path = if path.is_empty() { document.clone() } else { beside(&document, path) };
            assert!(root().join(&path).exists(), "{document}: {target} leads to no file");
            if !anchor.is_empty() {
                let anchors = anchors(&read(&path));
                let found = anchors.iter().any(|known| known == anchor);
                assert!(found, "{document}: {target} leads to no heading; there are {anchors:?}");
            }
        }
    }
    assert!(count > 40, "links are no longer found: {count}");
}

/// A path as it stands in `document`, from the root of the project.
fn beside(document: &str, path: &str) -> String {
    let folder = Path::new(document).parent().expect("a document is a file");
    let mut whole = PathBuf::new();
    for part in folder.join(path).components() {
        if part == Component::ParentDir {
            assert!(whole.pop(), "{document}: {path} leaves the project");
        } else {
            whole.push(part);
        }
    }
    whole.to_str().expect("documents are UTF-8").to_owned()
}
