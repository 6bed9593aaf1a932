//! Log lines: formatted by `tracing-subscriber`, written by a thread of their own.
//!
//! A line is appended to a bounded buffer; the thread swaps the buffer for an empty one and writes it. So whoever logs
//! never waits for whoever reads our stderr. What finds the buffer full is dropped and counted.

use std::io::{self, IsTerminal, Write};
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::{Log, LogFormat};

/// Bytes of lines that wait for a reader: several thousand lines.
const BUFFER: usize = 4 << 20;

/// How long lines may gather before they are written.
const MOMENT: Duration = Duration::from_millis(2);

/// How long the end of the process waits for the last lines to be read.
const FLUSH: Duration = Duration::from_secs(1);

/// Makes `log` the process's logging, on stderr. `rust_log` replaces the level if it is given and a filter.
///
/// # Errors
/// If the level is no filter, the process logs already, or no thread can be started.
pub fn install(log: &Log, rust_log: Option<&str>) -> anyhow::Result<Telemetry> {
    let lines = Arc::new(Lines::new(BUFFER));
    let ansi = log.format == LogFormat::Human && io::stderr().is_terminal();
    let overriding = rust_log.filter(|text| !text.is_empty()).and_then(|text| EnvFilter::try_new(text).ok());
    let filter = overriding.map_or_else(|| EnvFilter::try_new(&log.level), Ok)?;
    tracing::subscriber::set_global_default(subscriber(log.format, ansi, filter, Arc::clone(&lines)))?;
    Ok(Telemetry::start(lines, io::stderr())?)
}

fn subscriber(
    format: LogFormat,
    ansi: bool,
    filter: EnvFilter,
    lines: Arc<Lines>,
) -> Box<dyn Subscriber + Send + Sync> {
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(Writer(lines)).with_ansi(ansi);
    match format {
        LogFormat::Human => Box::new(builder.finish()),
        LogFormat::Json => Box::new(builder.json().flatten_event(true).finish()),
    }
}

/// Keeps the writing thread; dropping it waits for the last lines, but not longer than a second.
#[derive(Debug)]
pub struct Telemetry(Arc<Lines>);

impl Telemetry {
    fn start(lines: Arc<Lines>, output: impl Write + Send + 'static) -> io::Result<Self> {
        let source = Arc::clone(&lines);
        thread::Builder::new().name("log".to_owned()).spawn(move || source.drain_into(output))?;
        Ok(Self(lines))
    }

    /// Calls `count` with the lines dropped so far, if any, and with those of each later drop.
    pub fn on_dropped(&self, count: impl Fn(u64) + Send + 'static) {
        let mut state = self.0.lock();
        if state.dropped > 0 {
            count(mem::take(&mut state.dropped));
        }
        state.count = Some(Counter(Box::new(count)));
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_all();
        let waiting = self.0.changed.wait_timeout_while(self.0.lock(), FLUSH, |state| !state.is_drained());
        drop(waiting);
    }
}

/// Lines between those who log and the thread that writes.
#[derive(Debug)]
struct Lines {
    /// Held only to append, to swap or to look; never while writing.
    state: Mutex<State>,
    /// There are lines, or there are none left, or no more will come.
    changed: Condvar,
    bound: usize,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<u8>,
    writing: bool,
    closed: bool,
    /// Lines lost before somebody counted them.
    dropped: u64,
    count: Option<Counter>,
}

struct Counter(Box<dyn Fn(u64) + Send>);

impl std::fmt::Debug for Counter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Counter")
    }
}

impl State {
    fn is_drained(&self) -> bool {
        self.waiting.is_empty() && !self.writing
    }

    fn lose(&mut self, lines: u64) {
        match &self.count {
            Some(Counter(count)) => count(lines),
            None => self.dropped += lines,
        }
    }
}

impl Lines {
    fn new(bound: usize) -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), bound }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
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
        let idle = |state: &mut State| state.waiting.is_empty() && !state.closed;
        let state = self.changed.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        // The lines of a moment are written together: a wake-up for each cost the requests more than writing it.
        let gathering = self.changed.wait_timeout_while(state, MOMENT, |state| !state.closed);
        let (mut state, _) = gathering.unwrap_or_else(PoisonError::into_inner);
        batch.clear();
        mem::swap(&mut state.waiting, batch);
        state.writing = !batch.is_empty();
        state.writing
    }
}

/// Takes one formatted line for each event.
struct Writer(Arc<Lines>);

impl<'a> MakeWriter<'a> for Writer {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(&self.0)
    }
}

struct Line<'a>(&'a Lines);

impl Write for Line<'_> {
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

    /// Hands over each write, and waits until it is taken: a reader that stalls while the test takes nothing.
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

    fn handover(bound: usize) -> (Arc<Lines>, Telemetry, Receiver<Vec<u8>>) {
        let (sender, receiver) = sync_channel(0);
        let lines = Arc::new(Lines::new(bound));
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
        let lines = Arc::new(Lines::new(BUFFER));
        let filter = EnvFilter::try_new("info").expect("a level");
        tracing::subscriber::with_default(subscriber(format, false, filter, Arc::clone(&lines)), log);
        String::from_utf8(mem::take(&mut lines.lock().waiting)).expect("text")
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
        let reader = thread::spawn(move || receiver.iter().map(|batch| batch.len() as u64 / 10).sum::<u64>());
        drop(telemetry);
        assert_eq!(reader.join().expect("read to the end") + lost, 1000);
    }

    #[test]
    fn what_was_dropped_before_anyone_counted_is_counted() {
        let lines = Arc::new(Lines::new(0));
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
        let text = logged(LogFormat::Human, || tracing::warn!(reason = "timeout", "docker.io: \u{1b}[31m no answer"));
        assert!(text.contains("WARN") && text.contains("no answer") && text.contains("reason=\"timeout\""), "{text}");
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }
}
