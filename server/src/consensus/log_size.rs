//! How many bytes of log lie between two indexes, about: a mark now and then instead of one for each entry.
//!
//! Invariants:
//! - Marks grow in index and in bytes, and are at most one for `MARK_BYTES` or `MARK_ENTRIES`.

use std::collections::VecDeque;

const MARK_BYTES: u64 = 256 << 10;
const MARK_ENTRIES: u64 = 64;
const ESTIMATED_MARKS: u64 = 64;

/// Running total of appended bytes, with marks.
#[derive(Debug, Default)]
pub struct LogSize {
    /// (index, bytes of all entries up to and including it).
    marks: VecDeque<(u64, u64)>,
    total: u64,
    purged: u64,
}

impl LogSize {
    /// For a log `[first, next)` of about `bytes`, whose entries are not looked at.
    pub fn estimated(first: u64, next: u64, bytes: u64) -> Self {
        let entries = next - first;
        let marks = entries.min(ESTIMATED_MARKS);
        let marks = (1..=marks).map(|n| (first + entries * n / marks - 1, bytes / marks * n)).collect();
        Self { marks, total: if entries == 0 { 0 } else { bytes }, purged: 0 }
    }

    /// An entry was added.
    pub fn appended(&mut self, index: u64, bytes: u64) {
        self.total += bytes;
        let due = |(at, before): &(u64, u64)| self.total - before >= MARK_BYTES || index - at >= MARK_ENTRIES;
        if self.marks.back().is_none_or(due) {
            self.marks.push_back((index, self.total));
        }
    }

    /// Entries from `next` on are gone.
    pub fn truncated(&mut self, next: u64) {
        while self.marks.back().is_some_and(|(index, _)| *index >= next) {
            self.marks.pop_back();
        }
        self.total = self.marks.back().map_or(self.purged, |(_, bytes)| *bytes);
    }

    /// Entries up to `index` are gone.
    pub fn purged(&mut self, index: u64) {
        while let Some((_, bytes)) = self.marks.pop_front_if(|(mark, _)| *mark <= index) {
            self.purged = bytes;
        }
        if self.marks.is_empty() {
            self.purged = self.total;
        }
    }

    /// Bytes of all entries.
    pub fn live_bytes(&self) -> u64 {
        self.total - self.purged
    }

    /// Bytes of the entries after `index`.
    pub fn bytes_after(&self, index: Option<u64>) -> u64 {
        let Some(index) = index else { return self.live_bytes() };
        let at = self.marks.partition_point(|(mark, _)| *mark <= index);
        let upto = at.checked_sub(1).and_then(|before| self.marks.get(before)).map_or(self.purged, |(_, bytes)| *bytes);
        self.total - upto
    }

    /// The highest marked index that has at least so many bytes after it.
    pub fn index_with_bytes_after(&self, bytes: u64) -> Option<u64> {
        let at = self.marks.partition_point(|(_, upto)| self.total - upto >= bytes);
        at.checked_sub(1).and_then(|before| self.marks.get(before)).map(|(index, _)| *index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_between_indexes_are_known_to_a_mebibyte() {
        let mut size = LogSize::default();
        for index in 0..100 {
            size.appended(index, 512 << 10);
        }
        assert_eq!(size.live_bytes(), 50 << 20);
        assert!((9 << 20..=11 << 20).contains(&size.bytes_after(Some(79))));
        let keeps = size.index_with_bytes_after(10 << 20).unwrap();
        assert!((76..=79).contains(&keeps), "{keeps}");
        size.purged(keeps);
        assert!((10 << 20..=12 << 20).contains(&size.live_bytes()));
        assert_eq!(size.index_with_bytes_after(20 << 20), None);
        size.truncated(90);
        assert!((4 << 20..=6 << 20).contains(&size.live_bytes()));
    }

    #[test]
    fn an_estimate_spreads_the_bytes_evenly() {
        let size = LogSize::estimated(1000, 2000, 64 << 20);
        assert_eq!(size.live_bytes(), 64 << 20);
        let half = size.index_with_bytes_after(32 << 20).unwrap();
        assert!((1480..1520).contains(&half), "{half}");
        assert_eq!(LogSize::estimated(5, 5, 7 << 20).live_bytes(), 0);
    }
}
