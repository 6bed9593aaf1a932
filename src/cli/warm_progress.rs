//! How far warming has come, as people see it.

use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use tokio::time::Instant;

use super::output::{print, size, tell};

/// Between two lines of progress where there is no terminal.
const LINES_INTERVAL: Duration = Duration::from_secs(10);

/// How much has come, of how much, how fast, and when it will all be here; the bar has what is left
/// of the line.
const BAR: &str = "{wide_bar} {decimal_bytes}/{decimal_total_bytes}, {msg}, \
                   {decimal_bytes_per_sec}, {eta} left";
const BAR_BEFORE: &str = "{spinner} {msg}";

/// Shows lines of the answer; what is on the screen goes when it is dropped.
pub(super) struct ShownProgress {
    is_dry_run: bool,
    shown: Shown,
}

enum Shown {
    /// On a terminal.
    Bar(ProgressBar),
    /// A line now and then; when the last was.
    Lines(Instant),
}

impl ShownProgress {
    pub(super) fn new(is_dry_run: bool) -> Self {
        let shown = if io::stderr().is_terminal() {
            Shown::Bar(ProgressBar::new(0).with_style(style(BAR_BEFORE)))
        } else {
            Shown::Lines(Instant::now())
        };
        Self { is_dry_run, shown }
    }

    /// # Errors
    /// If nobody takes what is printed any more.
    pub(super) fn line(&mut self, line: &Value) -> anyhow::Result<()> {
        if let Some(image) = line.get("image") {
            let text = format!("{}\n", finished(image, self.is_dry_run));
            self.beside(|| print(&text))
        } else if let Some(waits) = line.get("waits") {
            self.beside(|| tell(&waiting(waits)));
            Ok(())
        } else {
            line.get("progress").into_iter().for_each(|progress| self.progress(progress));
            Ok(())
        }
    }

    /// Prints lines, which the bar must not disturb.
    fn beside<T>(&self, print: impl FnOnce() -> T) -> T {
        match &self.shown {
            Shown::Bar(bar) => bar.suspend(print),
            Shown::Lines(_) => print(),
        }
    }

    fn progress(&mut self, progress: &Value) {
        let counted = |of: &str, which: &str| progress[of][which].as_u64().unwrap_or(0);
        match &mut self.shown {
            Shown::Bar(bar) => {
                let (bytes, of) = (counted("bytes", "done"), counted("bytes", "of"));
                if of > 0 && bar.length() != Some(of) {
                    bar.set_style(style(BAR));
                    bar.set_length(of);
                    bar.reset_elapsed();
                }
                bar.set_message(counts(progress));
                bar.set_position(bytes);
            }
            Shown::Lines(last) if last.elapsed() >= LINES_INTERVAL => {
                *last = Instant::now();
                let [done, of] = ["done", "of"].map(|which| size(counted("bytes", which)));
                tell(&format!("{}, {done}/{of}", counts(progress)));
            }
            Shown::Lines(_) => {}
        }
    }
}

impl Drop for ShownProgress {
    fn drop(&mut self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    // Ours are right; a test draws them.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Images and blobs; before these are known, how many images have been looked at.
fn counts(progress: &Value) -> String {
    let counted = |of: &str, which: &str| progress[of][which].as_u64().unwrap_or(0);
    let (images, planned) = (counted("images", "of"), counted("images", "planned"));
    if planned < images {
        return format!("{planned}/{images} images looked at");
    }
    format!(
        "{}/{images} images, {}/{} blobs",
        counted("images", "done"),
        counted("blobs", "done"),
        counted("blobs", "of"),
    )
}

fn waiting(waits: &Value) -> String {
    let text = |key: &str| waits[key].as_str().unwrap_or_default().to_owned();
    let seconds = waits["seconds"].as_u64().unwrap_or(0);
    format!("{}: again in {seconds} s: {}", text("name"), text("why"))
}

fn finished(image: &Value, is_dry_run: bool) -> String {
    let name = image["image"].as_str().unwrap_or_default();
    let number = |of: &str, what: &str| image[of][what].as_u64().unwrap_or(0);
    let missing = image["missing"].as_array().map_or(0, Vec::len);
    let platforms: Vec<_> =
        image["platforms"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let platforms =
        if platforms.is_empty() { String::new() } else { format!(" ({})", platforms.join(", ")) };
    if missing > 0 {
        return format!("{name}{platforms}: {missing} missing");
    }
    if is_dry_run {
        let (blobs, bytes) = (number("absent", "blobs"), size(number("absent", "bytes")));
        return format!("{name}{platforms}: {blobs} blobs, {bytes} to fetch");
    }
    format!("{name}{platforms}: {}", size(number("all", "bytes")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_templates_of_the_bar_are_right() {
        for template in [BAR, BAR_BEFORE] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }

    #[test]
    fn progress_is_told_in_counts() {
        let progress = |planned: u64| {
            json!({
                "images": { "of": 3, "planned": planned, "done": 1 },
                "blobs": { "of": 9, "done": 4 },
            })
        };
        assert_eq!(counts(&progress(2)), "2/3 images looked at");
        assert_eq!(counts(&progress(3)), "1/3 images, 4/9 blobs");
    }
}
