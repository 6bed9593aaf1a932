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

#[test]
fn the_metrics_page_names_every_metric() {
    let (page, metrics) = (read("docs/metrics.md"), read("src/metrics.rs"));
    let ours =
        literals(&metrics, &["r.counter(", "r.counters(", "r.gauge(", "r.gauges(", "r.histogram("]);
    let sources = metrics.clone() + &read("src/admin/process.rs");
    let process: Vec<&str> = sources
        .split('"')
        .filter(|text| text.starts_with("process_") && !text.contains(char::is_whitespace))
        .collect();
    assert!(ours.len() > 20 && process.len() >= 4, "{ours:?} {process:?}");
    let ours = ours.into_iter().map(|name| format!("roadstead_{name}"));
    for name in ours.chain(process.into_iter().map(str::to_owned)) {
        let is_named = page.contains(&format!("`{name}`")) || page.contains(&format!("`{name}{{"));
        assert!(is_named, "docs/metrics.md does not name {name}");
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
        ("waiting for a request head", vec![time(limits.request_idle)]),
        ("from a request to its response headers", vec![time(limits.head)]),
        ("a client that takes no byte", vec![time(limits.send_idle)]),
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
        ("waiting for a place to download", vec![time(limits.fill_queue)]),
        ("a range that begins ahead", vec![size(limits.read_ahead)]),
        ("one run of a credential helper", vec![time(limits.helper), time(limits.login_life)]),
        ("manifest", vec![bytes(limits.manifest)]),
        ("page of tags", vec![bytes(limits.page)]),
        ("bytes of a blob that wait", vec![size(limits.hold_back)]),
        ("small bodies", vec![size(limits.small_body), size(limits.memory)]),
        ("a registry that takes nothing", vec![time(limits.upstream_idle)]),
        ("waiting for a registry's answer", vec![time(limits.commit)]),
    ] {
        let row = page.lines().find(|line| line.starts_with(&format!("| {what}")));
        let row = row.unwrap_or_else(|| panic!("docs/limits.md has no row {what:?}"));
        for figure in figures {
            assert!(row.contains(&figure), "{figure} is not in {row}");
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
