//! The access lines and warnings of the proxies in this process, as an operator finds them in the
//! log.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Mutex, Once, PoisonError};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use super::client::Answer;
use super::eventually;

static LINES: Mutex<Vec<Line>> = Mutex::new(Vec::new());
static WARNINGS: Mutex<Vec<Line>> = Mutex::new(Vec::new());

/// The fields of one line.
pub(crate) type Line = BTreeMap<&'static str, String>;

/// Begins to gather; lines from before are not there.
pub(crate) fn gather() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let subscriber = tracing_subscriber::registry().with(AccessLines);
        tracing::subscriber::set_global_default(subscriber).expect("nobody else gathers");
    });
}

/// The newest of the lines about `repository`, once there are `count`.
pub(crate) async fn line(repository: &str, count: usize) -> Line {
    newest("repository", repository, count).await
}

/// The line of the request that this answers.
pub(crate) async fn line_of(answer: &Answer) -> Line {
    line_by_id(answer.header("x-request-id").expect("every answer has an id")).await
}

/// The line of the one request with this id.
pub(crate) async fn line_by_id(id: &str) -> Line {
    newest("request_id", id, 1).await
}

async fn newest(field: &str, value: &str, count: usize) -> Line {
    let about = || -> Vec<Line> {
        let lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
        let is_about = |line: &&Line| line.get(field).is_some_and(|found| found == value);
        lines.iter().filter(is_about).cloned().collect()
    };
    eventually("the line is written", || about().len() >= count).await;
    let lines = about();
    assert_eq!(lines.len(), count, "{lines:#?}");
    lines.into_iter().next_back().expect("they were counted")
}

/// The messages of the warnings so far that have this field, oldest first.
pub(crate) fn warnings(field: &str, value: &str) -> Vec<String> {
    let lines = WARNINGS.lock().unwrap_or_else(PoisonError::into_inner);
    let is_about = |line: &&Line| line.get(field).is_some_and(|found| found == value);
    lines.iter().filter(is_about).map(|line| line["message"].clone()).collect()
}

struct AccessLines;

impl<S: Subscriber> Layer<S> for AccessLines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let lines = if event.metadata().target() == "access" {
            &LINES
        } else if *event.metadata().level() <= Level::WARN {
            &WARNINGS
        } else {
            return;
        };
        let mut fields = Fields(Line::new());
        event.record(&mut fields);
        lines.lock().unwrap_or_else(PoisonError::into_inner).push(fields.0);
    }
}

struct Fields(Line);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}
