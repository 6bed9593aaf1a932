//! The page about lists of images: its examples are read, and answered as it says.

use crate::blocks::{Block, marked};
use crate::folder::{Folder, Said};

/// The blocks of one language.
fn of<'a>(blocks: &'a [Block], language: &str) -> Vec<&'a str> {
    let found = blocks.iter().filter(|block| block.language == language);
    found.map(|block| block.code.as_str()).collect()
}

fn told(said: &Said) -> (Option<i32>, &str, &str) {
    (said.code, &said.out, &said.err)
}

#[test]
fn a_list_is_printed_as_its_page_says() {
    let blocks = marked("docs/lists.md", "a_list_is_printed_as_its_page_says");
    let [list, printed] = of(&blocks, "text")[..] else { panic!("a list, and what is printed") };
    let folder = Folder::empty();
    folder.write("images.txt", list);
    let said = folder.shell(of(&blocks, "sh")[0]);
    assert_eq!(told(&said), (Some(0), printed, ""));
    folder.write("images.txt", printed);
    assert_eq!(told(&folder.shell("roadstead list - < images.txt")), (Some(0), printed, ""));
}

#[test]
fn the_place_of_an_image_is_told_as_the_page_says() {
    let blocks = marked("docs/lists.md", "the_place_of_an_image_is_told_as_the_page_says");
    let folder = Folder::empty();
    folder.write("all.yaml", of(&blocks, "yaml")[0]);
    let said = folder.shell(of(&blocks, "sh")[0]);
    assert_eq!(told(&said), (Some(0), of(&blocks, "text")[0], ""));
}

#[test]
fn mistakes_are_told_as_the_page_says() {
    let blocks = marked("docs/lists.md", "mistakes_are_told_as_the_page_says");
    let [list, mistakes] = of(&blocks, "text")[..] else { panic!("a list, and its mistakes") };
    let folder = Folder::empty();
    folder.write("images.txt", list);
    assert_eq!(told(&folder.shell("roadstead list images.txt")), (Some(1), "", mistakes));
}
