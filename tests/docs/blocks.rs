//! The blocks of code in a document. Above each stands a comment that readers do not see, its mark,
//! which says how the block is tested. `tests/clients` reads blocks with this file, too.

use std::fs;
use std::path::Path;

/// What stands between two lines of three backticks.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    /// The document and the line of the first fence, for people.
    pub(crate) place: String,
    /// What follows the first three backticks.
    pub(crate) language: String,
    /// The comment in the line above.
    pub(crate) mark: Option<String>,
    /// Without the indentation of the fence.
    pub(crate) code: String,
}

/// The blocks of a document, in order.
pub(crate) fn blocks(document: &str) -> Vec<Block> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{document}: {error}"));
    let (mut found, mut above) = (Vec::new(), "");
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let fence = line.split_once("```").filter(|(before, _)| before.trim().is_empty());
        if let Some((indentation, language)) = fence {
            let inside = lines.by_ref().map(|(_, line)| line);
            let inside = inside.take_while(|line| line.trim() != "```");
            let code = inside.flat_map(|line| {
                [line.strip_prefix(indentation).unwrap_or(line.trim_start()), "\n"]
            });
            found.push(Block {
                place: format!("{document}:{}", number + 1),
                language: language.to_owned(),
                mark: mark(above),
                code: code.collect(),
            });
        }
        above = line;
    }
    found
}

fn mark(line: &str) -> Option<String> {
    let mark = line.trim().strip_prefix("<!--")?.strip_suffix("-->")?;
    Some(mark.trim().to_owned())
}

/// The blocks of a document whose mark says that the test of this name runs them.
pub(crate) fn marked(document: &str, test: &str) -> Vec<Block> {
    let of_test = |block: &Block| {
        let run = block.mark.as_deref().and_then(|mark| mark.strip_prefix("run: "));
        run.is_some_and(|run| run.split_whitespace().nth(1) == Some(test))
    };
    let found: Vec<Block> = blocks(document).into_iter().filter(of_test).collect();
    assert!(!found.is_empty(), "{document} has no block for {test}");
    found
}
