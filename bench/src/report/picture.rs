//! The picture: rate and server CPU of each work as multiples of etcd's, with the targets marked.
//!
//! Invariants:
//! - It is plain SVG of rectangles, lines and text; it names no font file and loads nothing.
//! - A bar that is longer than its panel ends in its number, so no value is hidden.

use crate::figures::{Figures, Metric, Row, float};
use crate::stage::Subject;
use crate::targets::{self, Bound};

const WIDTH: f64 = 960.0;
const LABELS: f64 = 170.0;
const PANEL: f64 = 330.0;
const GAP: f64 = 60.0;
const TOP: f64 = 84.0;
const LINE: f64 = 34.0;
const BAR: f64 = 11.0;

struct Panel {
    metric: Metric,
    title: &'static str,
    left: f64,
    /// The multiple at its right end.
    most: f64,
}

const PANELS: [Panel; 2] = [
    Panel { metric: Metric::Rate, title: "operations a second, × etcd", left: LABELS, most: 8.0 },
    Panel { metric: Metric::Cpu, title: "server CPU an operation, × etcd", left: LABELS + PANEL + GAP, most: 1.2 },
];

const BARS: [(Subject, &str, &str); 2] = [
    (Subject::QuorateEtcdWire, "#2f6db5", "Quorate, same client on etcd's wire"),
    (Subject::QuorateNative, "#e08a1e", "Quorate, own client"),
];

/// The picture of these figures.
pub fn of(figures: &Figures, title: &str) -> String {
    let works: Vec<&Row> = figures.rows().iter().filter(|row| row.metric == Metric::Rate).collect();
    let height = TOP + LINE * float(works.len() as u64) + 16.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    svg += &text(12.0, 20.0, "start", &format!("<tspan font-weight=\"bold\">{}</tspan>", escaped(title)));
    let mut left = 12.0;
    for (_, colour, label) in BARS {
        svg += &rect(left, 30.0, BAR, BAR, colour);
        svg += &text(left + 16.0, 40.0, "start", label);
        left += 250.0;
    }
    svg += &text(left, 40.0, "start", "<tspan fill=\"#c0392b\">|</tspan> target");
    for panel in &PANELS {
        svg += &frame(panel, height - 16.0);
    }
    for (number, row) in works.iter().enumerate() {
        let top = TOP + LINE * float(number as u64);
        svg += &text(LABELS - 10.0, top + LINE / 2.0 + 4.0, "end", &escaped(&row.work));
        for panel in &PANELS {
            svg += &bars(figures, &row.work, panel, top);
        }
    }
    svg + "</svg>\n"
}

/// Title and the line at etcd's own value.
fn frame(panel: &Panel, bottom: f64) -> String {
    let one = panel.left + PANEL / panel.most;
    text(panel.left, TOP - 22.0, "start", panel.title)
        + &line(panel.left, TOP - 4.0, bottom, "#888888", 1.0)
        + &line(one, TOP - 4.0, bottom, "#bbbbbb", 1.0)
        + &text(one, TOP - 8.0, "middle", "<tspan font-size=\"9\" fill=\"#888888\">1</tspan>")
}

/// One work's bars in one panel, and its target.
fn bars(figures: &Figures, work: &str, panel: &Panel, top: f64) -> String {
    let mut svg = String::new();
    let length = |times: f64| PANEL * (times / panel.most).min(1.0);
    let Some(row) = figures.row(work, panel.metric) else { return svg };
    for (number, (subject, colour, _)) in BARS.iter().enumerate() {
        let Some(times) = row.ratio(*subject) else { continue };
        let y = top + 5.0 + float(number as u64) * (BAR + 1.0);
        svg += &rect(panel.left, y, length(times), BAR, colour);
        svg += &text(panel.left + length(times) + 4.0, y + BAR - 2.0, "start", &format!("{times:.2}"));
    }
    for target in targets::of(work, panel.metric) {
        if let Bound::TimesAtLeast(times) | Bound::TimesAtMost(times) = target.bound {
            svg += &line(panel.left + length(times), top + 3.0, top + LINE - 4.0, "#c0392b", 2.0);
        }
    }
    svg
}

fn text(x: f64, y: f64, anchor: &str, content: &str) -> String {
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"#222222\">{content}</text>\n")
}

fn rect(x: f64, y: f64, width: f64, height: f64, colour: &str) -> String {
    format!("<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>\n")
}

fn line(x: f64, top: f64, bottom: f64, colour: &str, width: f64) -> String {
    format!(
        "<line x1=\"{x:.1}\" y1=\"{top:.1}\" x2=\"{x:.1}\" y2=\"{bottom:.1}\" stroke=\"{colour}\" \
         stroke-width=\"{width}\"/>\n"
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures() -> Figures {
        let mut figures = Figures::default();
        for (subject, rate, cpu) in [(Subject::Peer, 100.0, 10.0), (Subject::QuorateNative, 1_600.0, 3.0)] {
            figures.add("put-64", Metric::Rate, subject, rate);
            figures.add("put-64", Metric::Cpu, subject, cpu);
        }
        figures
    }

    #[test]
    fn bars_are_as_long_as_their_ratios_and_end_at_the_panel() {
        let svg = of(&figures(), "a < b & c");
        let cpu = PANEL * 0.3 / 1.2;
        assert!(svg.contains(&format!("width=\"{PANEL:.1}\" height=\"{BAR:.1}\"")), "16× fills the panel: {svg}");
        assert!(svg.contains(">16.00</text>"), "and its number is there");
        assert!(svg.contains(&format!("width=\"{cpu:.1}\" height=\"{BAR:.1}\"")), "{svg}");
        assert!(svg.contains("a &lt; b &amp; c"));
    }

    #[test]
    fn every_element_is_closed() {
        let svg = of(&figures(), "x");
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        for line in svg.lines().skip(1).filter(|line| *line != "</svg>") {
            assert!(line.ends_with("/>") || line.ends_with("</text>"), "{line}");
        }
        let targets = svg.matches("stroke=\"#c0392b\"").count();
        assert_eq!(targets, 2, "put-64 has a target in each panel");
    }
}
