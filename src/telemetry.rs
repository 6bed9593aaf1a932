//! Log lines: formatted by `tracing-subscriber`, written by a thread of their own.
//!
//! A line is appended to a bounded buffer; the thread swaps the buffer for an empty one and writes
//! it. A request that logs therefore never waits for the reader of our stderr. Lines that find the
//! buffer full are dropped and counted.

use std::io::{self, IsTerminal, Write};
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use crate::config::{Log, LogFormat};

/// Bytes of lines that wait for a reader: several thousand lines.
const BUFFER_MAX: usize = 4 << 20;

/// How long lines may gather before they are written.
const BATCH_PAUSE: Duration = Duration::from_millis(2);

/// How long the end of the process waits for the last lines to be read.
const DRAIN_MAX: Duration = Duration::from_secs(1);

/// What stands above the configuration, whatever it comes to say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Overrides {
    pub format: Option<LogFormat>,
    /// `RUST_LOG`: replaces the level if it is a filter.
    pub filter: Option<String>,
}

/// Makes `log` the process's logging, on stderr.
///
/// # Errors
/// If the level is no filter, the process logs already, or no thread can be started.
pub(crate) fn install(log: &Log, overrides: Overrides) -> anyhow::Result<(Telemetry, Logging)> {
    let lines = Arc::new(LineQueue::new(BUFFER_MAX));
    let style =
        Style { overrides, terminal: io::stderr().is_terminal(), lines: Arc::clone(&lines) };
    let (layer, handle) = reload::Layer::new(style.layer(log)?);
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer))?;
    Ok((Telemetry::start(lines, io::stderr())?, Logging { style, handle }))
}

/// Formats and filters events; replaced as a whole.
type Formatting = Box<dyn Layer<Registry> + Send + Sync>;

/// Changes how the process logs while it does.
pub struct Logging {
    style: Style,
    handle: reload::Handle<Formatting, Registry>,
}

impl std::fmt::Debug for Logging {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Logging").field("style", &self.style).finish_non_exhaustive()
    }
}

impl Logging {
    /// Logs like this from now on.
    ///
    /// # Errors
    /// If the level is no filter; then nothing has changed.
    pub fn set(&self, log: &Log) -> anyhow::Result<()> {
        Ok(self.handle.reload(self.style.layer(log)?)?)
    }
}

#[derive(Debug)]
struct Style {
    overrides: Overrides,
    /// Whether stderr is a terminal, which shows colours.
    terminal: bool,
    lines: Arc<LineQueue>,
}

impl Style {
    fn layer(&self, log: &Log) -> anyhow::Result<Formatting> {
        let format = self.overrides.format.unwrap_or(log.format);
        let given = self.overrides.filter.as_ref().filter(|text| !text.is_empty());
        let overriding = given.and_then(|text| EnvFilter::try_new(text).ok());
        let filter = overriding.map_or_else(|| EnvFilter::try_new(&log.level), Ok)?;
        let ansi = self.terminal && format == LogFormat::Human;
        let lines = fmt::layer().with_writer(LineWriter(Arc::clone(&self.lines))).with_ansi(ansi);
        Ok(match format {
            LogFormat::Human => Box::new(filter.and_then(lines)),
            LogFormat::Json => Box::new(filter.and_then(lines.json().flatten_event(true))),
        })
    }
}

/// Keeps the writing thread; dropping it waits for the last lines, but not longer than a second.
#[derive(Debug)]
pub(crate) struct Telemetry(Arc<LineQueue>);

impl Telemetry {
    fn start(lines: Arc<LineQueue>, output: impl Write + Send + 'static) -> io::Result<Self> {
        let source = Arc::clone(&lines);
        thread::Builder::new().name("log".to_owned()).spawn(move || source.drain_into(output))?;
        Ok(Self(lines))
    }

    /// Calls `count` with the lines dropped so far, if any, and with those of each later drop.
    pub(crate) fn on_dropped(&self, count: impl Fn(u64) + Send + 'static) {
        let mut state = self.0.lock();
        if state.dropped > 0 {
            count(mem::take(&mut state.dropped));
        }
        state.count = Some(DropCounter(Box::new(count)));
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_all();
        let waiting = self
            .0
            .changed
            .wait_timeout_while(self.0.lock(), DRAIN_MAX, |state| !state.is_drained());
        drop(waiting);
    }
}

