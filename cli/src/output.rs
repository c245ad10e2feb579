//! Printing: tables for people, JSON for programs, colours only where a terminal shows them.
//!
//! Invariants:
//! - Without a terminal, or with `NO_COLOR`, no escape sequence is printed.
//! - JSON never loses a byte: what is not UTF-8 stands base64-encoded in a field named `…_base64`.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;
use serde_json::{Map, Value as Json};

use crate::failure::Failure;

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For programs: one JSON document, or one a line where results go on and on.
    Json,
}

/// A colour or weight of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Headers and names of directories.
    Bold,
    /// What matters less.
    Dim,
    /// What came.
    Green,
    /// What went, or is wrong.
    Red,
}

/// Colours text, or leaves it alone.
#[derive(Debug, Clone, Copy)]
pub struct Paint {
    enabled: bool,
}

impl Paint {
    /// Colours if `stream` is a terminal and nobody objects (<https://no-color.org>).
    pub fn for_stream(stream: &impl IsTerminal) -> Self {
        let objected = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        Self { enabled: stream.is_terminal() && !objected && !dumb }
    }

    /// `text` in `style`.
    pub fn paint(self, style: Style, text: &str) -> String {
        if !self.enabled || text.is_empty() {
            return text.to_owned();
        }
        let code = match style {
            Style::Bold => "1",
            Style::Dim => "2",
            Style::Green => "32",
            Style::Red => "31",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// Where results go.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    /// Chosen with `--output`.
    pub format: Format,
    /// For stdout.
    pub paint: Paint,
}

impl Output {
    /// Prints to stdout as `format`.
    pub fn new(format: Format) -> Self {
        Self { format, paint: Paint::for_stream(&io::stdout()) }
    }

    /// Whether programs read it.
    pub fn is_json(self) -> bool {
        self.format == Format::Json
    }

    /// One line.
    #[expect(clippy::unused_self, reason = "all printing goes through Output")]
    pub fn line(self, text: &str) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{text}")?;
        Ok(stdout.flush()?)
    }

    /// Bytes as they are; on a terminal the line is ended, so that the prompt stands on its own.
    #[expect(clippy::unused_self, reason = "all printing goes through Output")]
    pub fn raw(self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes)?;
        if stdout.is_terminal() && !bytes.ends_with(b"\n") {
            stdout.write_all(b"\n")?;
        }
        Ok(stdout.flush()?)
    }

    /// A JSON document, indented.
    pub fn json(self, document: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(document).map_err(|error| Failure::Failed(error.to_string()))?;
        self.line(&text)
    }

    /// A JSON document on one line, for streams.
    pub fn json_line(self, document: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string(document).map_err(|error| Failure::Failed(error.to_string()))?;
        self.line(&text)
    }

    /// The text for people, or the document for programs.
    pub fn either(self, text: impl FnOnce() -> String, document: impl FnOnce() -> Json) -> Result<(), Failure> {
        match self.format {
            Format::Table => self.line(&text()),
            Format::Json => self.json(&document()),
        }
    }

    /// A table with headers.
    pub fn table(self, headers: &[&str], rows: &[Vec<String>]) -> Result<(), Failure> {
        let text = render_table(headers, rows);
        let (head, body) = text.split_once('\n').unwrap_or((&text, ""));
        self.line(&self.paint.paint(Style::Bold, head))?;
        if body.is_empty() { Ok(()) } else { self.line(body) }
    }
}

/// Columns as wide as their widest cell, two spaces between; columns of numbers are aligned to the right.
fn render_table(headers: &[&str], rows: &[Vec<String>]) -> String {
    let cell = |row: &[String], column: usize| row.get(column).cloned().unwrap_or_default();
    let is_number = |column: usize| {
        let numeric = |text: &str| text.chars().all(|c| c.is_ascii_digit() || c == '-') && text.len() < 16;
        !rows.is_empty() && rows.iter().all(|row| numeric(&cell(row, column)))
    };
    let shape: Vec<(usize, bool)> = (0..headers.len())
        .map(|column| {
            let cells = rows.iter().map(|row| cell(row, column).chars().count());
            (cells.max().unwrap_or(0).max(headers[column].chars().count()), is_number(column))
        })
        .collect();
    let headers: Vec<String> = headers.iter().map(|header| (*header).to_owned()).collect();
    let mut lines = Vec::with_capacity(rows.len() + 1);
    for row in std::iter::once(&headers).chain(rows) {
        let mut line = String::new();
        for (column, (width, right)) in shape.iter().enumerate() {
            let text = cell(row, column);
            let gap = if column == 0 { "" } else { "  " };
            let _ = if *right { write!(line, "{gap}{text:>width$}") } else { write!(line, "{gap}{text:<width$}") };
        }
        lines.push(line.trim_end().to_owned());
    }
    lines.join("\n")
}

/// Adds `bytes` under `name`, or base64-encoded under `<name>_base64` when they are not UTF-8.
pub fn json_bytes(object: &mut Map<String, Json>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert(name.to_owned(), text.into()),
        Err(_) => object.insert(format!("{name}_base64"), BASE64.encode(bytes).into()),
    };
}

/// Bytes for one line on a terminal: text as it is, what would break the line or the terminal escaped.
pub fn printable(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        Ok(text) => text.escape_debug().to_string(),
        Err(_) => bytes.escape_ascii().to_string(),
    }
}

/// `1.5 MiB`.
pub fn byte_count(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let step = (bytes.ilog2() / 10).clamp(1, 4);
    let tenths = (u128::from(bytes) * 10) >> (10 * step);
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[step as usize - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_numbers_stand_right() {
        let rows = vec![vec!["n1".to_owned(), "5".to_owned()], vec!["node-2".to_owned(), "1234".to_owned()]];
        let expected = "NAME     REV\nn1         5\nnode-2  1234";
        assert_eq!(render_table(&["NAME", "REV"], &rows), expected);
    }

    #[test]
    fn a_table_without_rows_is_its_header() {
        assert_eq!(render_table(&["A", "B"], &[]), "A  B");
    }

    #[test]
    fn json_keeps_bytes_that_are_not_text() {
        let mut object = Map::new();
        json_bytes(&mut object, "value", "ä".as_bytes());
        json_bytes(&mut object, "other", &[0xff, 0x00]);
        assert_eq!(Json::Object(object), serde_json::json!({"value": "ä", "other_base64": "/wA="}));
    }

    #[test]
    fn nothing_breaks_the_line_or_the_terminal() {
        assert_eq!(printable("ä b".as_bytes()), "ä b");
        assert_eq!(printable(b"a\nb\x1b[2J"), "a\\nb\\u{1b}[2J");
        assert_eq!(printable(&[0xff]), "\\xff");
    }

    #[test]
    fn counts_of_bytes_have_one_digit_and_a_unit() {
        assert_eq!(byte_count(0), "0 B");
        assert_eq!(byte_count(1023), "1023 B");
        assert_eq!(byte_count(1536), "1.5 KiB");
        assert_eq!(byte_count(5 << 20), "5.0 MiB");
        assert_eq!(byte_count(u64::MAX), "16777215.9 TiB");
    }

    #[test]
    fn no_colours_without_a_terminal() {
        assert_eq!(Paint { enabled: false }.paint(Style::Red, "x"), "x");
        assert_eq!(Paint { enabled: true }.paint(Style::Red, "x"), "\x1b[31mx\x1b[0m");
    }
}
