//! What has to hold of a configuration, whatever stands in the file.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use super::problem::Severity;
use super::{Config, Draft, Problem, Surroundings};
use crate::clock::Timestamp;

/// Errors name a line, but for a second document whose beginning is no line of its own.
fn concerns_a_line(problem: &Problem) -> bool {
    problem.severity == Severity::Error && !problem.message.contains("a second YAML document")
}

/// A text ends in a configuration that is sound, or in problems that say where they are. Files that
/// it names are looked at; it is given no environment.
pub(crate) fn configuration(text: &str) {
    let now = Timestamp::from_unix(Duration::from_hours(500_000));
    let around = Surroundings { environment: &|_| None, now };
    let draft = Draft::parse(text, Path::new("roadstead.yaml"), &around);
    match draft.and_then(Draft::finish) {
        Ok((config, _)) => is_sound(&config),
        Err(problems) => {
            assert!(problems.list().iter().any(|problem| problem.severity == Severity::Error));
            // YAML ends lines at these; it may miss something behind the last.
            let ends = ['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}'];
            let lines = text.matches(ends).count() + 2;
            for problem in problems.list() {
                assert!(!problem.message.is_empty());
                let line = problem.line;
                assert!(line.is_none_or(|line| (1..=lines).contains(&line)), "{problem:?}");
                assert!(line.is_some() || !concerns_a_line(problem), "no line: {problem:?}");
            }
            assert!(problems.to_string().lines().count() >= problems.list().len());
        }
    }
}

fn is_sound(config: &Config) {
    let names: HashSet<&str> = config.upstreams.iter().map(|up| up.name.as_str()).collect();
    assert_eq!(names.len(), config.upstreams.len(), "a name twice");
    for upstream in &config.upstreams {
        assert!(matches!(upstream.url.scheme(), "https" | "http"), "{}", upstream.url);
        assert!(upstream.url.username().is_empty() && upstream.url.password().is_none());
    }
    assert!(
        config.access.given || config.listen.ip().is_loopback(),
        "open to all on {}",
        config.listen
    );
}
