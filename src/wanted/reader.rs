//! Files in, and one list out, or everything that is wrong with them.

use std::sync::Arc;

use super::content::{self, ListContent};
use super::documents::{Document, json_documents, yaml_documents};
use super::images::WantedImages;
use super::kinds;
use super::line::ImageLine;
use super::place::{FoundAt, ListProblems};
use crate::oci::ImageReference;

/// Places at which lists may name images: ten times the containers of a very large cluster.
const PLACES_MAX: usize = 500_000;

/// Reads one file after the other. Nothing of them can be had before [`ListReader::finish`].
#[derive(Debug, Default)]
pub(crate) struct ListReader {
    images: WantedImages,
    problems: ListProblems,
}

impl ListReader {
    /// Reads the content of a file; `file` is what it is called in places.
    pub(crate) fn read(&mut self, file: &str, bytes: &[u8]) {
        let file = Arc::from(file);
        match content::of(bytes) {
            Err(wrong) => self.problems.add(FoundAt::file(&file), wrong),
            Ok(ListContent::Lines(text)) => self.read_lines(&file, text),
            Ok(ListContent::Json(text)) => self.read_documents(&file, json_documents(text)),
            Ok(ListContent::Yaml(text)) => self.read_documents(&file, yaml_documents(text)),
        }
    }

    /// Every image, if nothing is wrong.
    ///
    /// # Errors
    /// Everything that is wrong with any of the files.
    pub(crate) fn finish(self) -> Result<WantedImages, ListProblems> {
        if self.problems.is_empty() { Ok(self.images) } else { Err(self.problems) }
    }

    /// Every image, if nothing is wrong with the files, and with none of the images either.
    ///
    /// # Errors
    /// Everything that is wrong with any of them.
    pub(crate) fn finish_with(
        mut self,
        check: impl Fn(&ImageReference) -> Result<(), String>,
    ) -> Result<WantedImages, ListProblems> {
        for image in self.images.list() {
            if let Err(wrong) = check(&image.line.image) {
                for at in &image.places {
                    self.problems.add(at.clone(), wrong.clone());
                }
            }
        }
        self.finish()
    }

    /// Reads lines of a list, whatever they look like.
    pub(crate) fn read_list(&mut self, file: &str, text: &str) {
        self.read_lines(&Arc::from(file), text);
    }

    fn read_lines(&mut self, file: &Arc<str>, text: &str) {
        for (nth, line) in text.lines().enumerate() {
            let line = content::without_comment(line);
            if !line.is_empty() {
                let at = FoundAt { line: Some(nth + 1), ..FoundAt::file(file) };
                self.take(at, ImageLine::parse(line));
            }
        }
    }

    fn read_documents(&mut self, file: &Arc<str>, documents: impl Iterator<Item = Document>) {
        for Document { number, line, tree } in documents {
            let at = FoundAt { document: number, line, ..FoundAt::file(file) };
            let read = tree.and_then(|tree| {
                kinds::find_images(&tree, &mut |path, line| {
                    self.take(FoundAt { path: Some(path), ..at.clone() }, line);
                })
            });
            if let Err(wrong) = read {
                self.problems.add(at, wrong);
            }
        }
    }

    fn take(&mut self, at: FoundAt, line: Result<ImageLine, String>) {
        match line {
            Err(wrong) => self.problems.add(at, wrong),
            Ok(line) if self.images.places < PLACES_MAX => self.images.add(line, at),
            Ok(_) => {
                self.problems.add(at, format!("lists name images at {PLACES_MAX} places at most"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wanted::WantedImage;

    fn read(files: &[(&str, &str)]) -> Result<WantedImages, ListProblems> {
        let mut reader = ListReader::default();
        for (file, text) in files {
            reader.read(file, text.as_bytes());
        }
        reader.finish()
    }

    fn lines(wanted: &WantedImages) -> Vec<String> {
        wanted.list().iter().map(|image| image.line.to_string()).collect()
    }

    fn places(image: &WantedImage) -> Vec<String> {
        image.places.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_image_is_listed_once_where_it_is_first_named_with_every_place() {
        let wanted = read(&[
            ("a", "b\nnginx platform=linux/amd64\nb:latest\n"),
            (
                "c",
                "kind: Pod\nspec: {containers: [{image: nginx}]}\n---\nservices: {x: {image: d}}\n",
            ),
        ])
        .expect("readable");
        let library = "docker.io/library/";
        let expected = ["b:latest", "nginx:latest platform=linux/amd64", "d:latest"];
        assert_eq!(lines(&wanted), expected.map(|line| format!("{library}{line}")));
        let [b, nginx, d] = wanted.list() else { panic!("three images") };
        assert_eq!(places(b), ["a:1", "a:3"]);
        assert_eq!(places(nginx), ["a:2", "c: document 1 (line 1): spec.containers[0].image"]);
        assert_eq!(places(d), ["c: document 2 (line 3): services.x.image"]);
    }

    #[test]
    fn one_problem_leaves_no_list_and_all_are_told() {
        let problems = read(&[("a", "nginx\nA\n"), ("b", "x\n"), ("c", "a: b\n"), ("d", "B\n")]);
        let told = problems.expect_err("three are wrong").to_string();
        let places: Vec<_> = told.lines().filter_map(|line| line.split(": ").next()).collect();
        assert_eq!(places, ["a:2", "c", "d:1"], "{told}");
        let many = read(&[("a", &"A\n".repeat(1002))]).expect_err("all are wrong").to_string();
        assert_eq!(many.lines().count(), 1001);
        assert!(many.ends_with("\nand 2 more"), "{many}");
    }

    #[test]
    fn places_are_bounded() {
        for (before, fits) in [(PLACES_MAX - 2, true), (PLACES_MAX - 1, false)] {
            let mut reader = ListReader::default();
            reader.images.places = before;
            reader.read("a", b"a\na\n");
            let told = reader.finish().err().map(|problems| problems.to_string());
            let expected = "a:2: lists name images at 500000 places at most";
            assert_eq!(told.as_deref(), (!fits).then_some(expected));
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_again_as_it_is(
            written in proptest::collection::vec(
                ("([a-z0-9.-]{1,8}(:[0-9]{1,5})?/)?[a-z0-9]{1,4}(/[a-z0-9]{1,4})?(:[A-Za-z0-9._-]{1,4})?",
                 any::<bool>(),
                 prop_oneof![Just(""), Just(" platform=all"), Just(" platform=linux/amd64,linux/arm")],
                 prop_oneof![Just(""), Just(" referrers=true"), Just("\treferrers=false # why")]),
                0..8,
            )
        ) {
            let digest = format!("@sha256:{}", "0".repeat(64));
            let text = written.iter().map(|(image, has_digest, platforms, referrers)| {
                let digest = if *has_digest { digest.as_str() } else { "" };
                [image, digest, platforms, referrers].concat()
            });
            let text = text.collect::<Vec<_>>().join("\n");
            if let Ok(wanted) = read(&[("a", &text)]) {
                let printed = lines(&wanted);
                let again = read(&[("b", &printed.join("\n"))]).expect("it was printed");
                prop_assert_eq!(lines(&again), printed);
            }
        }
    }
}