/// Lines between those who log and the thread that writes.
#[derive(Debug)]
struct LineQueue {
    /// Held only to append, to swap or to look; never while writing.
    state: Mutex<QueueState>,
    /// There are lines, or there are none left, or no more will come.
    changed: Condvar,
    bound: usize,
}

#[derive(Debug, Default)]
struct QueueState {
    waiting: Vec<u8>,
    writing: bool,
    closed: bool,
    /// Lines that were lost before there was a counter for them.
    dropped: u64,
    count: Option<DropCounter>,
}

struct DropCounter(Box<dyn Fn(u64) + Send>);

impl std::fmt::Debug for DropCounter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DropCounter")
    }
}

impl QueueState {
    fn is_drained(&self) -> bool {
        self.waiting.is_empty() && !self.writing
    }

    fn lose(&mut self, lines: u64) {
        match &self.count {
            Some(DropCounter(count)) => count(lines),
            None => self.dropped += lines,
        }
    }
}

impl LineQueue {
    fn new(bound: usize) -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), bound }
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &[u8]) {
        let mut state = self.lock();
        if state.waiting.len() + line.len() > self.bound {
            state.lose(1);
            return;
        }
        let first = state.waiting.is_empty();
        state.waiting.extend_from_slice(line);
        drop(state);
        if first {
            self.changed.notify_all();
        }
    }

    /// Writes until closed and empty. A reader that went away costs its lines, nothing else.
    fn drain_into(&self, mut output: impl Write) {
        let mut batch = Vec::new();
        while self.next_batch(&mut batch) {
            let written = output.write_all(&batch).and_then(|()| output.flush());
            let mut state = self.lock();
            state.writing = false;
            if written.is_err() {
                state.lose(batch.split(|byte| *byte == b'\n').count() as u64 - 1);
            }
            drop(state);
            self.changed.notify_all();
        }
    }

    /// Takes what waits, in exchange for the memory of `batch`; false once closed and empty.
    fn next_batch(&self, batch: &mut Vec<u8>) -> bool {
        let idle = |state: &mut QueueState| state.waiting.is_empty() && !state.closed;
        let state =
            self.changed.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        // The lines of a moment are written together: a wake-up for each cost the requests more
        // than writing it.
        let gathering = self.changed.wait_timeout_while(state, BATCH_PAUSE, |state| !state.closed);
        let (mut state, _) = gathering.unwrap_or_else(PoisonError::into_inner);
        batch.clear();
        mem::swap(&mut state.waiting, batch);
        state.writing = !batch.is_empty();
        state.writing
    }
}

/// Takes one formatted line for each event.
struct LineWriter(Arc<LineQueue>);

impl<'a> MakeWriter<'a> for LineWriter {
    type Writer = LineSink<'a>;

    fn make_writer(&'a self) -> LineSink<'a> {
        LineSink(&self.0)
    }
}

struct LineSink<'a>(&'a LineQueue);

