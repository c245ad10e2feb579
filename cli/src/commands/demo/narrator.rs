//! What the demo says, with the time since it began.
//!
//! Invariants:
//! - Each line is printed when it happens, not at the end.

use std::time::{Duration, Instant};

use crate::failure::Failure;
use crate::output::{Output, Style};

/// Tells the story.
#[derive(Clone, Copy)]
pub struct Narrator {
    began: Instant,
    output: Output,
}

impl Narrator {
    /// Time starts now.
    pub fn new(output: Output) -> Self {
        Self { began: Instant::now(), output }
    }

    /// Where it goes.
    pub fn output(self) -> Output {
        self.output
    }

    /// A new chapter.
    pub fn chapter(self, title: &str) -> Result<(), Failure> {
        if self.output.is_json() {
            return self.json("chapter", title);
        }
        self.output.line("")?;
        self.output.line(&self.output.paint.paint(Style::Bold, &format!("{}  {title}", self.elapsed())))
    }

    /// Something that happened.
    pub fn say(self, text: &str) -> Result<(), Failure> {
        if self.output.is_json() { self.json("event", text) } else { self.line("", text) }
    }

    /// A claim that was checked and holds.
    pub fn proved(self, text: &str) -> Result<(), Failure> {
        if self.output.is_json() {
            return self.json("checked", text);
        }
        self.line(&self.output.paint.paint(Style::Green, "✓ "), text)
    }

    /// Something seen by the watch.
    pub fn watched(self, text: &str) -> Result<(), Failure> {
        if self.output.is_json() {
            return self.json("watch", text);
        }
        self.line(&self.output.paint.paint(Style::Dim, "watch │ "), text)
    }

    /// Lines of a picture, as they are.
    pub fn picture(self, text: &str) -> Result<(), Failure> {
        if self.output.is_json() {
            return self.json("picture", text);
        }
        text.lines().try_for_each(|line| self.output.line(&format!("{:10}{line}", "")))
    }

    fn line(self, mark: &str, text: &str) -> Result<(), Failure> {
        self.output.line(&format!("{}  {mark}{text}", self.output.paint.paint(Style::Dim, &self.elapsed())))
    }

    fn json(self, kind: &str, text: &str) -> Result<(), Failure> {
        let elapsed_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.output.json_line(&serde_json::json!({"elapsed_ms": elapsed_ms, "kind": kind, "text": text}))
    }

    fn elapsed(self) -> String {
        format!("{:6.2} s", self.began.elapsed().as_secs_f64())
    }
}

/// `731 ms`, `2.50 s`.
pub fn spoken(duration: Duration) -> String {
    match duration.as_millis() {
        ms @ 0..2000 => format!("{ms} ms"),
        _ => format!("{:.2} s", duration.as_secs_f64()),
    }
}
