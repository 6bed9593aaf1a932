//! Metrics of the process itself, read from `/proc` when they are scraped, with the names and types
//! that every client library of Prometheus gives them. What cannot be read is left out.

use std::collections::HashMap;
use std::fs;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge};
use rustix::process::Resource;

/// `USER_HZ`: the unit of times in `/proc`, whatever the kernel's own tick.
const TICKS_PER_SECOND: f64 = 100.0;

/// Collects the metrics anew for each scrape.
#[derive(Debug)]
pub(super) struct ProcessCollector {
    descriptions: Vec<Desc>,
}

/// What one metric is called, and what it says.
struct ProcessMetric {
    name: &'static str,
    help: &'static str,
    kind: MetricKind,
    read: fn(&Proc) -> Option<f64>,
}

enum MetricKind {
    Counter,
    Gauge,
}

const METRICS: [ProcessMetric; 7] = [
    ProcessMetric {
        name: "process_cpu_seconds_total",
        help: "User and system CPU time spent, in seconds.",
        kind: MetricKind::Counter,
        read: Proc::cpu_seconds,
    },
    ProcessMetric {
        name: "process_start_time_seconds",
        help: "When the process started, in seconds since the Unix epoch.",
        kind: MetricKind::Gauge,
        read: Proc::start_time,
    },
    ProcessMetric {
        name: "process_open_fds",
        help: "Open file descriptors.",
        kind: MetricKind::Gauge,
        read: |proc| proc.open_descriptors,
    },
    ProcessMetric {
        name: "process_max_fds",
        help: "File descriptors that may be open at once.",
        kind: MetricKind::Gauge,
        read: |proc| proc.max_descriptors,
    },
    ProcessMetric {
        name: "process_resident_memory_bytes",
        help: "Memory in use, mapped blobs included.",
        kind: MetricKind::Gauge,
        read: |proc| proc.memory("VmRSS:"),
    },
    ProcessMetric {
        name: "process_virtual_memory_bytes",
        help: "Address space in use, mapped blobs included.",
        kind: MetricKind::Gauge,
        read: |proc| proc.memory("VmSize:"),
    },
    // Not among the standard ones. A cache maps what it serves, which the resident size counts.
    ProcessMetric {
        name: "process_anonymous_memory_bytes",
        help: "Memory in use, mapped blobs excluded.",
        kind: MetricKind::Gauge,
        read: |proc| proc.memory("RssAnon:"),
    },
];

impl ProcessCollector {
    pub(super) fn new() -> Self {
        let describe = |metric: &ProcessMetric| {
            let (name, help) = (metric.name.to_owned(), metric.help.to_owned());
            Desc::new(name, help, Vec::new(), HashMap::new())
                .expect("names of metrics are valid literals")
        };
        Self { descriptions: METRICS.iter().map(describe).collect() }
    }
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let proc = Proc::read();
        METRICS
            .iter()
            .filter_map(|metric| Some(metric.family((metric.read)(&proc)?)))
            .flatten()
            .collect()
    }
}

impl ProcessMetric {
    /// A fresh counter or gauge for each scrape: a counter that is kept could only be added to, and
    /// two scrapes at once would add twice.
    fn family(&self, value: f64) -> Vec<MetricFamily> {
        const VALID: &str = "names of metrics are valid literals";
        match self.kind {
            MetricKind::Counter => {
                let counter = Counter::new(self.name, self.help).expect(VALID);
                counter.inc_by(value);
                counter.collect()
            }
            MetricKind::Gauge => {
                let gauge = Gauge::new(self.name, self.help).expect(VALID);
                gauge.set(value);
                gauge.collect()
            }
        }
    }
}

/// What `/proc` says, as text; empty where it cannot be read.
#[derive(Debug, Default)]
struct Proc {
    /// `/proc/self/stat`
    stat: String,
    /// `/proc/self/status`
    status: String,
    /// `/proc/stat`
    system: String,
    open_descriptors: Option<f64>,
    max_descriptors: Option<f64>,
}

impl Proc {
    fn read() -> Self {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        // The listing itself holds one of them open.
        let open =
            fs::read_dir("/proc/self/fd").ok().map(|listed| listed.count().saturating_sub(1));
        Self {
            stat: text("/proc/self/stat"),
            status: text("/proc/self/status"),
            system: text("/proc/stat"),
            open_descriptors: open.and_then(|open| u32::try_from(open).ok()).map(f64::from),
            max_descriptors: max_descriptors(),
        }
    }

    /// Fields 14 and 15 of `proc_pid_stat(5)`: user and system time.
    fn cpu_seconds(&self) -> Option<f64> {
        Some((self.field(14)? + self.field(15)?) / TICKS_PER_SECOND)
    }

    /// Field 22 of `proc_pid_stat(5)`, which counts from the boot of the machine.
    fn start_time(&self) -> Option<f64> {
        let booted = self.system.lines().find_map(|line| line.strip_prefix("btime "))?;
        Some(booted.trim().parse::<f64>().ok()? + self.field(22)? / TICKS_PER_SECOND)
    }

    /// A field of `proc_pid_stat(5)` by its number there. The second one is the name of the program
    /// in brackets and may hold spaces and brackets, so counting starts behind the last one.
    fn field(&self, number: usize) -> Option<f64> {
        let (_, behind_name) = self.stat.rsplit_once(')')?;
        behind_name.split_whitespace().nth(number - 3)?.parse().ok()
    }

    /// Bytes; the lines of `proc_pid_status(5)` are in KiB.
    fn memory(&self, key: &str) -> Option<f64> {
        let line = self.status.lines().find_map(|line| line.strip_prefix(key))?;
        Some(line.split_whitespace().next()?.parse::<f64>().ok()? * 1024.0)
    }
}

/// The soft limit, which is the one that `open` fails at; none if there is no limit.
fn max_descriptors() -> Option<f64> {
    let limit = rustix::process::getrlimit(Resource::Nofile).current?;
    // Linux keeps it below a billion (`fs.nr_open`).
    u32::try_from(limit).ok().map(f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_proc_are_found() {
        let proc = Proc {
            stat: "42 (a ) b) S 1 1 1 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 4 0 150 1000 10"
                .to_owned(),
            status: "VmSize:\t 4096 kB\nVmRSS:\t  2048 kB\nRssAnon:\t 512 kB\n".to_owned(),
            system: "cpu  1 2 3\nbtime 1700000000\nprocesses 4\n".to_owned(),
            ..Proc::default()
        };
        assert_eq!(proc.cpu_seconds(), Some(3.0));
        assert_eq!(proc.start_time(), Some(1_700_000_001.5));
        assert_eq!(proc.memory("RssAnon:"), Some(524_288.0));
        assert_eq!(proc.memory("VmSwap:"), None);
    }

    #[test]
    fn what_cannot_be_read_is_left_out() {
        let proc = Proc::default();
        assert!(METRICS.iter().all(|metric| (metric.read)(&proc).is_none()));
    }
}
