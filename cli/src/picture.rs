//! A tree drawn with lines.
//!
//! ```text
//! /config
//! ├── db/
//! │   ├── pool = 20
//! │   └── url = postgres://db
//! └── name = demo
//! ```
//!
//! Invariants:
//! - Children stand in byte order of their names, whatever the order in which keys came: in byte order of whole keys
//!   `/a-b` stands between `/a` and `/a/b`.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

use crate::output::{Paint, Style, json_bytes, printable};
use crate::render::short_value;

/// A place in the tree.
#[derive(Debug, Default)]
pub struct Node {
    /// Value, when a key stands here and values were asked for.
    value: Option<bytes::Bytes>,
    is_key: bool,
    children: BTreeMap<String, Node>,
}

/// What a picture shows.
#[derive(Debug, Clone, Copy)]
pub struct Shown {
    /// At most so many levels.
    pub depth: usize,
    /// With values.
    pub values: bool,
    /// Colours.
    pub paint: Paint,
}

impl Node {
    /// Adds the key `directory`/`rest`. What is not a path (an empty segment, not UTF-8) has no place and is left out.
    pub fn insert(&mut self, rest: &[u8], value: bytes::Bytes) {
        let Ok(rest) = std::str::from_utf8(rest) else { return };
        if rest.split('/').any(str::is_empty) {
            return;
        }
        let node = rest.split('/').fold(self, |node, name| node.children.entry(name.to_owned()).or_default());
        node.is_key = true;
        node.value = Some(value);
    }

    /// Whether nothing stands below.
    pub fn is_empty(&self) -> bool {
        self.children.is_empty()
    }

    /// Directories and keys below.
    pub fn count(&self) -> (usize, usize) {
        self.children.values().fold((0, 0), |(directories, keys), child| {
            let (below_directories, below_keys) = child.count();
            let directory = usize::from(!child.children.is_empty());
            (directories + below_directories + directory, keys + below_keys + usize::from(child.is_key))
        })
    }

    /// The lines of the picture, without the root's own.
    pub fn lines(&self, shown: Shown) -> Vec<String> {
        let mut lines = Vec::new();
        self.draw("", shown.depth, shown, &mut lines);
        lines
    }

    fn draw(&self, indent: &str, levels: usize, shown: Shown, lines: &mut Vec<String>) {
        if levels == 0 {
            return;
        }
        let mut children = self.children.iter().peekable();
        while let Some((name, child)) = children.next() {
            let last = children.peek().is_none();
            let branch = if last { "└── " } else { "├── " };
            lines.push(format!("{indent}{branch}{}", child.label(name, shown)));
            let below = format!("{indent}{}", if last { "    " } else { "│   " });
            child.draw(&below, levels - 1, shown, lines);
        }
    }

    fn label(&self, name: &str, shown: Shown) -> String {
        let mut label = printable(name.as_bytes());
        if !self.children.is_empty() {
            label = shown.paint.paint(Style::Bold, &format!("{label}/"));
        }
        match &self.value {
            Some(value) if shown.values && self.is_key => format!("{label} = {}", short_value(value)),
            _ => label,
        }
    }

    /// The same as nested JSON.
    pub fn json(&self, name: &str, levels: usize, values: bool) -> Json {
        let mut object = Map::new();
        object.insert("name".to_owned(), json!(name));
        object.insert("is_key".to_owned(), json!(self.is_key));
        object.insert("is_directory".to_owned(), json!(!self.children.is_empty()));
        if let Some(value) = self.value.as_ref().filter(|_| values && self.is_key) {
            json_bytes(&mut object, "value", value);
        }
        if levels > 0 && !self.children.is_empty() {
            let children = self.children.iter().map(|(name, child)| child.json(name, levels - 1, values));
            object.insert("children".to_owned(), children.collect());
        }
        Json::Object(object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{Format, Output};

    fn sample() -> Node {
        let mut root = Node::default();
        for (key, value) in [("a", "1"), ("a-b", "2"), ("a/b", "3"), ("c/d/e", "4"), ("bad//x", "5")] {
            root.insert(key.as_bytes(), value.into());
        }
        root.insert(b"\xff", "6".into());
        root
    }

    fn shown(depth: usize, values: bool) -> Shown {
        // A test's stdout is no terminal, so there are no colours.
        Shown { depth, values, paint: Output::new(Format::Table).paint }
    }

    #[test]
    fn children_stand_below_their_parent_whatever_the_order_of_keys() {
        let expected = ["├── a/ = 1", "│   └── b = 3", "├── a-b = 2", "└── c/", "    └── d/", "        └── e = 4"];
        assert_eq!(sample().lines(shown(9, true)), expected);
    }

    #[test]
    fn depth_and_values_are_a_choice() {
        assert_eq!(sample().lines(shown(1, false)), ["├── a/", "├── a-b", "└── c/"]);
    }

    #[test]
    fn directories_and_keys_are_counted() {
        assert_eq!(sample().count(), (3, 4));
        assert!(Node::default().is_empty());
    }

    #[test]
    fn the_same_as_json() {
        let json = sample().json("/", 1, true);
        assert_eq!(json["children"][0]["value"], "1");
        assert_eq!(json["children"][2]["is_directory"], true);
        assert!(json["children"][2].get("children").is_none());
    }
}
