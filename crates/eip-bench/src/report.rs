//! What is told: tables for people on stdout, and a line of JSON per run for the record.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;

/// What was measured and what it should be.
#[derive(Debug)]
pub(crate) struct Table {
    title: String,
    rows: Vec<[String; 4]>,
}

impl Table {
    pub(crate) fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), rows: Vec::new() }
    }

    /// A figure that has no target.
    pub(crate) fn tell(&mut self, what: impl Into<String>, figure: impl Into<String>) {
        self.rows.push([what.into(), figure.into(), String::new(), String::new()]);
    }

    /// A figure, what it should be, and whether it is.
    pub(crate) fn judge(
        &mut self,
        what: impl Into<String>,
        figure: impl Into<String>,
        target: Target,
    ) {
        let met = if target.met { "yes" } else { "NO" };
        self.rows.push([what.into(), figure.into(), target.text, met.to_owned()]);
    }

    fn render(&self) -> String {
        let head = ["what", "figure", "target", "met"].map(str::to_owned);
        let width = |column: usize| {
            let cells = self.rows.iter().chain([&head]).map(|row| row[column].chars().count());
            cells.max().unwrap_or(0)
        };
        let widths = [width(0), width(1), width(2), width(3)];
        let line = |row: &[String; 4]| {
            let [what, figure, target, met] = row;
            let [a, b, c, d] = widths;
            format!("| {what:<a$} | {figure:>b$} | {target:>c$} | {met:<d$} |\n")
        };
        let [a, b, c, d] = widths.map(|width| "-".repeat(width));
        let mut text = format!("\n## {}\n\n", self.title);
        text += &line(&head);
        text += &format!("| {a} | {b} | {c} | {d} |\n");
        text.extend(self.rows.iter().map(line));
        text
    }
}

/// What a figure should be, and whether it is.
#[derive(Debug)]
pub(crate) struct Target {
    text: String,
    met: bool,
}

impl Target {
    pub(crate) fn at_least(measured: f64, wanted: f64, unit: &str) -> Self {
        Self { text: format!(">= {wanted}{unit}"), met: measured >= wanted }
    }

    pub(crate) fn at_most(measured: f64, wanted: f64, unit: &str) -> Self {
        Self { text: format!("<= {wanted}{unit}"), met: measured <= wanted }
    }

    /// For times that are better told by [`time`].
    pub(crate) fn within(measured: f64, wanted: f64) -> Self {
        Self { text: format!("<= {}", time(wanted)), met: measured <= wanted }
    }

    pub(crate) fn exactly(measured: u64, wanted: u64) -> Self {
        Self { text: count(wanted), met: measured == wanted }
    }
}

/// Where the tables and the lines go.
#[derive(Debug)]
pub(crate) struct Output {
    lines: Option<File>,
}

impl Output {
    pub(crate) fn to(path: Option<&Path>) -> Result<Self> {
        let open = |path: &Path| {
            let file = File::options().create(true).append(true).open(path);
            file.with_context(|| format!("cannot write to {}", path.display()))
        };
        Ok(Self { lines: path.map(open).transpose()? })
    }

    pub(crate) fn line(&mut self, value: &Value) -> Result<()> {
        match &mut self.lines {
            Some(file) => writeln!(file, "{value}").context("cannot write what a run came to"),
            None => Ok(()),
        }
    }
}

pub(crate) fn print(table: &Table) -> Result<()> {
    say(&table.render())
}

/// Writes to stdout, at once: a reader of a pipe sees each table when it is there.
pub(crate) fn say(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush().context("cannot write to stdout")
}

/// Tells what is being done, beside the tables.
pub(crate) fn progress(text: &str) {
    // Whoever closed stderr does not want to know.
    writeln!(std::io::stderr(), "eip-bench: {text}").ok();
}

/// A rate, or another count of much: `12,345`.
pub(crate) fn whole(number: f64) -> String {
    let digits = format!("{:.0}", number.abs());
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

pub(crate) fn count(number: u64) -> String {
    whole(number as f64)
}

/// A time given in microseconds.
pub(crate) fn time(micros: f64) -> String {
    if micros < 1_000.0 {
        format!("{micros:.0} us")
    } else if micros < 1_000_000.0 {
        format!("{:.2} ms", micros / 1_000.0)
    } else {
        format!("{:.2} s", micros / 1_000_000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_told_as_people_read_them() {
        assert_eq!([whole(7.4), whole(999.6), whole(1_234_567.0)], ["7", "1,000", "1,234,567"]);
        assert_eq!(
            [time(999.0), time(1_250.0), time(2_500_000.0)],
            ["999 us", "1.25 ms", "2.50 s"]
        );
    }

    #[test]
    fn a_table_says_which_targets_are_missed() {
        let mut table = Table::new("allocate");
        table.tell("rate", "12,345 /s");
        table.judge("ratio", "1.50", Target::at_least(1.5, 1.6, " P"));
        table.judge("p99", "1.00 ms", Target::within(1_000.0, 2_000.0));
        let expected = "
## allocate

| what  |    figure |     target | met |
| ----- | --------- | ---------- | --- |
| rate  | 12,345 /s |            |     |
| ratio |      1.50 |   >= 1.6 P | NO  |
| p99   |   1.00 ms | <= 2.00 ms | yes |
";
        assert_eq!(table.render(), expected);
    }
}
