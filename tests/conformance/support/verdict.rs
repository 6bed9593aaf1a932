//! Direct results against those through us.

use std::fmt::Write as _;
use std::io::Write as _;

use super::suite::{Results, Tally};

/// The runs through us, and how they differ from the direct ones.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    through: Vec<Results>,
    worse: Vec<String>,
    better: Vec<String>,
}

impl Verdict {
    pub(crate) fn compare(&mut self, direct: &Results, through: Results) {
        for (name, there, here) in differences(direct, &through) {
            let line = format!(
                "{}: {name}: {} passed, {} directly",
                through.name, here.passed, there.passed
            );
            if here.passed < there.passed { &mut self.worse } else { &mut self.better }.push(line);
        }
        self.through.push(through);
    }

    /// Shows everything, and fails if anything passes less often through us than directly. A direct
    /// run that passes fewer tests than are given with it has not reached the registry.
    pub(crate) fn pronounce(&self, direct: &[(&Results, usize)]) {
        let mut text =
            format!("\n{:24}{:>8}{:>8}{:>8}{:>8}\n", "", "tests", "passed", "failed", "skipped");
        for results in direct.iter().map(|(results, _)| *results).chain(&self.through) {
            let Tally { passed, failed, skipped } = results.total();
            let tests = passed + failed + skipped;
            let _ = writeln!(text, "{:24}{tests:8}{passed:8}{failed:8}{skipped:8}", results.name);
        }
        for (title, lines) in [("only through us", &self.better), ("only directly", &self.worse)] {
            let _ = writeln!(text, "\npasses {title}: {}", lines.len());
            for line in lines {
                let _ = writeln!(text, "  {line}");
            }
        }
        // The raw stream: the test runner swallows what the print macros write.
        let _ = std::io::stderr().write_all(text.as_bytes());
        for (results, fewest) in direct {
            assert!(
                results.total().passed >= *fewest,
                "{}: fewer than {fewest} passed",
                results.name
            );
        }
        assert!(self.worse.is_empty(), "not everything that passes directly passes through us");
    }
}

/// Names whose tests do not pass equally often, with what they did directly and through us.
fn differences<'a>(
    direct: &'a Results,
    through: &'a Results,
) -> impl Iterator<Item = (&'a str, Tally, Tally)> {
    let tally =
        |results: &Results, name: &str| results.tests.get(name).copied().unwrap_or_default();
    let only_here = through.tests.keys().filter(|name| !direct.tests.contains_key(*name));
    let names = direct.tests.keys().chain(only_here);
    let pairs = names.map(move |name| (name.as_str(), tally(direct, name), tally(through, name)));
    pairs.filter(|(_, there, here)| there.passed != here.passed)
}
