//! The table: medians of the rounds, and how many times a peer's figure ours is.

use std::fmt;

use crate::load::{Load, Sample};

/// One thing that is measured on every server.
#[derive(Clone, Debug)]
pub(crate) struct Measure {
    pub(crate) name: &'static str,
    pub(crate) unit: Unit,
    pub(crate) load: Load,
}

/// What a measure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// In megabytes of 10⁶.
    Bytes,
    Requests,
}

impl Measure {
    fn amount(&self, requests: u32) -> f64 {
        match self.unit {
            Unit::Requests => f64::from(requests),
            Unit::Bytes => {
                f64::from(requests) * u32::try_from(self.load.size).map_or(f64::INFINITY, f64::from)
                    / 1e6
            }
        }
    }
}

/// The figures of one server in one measure, a pair for each round.
#[derive(Debug)]
struct Row {
    measure: Measure,
    server: &'static str,
    per_second: Vec<f64>,
    per_cpu_second: Vec<f64>,
}

/// Everything measured so far; its `Display` is the table.
#[derive(Debug, Default)]
pub(crate) struct Report(Vec<Row>);

impl Report {
    pub(crate) fn add(&mut self, measure: &Measure, server: &'static str, sample: Sample) {
        let amount = measure.amount(sample.requests);
        let (per_second, per_cpu_second) =
            (amount / sample.wall.as_secs_f64(), amount / sample.cpu.as_secs_f64());
        if let Some(row) =
            self.0.iter_mut().find(|row| row.measure.name == measure.name && row.server == server)
        {
            row.per_second.push(per_second);
            row.per_cpu_second.push(per_cpu_second);
            return;
        }
        let (per_second, per_cpu_second) = (vec![per_second], vec![per_cpu_second]);
        self.0.push(Row { measure: measure.clone(), server, per_second, per_cpu_second });
    }

    /// Our row of the same measure.
    fn ours(&self, row: &Row) -> Option<&Row> {
        self.0
            .iter()
            .find(|other| other.server == "roadstead" && other.measure.name == row.measure.name)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows: Vec<&Row> = self.0.iter().collect();
        rows.sort_by_key(|row| (row.measure.name, row.server != "roadstead", row.server));
        writeln!(
            f,
            "| measure | server | per second | per CPU-second | roadstead is, per second | per CPU-second |"
        )?;
        writeln!(f, "| --- | --- | ---: | ---: | ---: | ---: |")?;
        for row in rows {
            let unit = match row.measure.unit {
                Unit::Bytes => "MB",
                Unit::Requests => "requests",
            };
            let (wall, cpu) = (median(&row.per_second), median(&row.per_cpu_second));
            write!(
                f,
                "| {} | {} | {wall:.0} {unit} | {cpu:.0} {unit} |",
                row.measure.name, row.server
            )?;
            match self.ours(row).filter(|ours| ours.server != row.server) {
                Some(ours) => {
                    let times =
                        (median(&ours.per_second) / wall, median(&ours.per_cpu_second) / cpu);
                    writeln!(f, " {:.2} × | {:.2} × |", times.0, times.1)?;
                }
                None => writeln!(f, " | |")?,
            }
        }
        Ok(())
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    }
}
