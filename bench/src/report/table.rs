//! The table: one row a figure, etcd beside Quorate, with the targets.
//!
//! Invariants:
//! - It is Markdown whose columns also line up as plain text.

use crate::figures::{Figures, Row};
use crate::stage::Subject;
use crate::targets;

const HEAD: [&str; 9] = ["work", "figure", "etcd", "Quorate, etcd wire", "×", "Quorate, own client", "×", "target", ""];
/// The first columns are text, the others numbers.
const TEXT_COLUMNS: usize = 2;

/// The table and a line that counts the targets.
pub fn of(figures: &Figures) -> String {
    let mut lines = vec![HEAD.map(str::to_owned)];
    let (mut met, mut missed) = (0, 0);
    let mut work = "";
    for row in figures.rows() {
        let (target, verdict) = verdict(figures, row);
        met += verdict.matches("met").count();
        missed += verdict.matches("missed").count();
        let name = if row.work == work { String::new() } else { row.work.clone() };
        let value = |subject| row.median(subject).map_or("–".to_owned(), shown);
        let ratio = |subject| row.ratio(subject).map_or("–".to_owned(), |ratio| format!("{ratio:.2}"));
        lines.push([
            name,
            row.metric.label().to_owned(),
            value(Subject::Peer),
            value(Subject::QuorateEtcdWire),
            ratio(Subject::QuorateEtcdWire),
            value(Subject::QuorateNative),
            ratio(Subject::QuorateNative),
            target,
            verdict,
        ]);
        work = &row.work;
    }
    format!("{}\nTargets: {met} met, {missed} missed.\n", aligned(&lines))
}

/// The row's targets, and what became of them.
fn verdict(figures: &Figures, row: &Row) -> (String, String) {
    let mut bounds = Vec::new();
    let mut verdicts = Vec::new();
    for target in targets::of(&row.work, row.metric) {
        let subject = target.subject(figures);
        let own = if target.native { "own client " } else { "" };
        bounds.push(format!("{own}{}", target.bound.shown()));
        verdicts.push(match target.bound.is_met(figures, target, subject) {
            Some(true) => "met",
            Some(false) => "missed",
            None => "not measured",
        });
    }
    (bounds.join("; "), verdicts.join("; "))
}

/// Three digits are enough to compare by; thousands stand apart.
fn shown(value: f64) -> String {
    if value >= 1_000.0 {
        let whole = format!("{value:.0}");
        let head = whole.len() % 3;
        let groups = whole.as_bytes()[head..].chunks(3).map(|group| String::from_utf8_lossy(group).into_owned());
        let first = (head > 0).then(|| whole[..head].to_owned());
        return first.into_iter().chain(groups).collect::<Vec<_>>().join(" ");
    }
    match value {
        0.0 => "0".to_owned(),
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

fn aligned(lines: &[[String; HEAD.len()]]) -> String {
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0).max(3);
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        for (column, cell) in line.iter().enumerate() {
            let width = widths[column];
            let cell = if column < TEXT_COLUMNS { format!("{cell:<width$}") } else { format!("{cell:>width$}") };
            text.extend(["| ", &cell, " "]);
        }
        text.push_str("|\n");
        if number == 0 {
            for (column, width) in widths.iter().enumerate() {
                let dashes = "-".repeat(width + 1);
                text.extend(["|", &dashes, if column < TEXT_COLUMNS { "-" } else { ":" }]);
            }
            text.push_str("|\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::Metric;

    #[test]
    fn numbers_are_shown_with_what_matters() {
        let seen = [0.0, 0.123, 12.34, 123.4, 1_234.0, 12_345.0, 123_456.7, 1_234_567.0].map(shown);
        assert_eq!(seen, ["0", "0.12", "12.3", "123", "1 234", "12 345", "123 457", "1 234 567"]);
    }

    #[test]
    fn a_row_has_ratios_and_a_verdict() {
        let mut figures = Figures::default();
        for (subject, rate, cpu) in [
            (Subject::Peer, 8_000.0, 200.0),
            (Subject::QuorateEtcdWire, 20_000.0, 100.0),
            (Subject::QuorateNative, 40_000.0, 50.0),
        ] {
            figures.add("put-64", Metric::Rate, subject, rate);
            figures.add("put-64", Metric::Cpu, subject, cpu);
        }
        let table = of(&figures);
        let lines: Vec<String> = table.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(lines[2], "| put-64 | a second | 8 000 | 20 000 | 2.50 | 40 000 | 5.00 | ≥ 2× | met |");
        assert_eq!(lines[3], "| | server CPU, µs each | 200 | 100 | 0.50 | 50.0 | 0.25 | ≤ 0.38× | missed |");
        assert_eq!(lines.last().unwrap(), "Targets: 1 met, 1 missed.");
        let widths: Vec<_> = table.lines().take(4).map(|line| line.chars().count()).collect();
        assert!(widths.iter().all(|width| *width == widths[0]), "columns line up: {table}");
    }

    #[test]
    fn what_is_not_measured_is_neither_met_nor_missed() {
        let mut figures = Figures::default();
        figures.add("put-512", Metric::Rate, Subject::Peer, 1.0);
        let table = of(&figures);
        assert!(table.contains("not measured; not measured") && table.contains("0 met, 0 missed"), "{table}");
    }
}