impl Write for LineSink<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;

    /// Hands over each write, and waits until it is taken: a reader that stalls while the test
    /// takes nothing.
    struct Handover(SyncSender<Vec<u8>>);

    impl Write for Handover {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_owned()).map_err(|_| io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn handover(bound: usize) -> (Arc<LineQueue>, Telemetry, Receiver<Vec<u8>>) {
        let (sender, receiver) = sync_channel(0);
        let lines = Arc::new(LineQueue::new(bound));
        let telemetry = Telemetry::start(Arc::clone(&lines), Handover(sender)).expect("a thread");
        (lines, telemetry, receiver)
    }

    fn counter(telemetry: &Telemetry) -> Arc<AtomicU64> {
        let total = Arc::new(AtomicU64::new(0));
        let adding = Arc::clone(&total);
        telemetry.on_dropped(move |lines| {
            adding.fetch_add(lines, Ordering::SeqCst);
        });
        total
    }

    fn logged(format: LogFormat, log: impl FnOnce()) -> String {
        let (lines, logging, subscriber) = logging(Overrides::default());
        logging.set(&Log { format, level: "info".to_owned() }).expect("a level");
        tracing::subscriber::with_default(subscriber, log);
        taken(&lines)
    }

    fn taken(lines: &LineQueue) -> String {
        String::from_utf8(mem::take(&mut lines.lock().waiting)).expect("text")
    }

    /// Begins with errors only, for people.
    fn logging(
        overrides: Overrides,
    ) -> (Arc<LineQueue>, Logging, impl tracing::Subscriber + Send + Sync) {
        let lines = Arc::new(LineQueue::new(BUFFER_MAX));
        let style = Style { overrides, terminal: false, lines: Arc::clone(&lines) };
        let first = Log { format: LogFormat::Human, level: "error".to_owned() };
        let (layer, handle) = reload::Layer::new(style.layer(&first).expect("a level"));
        (lines, Logging { style, handle }, tracing_subscriber::registry().with(layer))
    }

    #[test]
    fn level_and_format_change_while_the_process_logs_unless_the_caller_has_set_them() {
        let json = Log { format: LogFormat::Json, level: "info".to_owned() };
        let (lines, free, subscriber) = logging(Overrides::default());
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("before");
            free.set(&json).expect("a level");
            tracing::info!("after");
            assert!(free.set(&Log { level: "x=y=z".to_owned(), ..json.clone() }).is_err());
            tracing::info!("still");
        });
        let text = taken(&lines);
        assert!(
            !text.contains("before")
                && text.contains(r#""message":"after""#)
                && text.contains("still"),
            "{text}"
        );
        let fixed = Overrides { format: Some(LogFormat::Human), filter: Some("warn".to_owned()) };
        let (lines, fixed, subscriber) = logging(fixed);
        tracing::subscriber::with_default(subscriber, || {
            fixed.set(&json).expect("a level");
            tracing::info!("quiet");
            tracing::warn!("loud");
        });
        let text = taken(&lines);
        assert!(!text.contains("quiet") && text.contains("loud") && !text.contains('{'), "{text}");
    }

    #[test]
    fn a_stalled_reader_costs_lines_and_no_time() {
        let (lines, telemetry, receiver) = handover(100);
        let dropped = counter(&telemetry);
        for _ in 0..1000 {
            lines.push(b"123456789\n");
        }
        let lost = dropped.load(Ordering::SeqCst);
        // At most one full buffer is being written and one is waiting.
        assert!((980..1000).contains(&lost), "{lost}");
        drop(lines);
        let reader = thread::spawn(move || {
            receiver.iter().map(|batch| batch.len() as u64 / 10).sum::<u64>()
        });
        drop(telemetry);
        assert_eq!(reader.join().expect("read to the end") + lost, 1000);
    }

    #[test]
    fn what_was_dropped_before_anyone_counted_is_counted() {
        let lines = Arc::new(LineQueue::new(0));
        let telemetry = Telemetry(Arc::clone(&lines));
        lines.push(b"a\n");
        lines.push(b"b\n");
        let dropped = counter(&telemetry);
        lines.push(b"c\n");
        assert_eq!(dropped.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn a_reader_that_left_is_counted_and_ends_nothing() {
        let (lines, telemetry, receiver) = handover(100);
        let dropped = counter(&telemetry);
        drop(receiver);
        lines.push(b"a\nb\n");
        drop(telemetry);
        assert_eq!(dropped.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn the_end_waits_for_a_stalled_reader_with_a_deadline() {
        let (lines, telemetry, receiver) = handover(100);
        lines.push(b"a\n");
        drop(telemetry);
        assert_eq!(receiver.recv().expect("it was on its way"), b"a\n");
    }

    #[test]
    fn a_json_line_is_an_object_and_a_line_of_what_is_logged_stays_one() {
        let text = logged(LogFormat::Json, || {
            tracing::info!(upstream = "docker.io", bytes = 7, "a\nb \u{1b}[31m");
            tracing::debug!("below the level");
        });
        assert_eq!(text.lines().count(), 1);
        let line: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(
            (&line["upstream"], &line["bytes"], &line["level"]),
            (&"docker.io".into(), &7.into(), &"INFO".into())
        );
        assert_eq!(line["message"], "a\nb \u{1b}[31m");
        assert!(!text.contains('\u{1b}'));
    }

    #[test]
    fn a_human_line_has_no_escapes_without_a_terminal() {
        let text = logged(LogFormat::Human, || {
            tracing::warn!(reason = "timeout", "docker.io: \u{1b}[31m no answer");
        });
        assert!(
            text.contains("WARN")
                && text.contains("no answer")
                && text.contains("reason=\"timeout\""),
            "{text}"
        );
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }
}
