//! Charts as inline SVG, which every browser shows without anything else.
//!
//! Invariants:
//! - What is drawn is within the picture, whatever the numbers are.

use std::fmt::Write as _;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 160.0;
const LEFT: f64 = 70.0;

/// A span of time that is marked behind the lines, in seconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    pub from: f64,
    pub to: f64,
}

/// One line of a chart: what it is, how it is drawn, one value a second.
pub(crate) struct Line {
    pub name: &'static str,
    pub colour: &'static str,
    pub values: Vec<f64>,
}

fn place(value: f64, most: f64) -> f64 {
    HEIGHT - (value / most).clamp(0.0, 1.0) * (HEIGHT - 20.0) - 10.0
}

fn time(at: f64, seconds: f64) -> f64 {
    LEFT + (at / seconds).clamp(0.0, 1.0) * (WIDTH - LEFT - 10.0)
}

fn marks(svg: &mut String, marks: &[Mark], seconds: f64) {
    for mark in marks {
        let (from, to) = (time(mark.from, seconds), time(mark.to, seconds));
        let width = (to - from).max(1.0);
        // Writing to a text cannot fail.
        let _ = write!(svg, "<rect class=\"fault\" x=\"{from:.1}\" y=\"0\" width=\"{width:.1}\" height=\"{HEIGHT}\"/>");
    }
}

/// Lines over seconds.
pub(crate) fn lines(unit: &str, lines: &[Line], faults: &[Mark], seconds: f64) -> String {
    let most = lines.iter().flat_map(|line| &line.values).copied().fold(1.0, f64::max);
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\">", HEIGHT + 30.0);
    marks(&mut svg, faults, seconds);
    for part in [0.0, 0.5, 1.0] {
        let y = place(part * most, most);
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{:.0} {unit}</text>",
            WIDTH - 10.0,
            LEFT - 6.0,
            y + 4.0,
            part * most
        );
    }
    for line in lines {
        let points: Vec<String> = (0_u32..)
            .zip(&line.values)
            .map(|(at, value)| format!("{:.1},{:.1}", time(f64::from(at) + 0.5, seconds), place(*value, most)))
            .collect();
        let _ = write!(svg, "<polyline stroke=\"{}\" points=\"{}\"/>", line.colour, points.join(" "));
    }
    for (at, line) in (0_u32..).zip(lines) {
        let x = LEFT + 150.0 * f64::from(at);
        let _ = write!(
            svg,
            "<text x=\"{x:.1}\" y=\"{}\" style=\"fill:{}\">— {}</text>",
            HEIGHT + 20.0,
            line.colour,
            line.name
        );
    }
    svg.push_str("</svg>");
    svg
}

/// Faults over seconds, one row each; names are shown by the table beside it.
pub(crate) fn rows(names: &[(String, Vec<Mark>)], seconds: f64) -> String {
    let height = 22.0 * f64::from(u32::try_from(names.len()).unwrap_or(u32::MAX)).max(1.0);
    let left = 220.0;
    let at = |second: f64| left + (second / seconds).clamp(0.0, 1.0) * (WIDTH - left - 10.0);
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\">", height + 4.0);
    for (row, (name, spans)) in (0_u32..).zip(names) {
        let y = 22.0 * f64::from(row);
        let _ =
            write!(svg, "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>", left - 8.0, y + 15.0, escape(name));
        let _ = write!(svg, "<line class=\"grid\" x1=\"{left}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>", WIDTH - 10.0);
        for span in spans {
            let (from, to) = (at(span.from), at(span.to));
            let width = (to - from).max(2.0);
            let _ = write!(
                svg,
                "<rect class=\"span\" x=\"{from:.1}\" y=\"{}\" width=\"{width:.1}\" height=\"16\"><title>{}: {:.2} s to \
                 {:.2} s</title></rect>",
                y + 3.0,
                escape(name),
                span.from,
                span.to
            );
        }
    }
    svg.push_str("</svg>");
    svg
}

/// Text as HTML has it.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_stays_within_its_picture() {
        let line = Line { name: "p99", colour: "red", values: vec![0.0, 1e9, 3.0] };
        let svg = lines("ms", &[line], &[Mark { from: -5.0, to: 1e6 }], 3.0);
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>") && !svg.contains("NaN"), "{svg}");
        assert!(svg.contains("width=\"820.0\""), "{svg}");
    }

    #[test]
    fn names_cannot_write_markup() {
        assert!(rows(&[("<b>".to_owned(), Vec::new())], 1.0).contains("&lt;b&gt;"));
    }
}
