//! Metrics of the process itself, read from `/proc` when they are scraped. Elsewhere they stay at
//! zero.

use std::fs;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, Opts};

/// `USER_HZ`: the unit of CPU times in `/proc`, whatever the kernel's own tick.
const TICKS_PER_SECOND: f64 = 100.0;

/// Gauges under the names that every exporter uses.
#[derive(Debug)]
pub(super) struct Process {
    cpu_seconds: Gauge,
    resident_bytes: Gauge,
    anonymous_bytes: Gauge,
    open_descriptors: Gauge,
}

impl Process {
    pub(super) fn new() -> Self {
        let gauge = |name: &str, help: &str| {
            Gauge::with_opts(Opts::new(name, help)).expect("names of metrics are valid literals")
        };
        Self {
            cpu_seconds: gauge("process_cpu_seconds_total", "User and system time spent."),
            resident_bytes: gauge(
                "process_resident_memory_bytes",
                "Memory in use, mapped blobs included.",
            ),
            anonymous_bytes: gauge(
                "process_anonymous_memory_bytes",
                "Memory in use, mapped blobs excluded.",
            ),
            open_descriptors: gauge("process_open_fds", "Open file descriptors."),
        }
    }

    fn gauges(&self) -> [&Gauge; 4] {
        [&self.cpu_seconds, &self.resident_bytes, &self.anonymous_bytes, &self.open_descriptors]
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        self.gauges().iter().flat_map(|gauge| gauge.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        if let Ok(stat) = fs::read_to_string("/proc/self/stat") {
            self.cpu_seconds.set(cpu_ticks(&stat).unwrap_or_default() / TICKS_PER_SECOND);
        }
        if let Ok(status) = fs::read_to_string("/proc/self/status") {
            self.resident_bytes.set(kibibytes(&status, "VmRSS:").unwrap_or_default() * 1024.0);
            self.anonymous_bytes.set(kibibytes(&status, "RssAnon:").unwrap_or_default() * 1024.0);
        }
        if let Ok(descriptors) = fs::read_dir("/proc/self/fd") {
            self.open_descriptors
                .set(f64::from(u32::try_from(descriptors.count()).unwrap_or(u32::MAX)));
        }
        self.gauges().iter().flat_map(|gauge| gauge.collect()).collect()
    }
}

/// Fields 14 and 15 of `proc_pid_stat(5)`; the second field may hold spaces, so counting starts
/// behind its bracket.
fn cpu_ticks(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<f64>().ok();
    Some(next()? + next()?)
}

fn kibibytes(status: &str, key: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_proc_are_found() {
        let stat = "42 (a ) b) S 1 1 1 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 4 0 100 1000 10";
        assert_eq!(cpu_ticks(stat), Some(300.0));
        assert_eq!(kibibytes("VmRSS:\t  2048 kB\nRssAnon:\t 512 kB\n", "RssAnon:"), Some(512.0));
        assert_eq!(kibibytes("VmRSS: 1 kB", "RssAnon:"), None);
    }
}
