//! How a metric is made and entered into the registry.

use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

/// Makes metrics and registers them. Names are literals, each registered once, so registration
/// cannot fail.
pub(super) struct Registers(pub(super) Registry);

const VALID: &str = "metric names and labels are valid literals, each registered once";

impl Registers {
    pub(super) fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::new(full(name), help).expect(VALID))
    }

    pub(super) fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add(IntCounterVec::new(Opts::new(full(name), help), labels).expect(VALID))
    }

    pub(super) fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::new(full(name), help).expect(VALID))
    }

    pub(super) fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.add(IntGaugeVec::new(Opts::new(full(name), help), labels).expect(VALID))
    }

    pub(super) fn histogram(&self, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
        // A cached manifest takes a millisecond, headers at most 25 s, a large layer half an hour.
        let buckets = vec![0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 25.0, 60.0, 300.0, 1800.0];
        self.add(
            HistogramVec::new(HistogramOpts::new(full(name), help).buckets(buckets), labels)
                .expect(VALID),
        )
    }

    fn add<C: prometheus::core::Collector + Clone + 'static>(&self, collector: C) -> C {
        self.0.register(Box::new(collector.clone())).expect(VALID);
        collector
    }
}

fn full(name: &str) -> String {
    format!("roadstead_{name}")
}
