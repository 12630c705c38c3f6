//! Figures as a table for people or as JSON for programs.

use std::io::{self, Write};
use std::time::Duration;

use serde_json::{Value, json};

use super::stopwatch::Outcome;

/// Rows of text, columns aligned: the first to the left, the others to the right.
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(header: &[&str]) -> Self {
        let header = header.iter().map(|cell| (*cell).to_owned()).collect();
        Self { rows: vec![header] }
    }

    pub(super) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Writes the table to stdout.
    pub(super) fn print(&self) -> io::Result<()> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut out = io::stdout().lock();
        for row in &self.rows {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                if column == 0 {
                    line.push_str(&format!("{cell:<width$}"));
                } else {
                    line.push_str(&format!("  {cell:>width$}"));
                }
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        out.flush()
    }
}

/// Writes one JSON document to stdout.
pub(super) fn print_json(value: &Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{value:#}")?;
    out.flush()
}

/// One outcome: a table of one row, or a JSON object with the same figures.
pub(super) fn print_outcome(
    what: &str,
    unit: &str,
    outcome: &Outcome,
    as_json: bool,
) -> io::Result<()> {
    if as_json {
        return print_json(&outcome_json(outcome));
    }
    let rate = format!("{unit}/s");
    let cpu = format!("router CPU µs/{}", unit.trim_end_matches('s'));
    let mut header = vec!["", rate.as_str(), "p50", "p99", "max"];
    let latency = &outcome.latency;
    let mut cells = vec![
        what.to_owned(),
        number(outcome.rate()),
        duration(latency.quantile(0.5)),
        duration(latency.quantile(0.99)),
        duration(latency.max()),
    ];
    if let Some(micros) = outcome.cpu_micros() {
        header.push(&cpu);
        cells.push(format!("{micros:.2}"));
    }
    let mut table = Table::new(&header);
    table.row(cells);
    table.print()
}

/// The figures of one outcome.
pub(super) fn outcome_json(outcome: &Outcome) -> Value {
    let micros = |duration: Duration| duration.as_secs_f64() * 1e6;
    json!({
        "count": outcome.count,
        "seconds": outcome.elapsed.as_secs_f64(),
        "per_second": outcome.rate(),
        "p50_us": micros(outcome.latency.quantile(0.5)),
        "p99_us": micros(outcome.latency.quantile(0.99)),
        "max_us": micros(outcome.latency.max()),
        "cpu_us": outcome.cpu_micros(),
        "cpu_with_client_us": outcome.total_cpu_micros(),
    })
}

/// A rate with thousands set apart.
pub(super) fn number(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A duration in the unit that reads best.
pub(super) fn duration(value: Duration) -> String {
    let micros = value.as_secs_f64() * 1e6;
    if micros < 1000.0 {
        format!("{micros:.1} µs")
    } else if micros < 1e6 {
        format!("{:.2} ms", micros / 1e3)
    } else {
        format!("{:.2} s", micros / 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_durations_read_well() {
        assert_eq!(number(999.4), "999");
        assert_eq!(number(1_234_567.0), "1,234,567");
        assert_eq!(duration(Duration::from_nanos(15_250)), "15.2 µs");
        assert_eq!(duration(Duration::from_micros(2_500)), "2.50 ms");
        assert_eq!(duration(Duration::from_millis(3_000)), "3.00 s");
    }
}
