//! Names and figures of the code that the documents give, and what the README promises to be.

use std::time::Duration;

use roadstead::limits::Limits;

use crate::{documents, pages, read, root};

#[test]
fn the_readme_is_short_and_leads_to_every_page() {
    let readme = read("README.md");
    assert!(readme.lines().count() <= 150, "{} lines", readme.lines().count());
    for page in pages() {
        assert!(readme.contains(&format!("]({page})")), "README.md does not link to {page}");
    }
    let beginning: String = readme.lines().take(50).collect();
    for command in ["cargo run --release -- serve", "./test"] {
        assert!(beginning.contains(command), "{command} is not near the top of README.md");
    }
}

/// The first string literal behind each of `calls`.
fn literals<'a>(text: &'a str, calls: &[&str]) -> Vec<&'a str> {
    let starts =
        calls.iter().flat_map(|call| text.match_indices(call).map(|(at, call)| at + call.len()));
    starts
        .filter_map(|start| text[start..].trim_start().strip_prefix('"')?.split('"').next())
        .collect()
}

/// One metric: what kind it is, and its labels.
type Described = (String, &'static str, Vec<String>);

/// The metrics that `src/metrics.rs` registers.
fn registered() -> Vec<Described> {
    let source = read("src/metrics.rs");
    let calls = ["r.counter(", "r.counters(", "r.gauge(", "r.gauges(", "r.histogram("];
    let starts = calls.iter().flat_map(|call| {
        source.match_indices(call).map(|(at, call)| (call, &source[at + call.len()..]))
    });
    let described = starts.map(|(call, rest)| {
        let name = rest.split('"').nth(1).expect("a call begins with a name");
        // Only a list of labels has a bracket, and no help text has one, or the end of a call.
        let one = rest.split("),").next().unwrap_or(rest);
        let labels = one.split_once('[').map_or("", |(_, labels)| labels);
        let labels = labels.split(']').next().unwrap_or_default();
        let labels = labels.split('"').skip(1).step_by(2).map(str::to_owned).collect();
        let kind = match call {
            "r.histogram(" => "(histogram)",
            call if call.contains("gauge") => "(gauge)",
            _ => "",
        };
        (format!("roadstead_{name}"), kind, labels)
    });
    described.collect()
}

#[test]
fn the_metrics_page_has_every_metric_with_its_labels_and_its_kind() {
    let (page, metrics) = (read("docs/metrics.md"), registered());
    assert!(metrics.len() > 25, "{metrics:#?}");
    for (name, kind, labels) in &metrics {
        let row = page.lines().find(|line| line.starts_with(&format!("| `{name}` |")));
        let row = row.unwrap_or_else(|| panic!("docs/metrics.md has no row for {name}"));
        let cells: Vec<&str> = row.split(" |").collect();
        let told: Vec<&str> = cells[1].split('`').skip(1).step_by(2).collect();
        assert_eq!(told, *labels, "the labels of {name}");
        for word in ["(gauge)", "(histogram)"] {
            assert_eq!(row.contains(word), *kind == word, "{word} of {name}");
        }
    }
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `roadstead_")?.split_once('`'));
    let rows = rows.filter(|(_, rest)| rest.split(" |").count() == 4).map(|(name, _)| name);
    for name in rows {
        let is_there = metrics.iter().any(|metric| metric.0 == format!("roadstead_{name}"));
        assert!(is_there, "there is no metric {name}");
    }
}

#[test]
fn the_metrics_page_names_what_is_told_of_the_process() {
    let (page, source) = (read("docs/metrics.md"), read("src/admin/process.rs"));
    let names = source.split('"').filter(|text| text.starts_with("process_"));
    let names: Vec<&str> = names.filter(|text| !text.contains(char::is_whitespace)).collect();
    assert!(names.len() >= 7, "{names:?}");
    for name in names {
        assert!(page.contains(&format!("| `{name}` |")), "docs/metrics.md does not name {name}");
    }
}

#[test]
fn every_reason_of_a_failure_and_a_login_is_explained_and_begins_at_zero() {
    let (page, series) = (read("docs/metrics.md"), read("src/metrics/series.rs"));
    let words = |name: &str| -> Vec<String> {
        let (_, rest) = series.split_once(&format!("const {name}: ")).expect(name);
        let list = rest.split_once("= [").and_then(|(_, rest)| rest.split_once("];")).expect(name);
        list.0.split('"').skip(1).step_by(2).map(str::to_owned).collect()
    };
    for name in ["REFUSALS", "REJECTIONS", "PULL_FAILURES", "PUSH_FAILURES", "TOKEN_OUTCOMES"] {
        for word in words(name) {
            assert!(page.contains(&format!("`{word}`")), "docs/metrics.md does not explain {word}");
        }
    }
    // The words of the sources, which the lists have to hold.
    for (file, list) in [
        ("src/access/rejection.rs", "REJECTIONS"),
        ("src/pull/error.rs", "PULL_FAILURES"),
        ("src/push/error.rs", "PUSH_FAILURES"),
        ("src/pull/outcome.rs", "OUTCOMES"),
        ("src/server/error.rs", "REFUSALS"),
    ] {
        let source = read(file);
        let begin = ["fn as_str(", "fn reason(", "fn reason_of("];
        let body = begin.iter().find_map(|head| source.split_once(head)).expect(file).1;
        let body = body.split("\n}\n").next().unwrap_or(body);
        let body = body.split("\n    }\n").next().unwrap_or(body);
        let told: Vec<&str> = body.split('"').skip(1).step_by(2).collect();
        assert!(told.len() > 5, "{file}: {told:?}");
        for word in told {
            assert!(series.contains(&format!("\"{word}\"")), "{word} of {file} is in no {list}");
        }
    }
}

#[test]
fn the_configuration_page_names_every_preset() {
    let (page, presets) = (read("docs/configuration.md"), read("src/config/presets.rs"));
    let presets = literals(&presets, &["plain("]);
    assert_eq!(presets.len(), 15, "README.md says fifteen");
    for name in presets {
        assert!(page.contains(name), "docs/configuration.md does not name {name}");
    }
}

#[test]
fn the_limits_page_has_the_figures_of_the_code() {
    let (page, limits) = (read("docs/limits.md"), Limits::default());
    let bytes = |amount: usize| size(amount as u64);
    for (what, figures) in [
        ("client connections", vec![limits.connections.to_string()]),
        ("TLS handshake", vec![time(limits.handshake)]),
        ("between two requests", vec![time(limits.request_idle)]),
        ("from the accepting", vec![time(limits.first_request)]),
        ("from a request to its response headers", vec![time(limits.head)]),
        ("a client that takes nothing", vec![time(limits.send_idle)]),
        ("answers that wait", [limits.answers, limits.connection_answers].map(bytes).into()),
        ("an upload whose client sends nothing", vec![time(limits.receive_idle)]),
        ("connecting to a registry", vec![time(limits.connect)]),
        ("the ping that decides", vec![time(limits.ping)]),
        ("waiting for response headers", vec![time(limits.flight_head)]),
        ("checking a tag", vec![time(limits.revalidate)]),
        ("silence within a body", vec![time(limits.upstream_idle)]),
        (
            "downloads at once",
            [limits.fills, limits.fills_per_upstream].map(|count| count.to_string()).into(),
        ),
        ("questions at once", vec![limits.questions.to_string()]),
        ("a download that brings less", vec![time(limits.slow_transfer)]),
        ("waiting for a place to download", vec![time(limits.fill_queue)]),
        ("a range that begins ahead", vec![size(limits.read_ahead)]),
        ("one run of a credential helper", vec![time(limits.helper), time(limits.login_life)]),
        ("manifest", vec![bytes(limits.manifest)]),
        (
            "page of tags",
            vec![
                bytes(limits.large_page),
                bytes(limits.page),
                format!("{} at once", limits.large_pages),
                time(limits.large_page_wait),
            ],
        ),
        ("page of referrers", vec![bytes(limits.page)]),
        ("bytes of a blob that wait", vec![size(limits.hold_back)]),
        ("small bodies", vec![size(limits.small_body), size(limits.memory)]),
        ("a registry that takes nothing", vec![time(limits.upstream_idle)]),
        ("waiting for a registry's answer", vec![time(limits.commit)]),
    ] {
        let row = page.lines().find(|line| line.starts_with(&format!("| {what}")));
        let row = row.unwrap_or_else(|| panic!("docs/limits.md has no row {what:?}"));
        for figure in figures {
            // `5 s` does not stand in `25 s`.
            let is_whole =
                |(at, _): (usize, &str)| !row[..at].ends_with(|c: char| c.is_ascii_digit());
            let told = row.match_indices(&figure).any(is_whole);
            assert!(told, "{figure} is not in {row}");
        }
    }
}

/// As the page writes it: minutes from five on, if they are whole.
fn time(duration: Duration) -> String {
    match duration.as_secs() {
        seconds if seconds >= 300 && seconds % 60 == 0 => format!("{} min", seconds / 60),
        seconds => format!("{seconds} s"),
    }
}

fn size(bytes: u64) -> String {
    if bytes >= 1 << 20 { format!("{} MiB", bytes >> 20) } else { format!("{} KiB", bytes >> 10) }
}

#[test]
fn paths_in_the_documents_exist() {
    let mut count = 0;
    for document in documents() {
        let text = read(&document);
        let quoted = text.split('`').skip(1).step_by(2);
        let folders = ["src/", "tests/", "docs/", "deploy/", ".ci/"];
        for path in quoted.filter(|quoted| folders.iter().any(|folder| quoted.starts_with(folder)))
        {
            count += 1;
            assert!(root().join(path).exists(), "{document}: there is no {path}");
        }
    }
    assert!(count > 20, "paths are no longer found: {count}");
}
