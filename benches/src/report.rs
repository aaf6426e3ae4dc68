//! Medians over the rounds, and every system's ratio to this one.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Result, bail};

use crate::workload::Workload;

/// One number of one run.
#[derive(Clone, Debug, PartialEq)]
pub struct Measure {
    name: &'static str,
    unit: &'static str,
    value: f64,
    smaller_is_better: bool,
}

impl Measure {
    pub fn smaller(name: &'static str, unit: &'static str, value: f64) -> Self {
        Self { name, unit, value, smaller_is_better: true }
    }

    pub fn larger(name: &'static str, unit: &'static str, value: f64) -> Self {
        Self { name, unit, value, smaller_is_better: false }
    }
}

/// All runs of all systems.
#[derive(Debug, Default)]
pub struct Report {
    /// By workload and measure, in the order first met: each system's values.
    rows: Vec<Row>,
    /// What stands above the table, each line once.
    notes: Vec<String>,
    failures: Vec<String>,
    ours_failed: bool,
}

#[derive(Debug)]
struct Row {
    workload: Workload,
    measure: Measure,
    values: BTreeMap<String, Vec<f64>>,
}

/// Whose ratio is 1.
const OURS: &str = "replicator";

impl Report {
    pub fn add(&mut self, workload: Workload, system: &str, measures: Vec<Measure>) {
        for measure in measures {
            let same =
                |row: &&mut Row| row.workload == workload && row.measure.name == measure.name;
            let value = measure.value;
            let row = match self.rows.iter_mut().find(same) {
                Some(row) => row,
                None => {
                    self.rows.push(Row { workload, measure, values: BTreeMap::new() });
                    let last = self.rows.len() - 1;
                    &mut self.rows[last]
                }
            };
            row.values.entry(system.to_string()).or_default().push(value);
        }
    }

    /// Something that whoever reads the numbers must know.
    pub fn note(&mut self, line: String) {
        if !self.notes.contains(&line) {
            self.notes.push(line);
        }
    }

    pub fn add_failure(&mut self, workload: Workload, system: &str, error: &anyhow::Error) {
        self.ours_failed |= system == OURS;
        self.failures.push(format!("{workload}, {system}: {error:#}"));
    }

    /// One line a number: the median and, where this program was measured, too,
    /// how many times worse than ours it is.
    pub fn table(&self) -> String {
        let mut text: String = self.notes.iter().map(|note| format!("{note}\n")).collect();
        if self.rows.iter().all(|row| !row.values.contains_key(OURS)) {
            text += &format!("{OURS} was not measured, so there are no ratios to it\n");
        }
        for row in &self.rows {
            let Measure { name, unit, smaller_is_better, .. } = &row.measure;
            let ours = row.values.get(OURS).map(|values| median(values));
            // Writing to a string does not fail.
            let _ = writeln!(text, "\n{}, {name} ({unit})", row.workload);
            for (system, values) in &row.values {
                let value = median(values);
                let times =
                    ours.map(|ours| if *smaller_is_better { value / ours } else { ours / value });
                let ratio = match times {
                    Some(times) if system != OURS => format!("{times:8.2} times ours"),
                    _ => String::new(),
                };
                let _ = writeln!(text, "  {system:<12} {value:>12.2} {ratio}");
            }
        }
        for failure in &self.failures {
            let _ = writeln!(text, "\nFAILED {failure}");
        }
        text
    }

    /// A peer that fails is a line in the table; this program must not.
    pub fn verdict(&self) -> Result<()> {
        if self.ours_failed {
            bail!("{OURS} failed a measurement");
        }
        Ok(())
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_say_how_many_times_worse() {
        let mut report = Report::default();
        report.add(Workload::Bulk, OURS, vec![Measure::larger("speed", "MB/s", 400.0)]);
        report.add(Workload::Bulk, "other", vec![Measure::larger("speed", "MB/s", 100.0)]);
        report.add(Workload::Latency, OURS, vec![Measure::smaller("median", "ms", 5.0)]);
        report.add(Workload::Latency, "other", vec![Measure::smaller("median", "ms", 50.0)]);
        let table = report.table();
        assert!(table.contains("4.00 times ours") && table.contains("10.00 times ours"), "{table}");
        assert!(report.verdict().is_ok());
    }

    #[test]
    fn what_the_numbers_depend_on_stands_above_them() {
        let mut report = Report::default();
        for _ in 0..2 {
            report.note("replicator captures at the level inotify".into());
            report.add(Workload::Bulk, OURS, vec![Measure::larger("speed", "MB/s", 400.0)]);
        }
        let table = report.table();
        assert!(table.starts_with("replicator captures at the level inotify\n\nbulk"), "{table}");
    }

    #[test]
    fn another_system_alone_has_figures_and_no_ratio() {
        let mut report = Report::default();
        report.add(Workload::Bulk, "rsync", vec![Measure::larger("speed", "MB/s", 400.0)]);
        let table = report.table();
        assert!(table.starts_with("replicator was not measured, so there are no ratios"));
        assert!(table.contains("400.00") && !table.contains("times ours"), "{table}");
    }

    #[test]
    fn our_failure_is_the_verdict() {
        let mut report = Report::default();
        report.add_failure(Workload::Edit, "other", &anyhow::anyhow!("the trees differ"));
        assert!(report.table().contains("FAILED edit, other: the trees differ"));
        assert!(report.verdict().is_ok());
        report.add_failure(Workload::Edit, OURS, &anyhow::anyhow!("the trees differ"));
        assert!(report.verdict().is_err());
    }
}
