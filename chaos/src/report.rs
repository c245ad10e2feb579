//! The report on a run: one page of HTML that needs nothing else, and the same in a few lines of text.
//!
//! Invariants:
//! - Nothing that a cluster, a history or a user named can write markup.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use quorate_checkers::{Verdict, Violation};

use crate::chart::{Line, Mark, escape, lines, rows};
use crate::figures::{Figures, percentile};
use crate::load::Finished;
use crate::recorder::Fault;

/// What the report is about.
#[derive(Debug, Clone, Default)]
pub struct Subject {
    /// In one line.
    pub title: String,
    /// What was asked for: name and value.
    pub settings: Vec<(String, String)>,
}

/// The report on a run.
#[derive(Debug)]
pub struct Report {
    subject: Subject,
    figures: Figures,
    faults: Vec<Fault>,
    verdicts: Vec<(&'static str, Verdict)>,
    facts: Vec<(&'static str, usize)>,
    seconds: f64,
}

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:960px;margin:2em auto;padding:0 1em;color:#222}\
h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em}table{border-collapse:collapse}\
td,th{padding:.25em .8em;border-bottom:1px solid #ddd;text-align:left;vertical-align:top}\
.kept{color:#17713a}.broken{color:#b3261e;font-weight:bold}pre{white-space:pre-wrap;background:#f6f6f6;padding:.8em}\
svg{width:100%;height:auto}svg text{font-size:12px;fill:#555}svg polyline{fill:none;stroke-width:1.5}\
.grid{stroke:#e5e5e5}.fault{fill:#f4d9b0;opacity:.45}.span{fill:#d98d2b}";

impl Report {
    /// Checks the run's history; that may take a while.
    pub fn of(subject: Subject, finished: &Finished) -> Self {
        let history = &finished.history;
        let facts = vec![
            ("operations", history.operations.len()),
            ("changes of the store", history.log.as_ref().map_or(0, |log| log.changes.len())),
            ("watches", history.watches.len()),
            ("messages to watches", history.watches.iter().map(|watch| watch.told.len()).sum()),
            ("facts of leases", history.leases.len()),
            (
                "holds of locks, permits and leaderships",
                history.holds.iter().filter(|hold| hold.token.is_some()).count(),
            ),
            ("facts of elections", history.elections.len()),
            ("looks at directories", history.directories.len()),
            ("changes of leader seen", history.leaders.len().saturating_sub(2)),
        ];
        let figures = Figures::of(history);
        let seconds = (0_u32..).zip(&figures.seconds).last().map_or(1.0, |(last, _)| f64::from(last) + 1.0);
        let (faults, verdicts) = (finished.faults.clone(), finished.verdicts());
        Self { subject, figures, faults, verdicts, facts, seconds }
    }

    /// What was not kept.
    pub fn violations(&self) -> Vec<&Violation> {
        self.verdicts.iter().filter_map(|(_, verdict)| verdict.as_ref().err()).collect()
    }

    /// What each checker says.
    pub fn verdicts(&self) -> &[(&'static str, Verdict)] {
        &self.verdicts
    }

    /// The run in a line.
    pub fn summary(&self) -> String {
        let Figures { done, refused, unknown, latencies, .. } = &self.figures;
        let ms = |per_mille| milliseconds(percentile(latencies, per_mille));
        format!(
            "{done} operations answered, {refused} refused, {unknown} unknown; {} faults; latency p50 {:.1} ms, p99 {:.1} ms",
            self.faults.len(),
            ms(500),
            ms(990)
        )
    }

    /// As a page.
    pub fn html(&self) -> String {
        let title = escape(&self.subject.title);
        let mut page = format!(
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title><style>{STYLE}</style>\
             </head><body><h1>{title}</h1>"
        );
        let violations = self.violations().len();
        let verdict = if violations == 0 {
            "<p class=\"kept\">Every promise that was checked was kept.</p>".to_owned()
        } else {
            format!("<p class=\"broken\">{violations} promises were broken: see the verdicts.</p>")
        };
        // Writing to a text cannot fail.
        let _ = write!(page, "{verdict}<p>{}</p>", escape(&self.summary()));
        self.write_verdicts(&mut page);
        self.write_charts(&mut page);
        self.write_faults(&mut page);
        page.push_str("<h2>What was recorded</h2><table>");
        for (name, count) in &self.facts {
            let _ = write!(page, "<tr><td>{name}</td><td>{count}</td></tr>");
        }
        page.push_str("</table><h2>How it was run</h2><table>");
        for (name, value) in &self.subject.settings {
            let _ = write!(page, "<tr><td>{}</td><td>{}</td></tr>", escape(name), escape(value));
        }
        page.push_str("</table></body></html>\n");
        page
    }

    fn write_verdicts(&self, page: &mut String) {
        page.push_str("<h2>Verdicts</h2><table>");
        for (name, verdict) in &self.verdicts {
            let said = match verdict {
                Ok(()) => "<td class=\"kept\">kept</td><td></td>".to_owned(),
                Err(violation) => {
                    let (rule, text) = (escape(violation.rule), escape(&violation.text));
                    format!("<td class=\"broken\">broken</td><td>{rule}<pre>{text}</pre></td>")
                }
            };
            let _ = write!(page, "<tr><td>{}</td>{said}</tr>", escape(name));
        }
        page.push_str("</table>");
    }

    fn spans(&self) -> BTreeMap<&str, Vec<Mark>> {
        let mut spans: BTreeMap<&str, Vec<Mark>> = BTreeMap::new();
        for fault in &self.faults {
            let to = fault.to.map_or(self.seconds, seconds);
            spans.entry(&fault.name).or_default().push(Mark { from: seconds(fault.from), to });
        }
        spans
    }

    fn write_charts(&self, page: &mut String) {
        let marks: Vec<Mark> = self.spans().into_values().flatten().collect();
        let every = |of: fn(&crate::figures::Second) -> u64| -> Vec<f64> {
            self.figures.seconds.iter().map(|second| milliseconds(of(second))).collect()
        };
        let count = |of: fn(&crate::figures::Second) -> usize| -> Vec<f64> {
            let counts = self.figures.seconds.iter().map(|second| u32::try_from(of(second)).unwrap_or(u32::MAX));
            counts.map(f64::from).collect()
        };
        let throughput = [
            Line { name: "answered a second", colour: "#1f6fb2", values: count(|second| second.done) },
            Line { name: "refused or unknown", colour: "#b3261e", values: count(|second| second.failed) },
        ];
        let latency = [
            Line { name: "p50", colour: "#1f6fb2", values: every(|second| second.p50) },
            Line { name: "p99", colour: "#8a4fbf", values: every(|second| second.p99) },
            Line { name: "slowest", colour: "#b9b9b9", values: every(|second| second.max) },
        ];
        let _ = write!(page, "<h2>Throughput</h2>{}", lines("/s", &throughput, &marks, self.seconds));
        let _ = write!(page, "<h2>Latency of what was answered</h2>{}", lines("ms", &latency, &marks, self.seconds));
    }

    fn write_faults(&self, page: &mut String) {
        let rows_of: Vec<(String, Vec<Mark>)> =
            self.spans().into_iter().map(|(name, marks)| (name.to_owned(), marks)).collect();
        let _ = write!(page, "<h2>Faults</h2>{}<table>", rows(&rows_of, self.seconds));
        for fault in &self.faults {
            let to = fault.to.map_or_else(|| "never over".to_owned(), |to| format!("{:.2} s", seconds(to)));
            let (from, name) = (seconds(fault.from), escape(&fault.name));
            let _ = write!(page, "<tr><td>{from:.2} s</td><td>{to}</td><td>{name}</td></tr>");
        }
        page.push_str("</table>");
    }
}

#[expect(clippy::cast_precision_loss, reason = "it is for the eye")]
fn seconds(moment: u64) -> f64 {
    moment as f64 / 1e6
}

fn milliseconds(micros: u64) -> f64 {
    seconds(micros) * 1e3
}

#[cfg(test)]
mod tests {
    use quorate_checkers::Tolerance;
    use quorate_checkers::history::{Answer, History, Input, Operation, Outcome};

    use super::*;
    use crate::load::Endless;

    fn finished(broken: &[&str]) -> Finished {
        let operation = Operation {
            client: 1,
            request: None,
            invoked: 1,
            completed: 2_000,
            input: Input::get("/a"),
            outcome: Outcome::Done {
                revision: 1,
                answer: Answer::of(vec![quorate_checkers::history::Done::Read(vec![])]),
            },
        };
        Finished {
            history: History { operations: vec![operation], ..History::default() },
            faults: vec![Fault { name: "kill <n1>".to_owned(), from: 10, to: None }],
            broken: broken.iter().map(|text| (*text).to_owned()).collect(),
            given_up: Vec::new(),
            tolerance: Tolerance::default(),
            endless: None,
        }
    }

    /// Without a report nobody knew what had been done to the cluster before its members disagreed.
    #[test]
    fn a_run_without_an_end_has_a_report_that_says_why() {
        let endless = |is_asked| Endless { text: "n3 at 7".to_owned(), is_asked };
        for is_asked in [false, true] {
            let report =
                Report::of(Subject::default(), &Finished { endless: Some(endless(is_asked)), ..finished(&[]) });
            let page = report.html();
            assert!(page.contains("a healed cluster comes to an end") && page.contains("n3 at 7"), "{page}");
            assert!(page.contains("kill &lt;n1&gt;"), "the faults stand there");
            let judged = report.verdicts().iter().any(|(name, _)| *name == "linearizable");
            assert_eq!(judged, !is_asked, "what clients may have written still is no lie of the cluster");
            assert_eq!(report.violations().len(), 1);
        }
    }

    #[test]
    fn a_report_says_what_was_kept_and_stands_alone() {
        let report = Report::of(Subject { title: "chaos & co".to_owned(), settings: Vec::new() }, &finished(&[]));
        assert!(report.violations().is_empty());
        let page = report.html();
        assert!(page.contains("Every promise that was checked was kept.") && page.contains("chaos &amp; co"));
        assert!(page.contains("kill &lt;n1&gt;") && page.contains("never over"));
        assert!(!page.contains("<script") && !page.contains("http"), "it needs nothing from elsewhere");
    }

    #[test]
    fn a_report_shows_the_text_of_a_violation() {
        let report = Report::of(Subject::default(), &finished(&["a client was told: <boom>"]));
        assert_eq!(report.violations().len(), 1);
        let page = report.html();
        assert!(page.contains("1 promises were broken") && page.contains("told: &lt;boom&gt;"), "{page}");
    }
}
