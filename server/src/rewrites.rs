//! Which parts of a database to rewrite to get back the disk of what was deleted, and what that takes.
//!
//! Invariants:
//! - Parts are in order of keys, do not overlap, and have deletions that rewriting would carry out.
//! - What rewriting a part takes is never said too low: who goes by it must not fill the disk.

use std::collections::BTreeSet;

use rocksdb::LiveFile;

/// One deletion is hoped to remove as many bytes as so many entries have: large values lie beside small ones.
const HOPED_ENTRIES: u64 = 8;

/// A range of keys. Without a start from the first; without an end, which is exclusive, to the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    /// The first.
    pub start: Option<Vec<u8>>,
    /// The first after them.
    pub end: Option<Vec<u8>>,
}

/// A part of a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// To rewrite.
    pub keys: Keys,
    /// What is rewritten with them: tables are as a whole, and those of a level with all that they overlap below.
    pub affected: Keys,
    /// At most so much disk is taken before any is given back: what is in the tables, and `carried`.
    pub bytes: u64,
    /// At most so much of it is only on its way: tables go down level by level, and what one step wrote goes when the next
    /// is done.
    pub carried: u64,
    /// What it takes if deletions remove many bytes: a guess, to look closer or not.
    pub hoped_bytes: u64,
    /// Names of the tables with deletions.
    tables: BTreeSet<String>,
}

impl Keys {
    fn overlap(&self, file: &LiveFile) -> bool {
        self.end.as_ref().is_none_or(|end| file.start_key.as_ref() < Some(end))
            && self.start.as_ref().is_none_or(|start| file.end_key.as_ref() >= Some(start))
    }

    fn grow_by(&mut self, file: &LiveFile) {
        self.start = self.start.take().min(file.start_key.clone());
        if let (Some(end), Some(last)) = (&mut self.end, &file.end_key)
            && *end <= *last
        {
            // The first key after it.
            *end = [last.as_slice(), &[0]].concat();
        }
    }
}

impl Slice {
    /// Whether any of its tables with deletions is among these: if not, it was rewritten along with another part.
    pub fn is_in(&self, files: &[LiveFile]) -> bool {
        files.iter().any(|file| self.tables.contains(&file.name))
    }
}

/// Parts of a database that has these tables, each about as large as one of the lowest level.
pub fn plan(files: &[LiveFile]) -> Vec<Slice> {
    let lowest = files.iter().map(|file| file.level).max().unwrap_or_default();
    // Those of level 0 have keys from anywhere: where nothing is below them, all is one part.
    let lowest_files = files.iter().filter(|file| lowest > 0 && file.level == lowest);
    let cuts: BTreeSet<_> = lowest_files.filter_map(|file| file.start_key.clone()).collect();
    let cuts: Vec<_> = cuts.into_iter().skip(1).map(Some).collect();
    let starts = std::iter::once(None).chain(cuts.iter().cloned());
    let ends = cuts.iter().cloned().chain([None]);
    starts.zip(ends).filter_map(|(start, end)| slice(Keys { start, end }, files, lowest)).collect()
}

fn slice(keys: Keys, files: &[LiveFile], lowest: i32) -> Option<Slice> {
    let with_deletions = files.iter().filter(|file| file.num_deletions > 0 && keys.overlap(file));
    let tables: BTreeSet<_> = with_deletions.map(|file| file.name.clone()).collect();
    if tables.is_empty() {
        return None;
    }
    let mut affected = keys.clone();
    let (mut levels, mut above, mut last) = (0, 0, 0);
    let (mut entries, mut deletions) = (0_u64, 0_u64);
    for level in 0..=lowest {
        let mut found: Vec<_> = files.iter().filter(|file| file.level == level && affected.overlap(file)).collect();
        if level == 0 && !found.is_empty() {
            // They overlap each other, too.
            found = files.iter().filter(|file| file.level == 0).collect();
        }
        if found.is_empty() {
            continue;
        }
        levels += 1;
        above += last;
        last = 0;
        for file in found {
            affected.grow_by(file);
            last += file.size as u64;
            entries += file.num_entries;
            deletions += file.num_deletions;
        }
    }
    let carried = if levels > 2 { above } else { 0 };
    let all = above + last;
    let stay = entries.saturating_sub(deletions.saturating_mul(HOPED_ENTRIES));
    let hoped = u128::from(all) * u128::from(stay) / u128::from(entries.max(1));
    let hoped_bytes = u64::try_from(hoped).unwrap_or(all) + carried;
    Some(Slice { keys, affected, bytes: all + carried, carried, hoped_bytes, tables })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, level: i32, keys: (u8, u8), mib: usize, deletions: u64) -> LiveFile {
        LiveFile {
            column_family_name: String::new(),
            name: name.to_owned(),
            size: mib << 20,
            level,
            start_key: Some(vec![keys.0]),
            end_key: Some(vec![keys.1]),
            num_entries: 100,
            num_deletions: deletions,
        }
    }

    #[test]
    fn what_was_flushed_last_is_rewritten_with_all_that_it_overlaps() {
        assert_eq!(plan(&[]), []);
        let flushed = [file("1", 0, (3, 90), 5, 7), file("2", 0, (0, 95), 8, 0)];
        let alone = plan(&flushed);
        assert_eq!(alone.len(), 1, "one part: any of them takes the other with it");
        assert_eq!((alone[0].bytes >> 20, alone[0].carried), (13, 0));

        let lowest = [file("3", 6, (50, 99), 128, 0), file("4", 6, (0, 49), 128, 0)];
        let files = [flushed.as_slice(), &lowest].concat();
        let slices = plan(&files);
        let ranges: Vec<_> = slices.iter().map(|slice| (slice.keys.start.clone(), slice.keys.end.clone())).collect();
        assert_eq!(ranges, [(None, Some(vec![50])), (Some(vec![50]), None)]);
        for slice in &slices {
            assert_eq!((slice.bytes >> 20, slice.carried), (13 + 256, 0), "{slice:?}");
            assert!(slice.affected.overlap(&lowest[0]) && slice.affected.overlap(&lowest[1]));
        }
        // After the first, nothing that the second was planned for is left.
        let after = [file("5", 6, (50, 99), 100, 0), file("6", 6, (0, 49), 100, 0), file("7", 0, (0, 95), 1, 1)];
        assert!(slices[1].is_in(&files) && !slices[1].is_in(&after));
    }

    #[test]
    fn a_table_is_rewritten_with_those_below_it_and_counts_twice_on_its_way() {
        let files = [
            file("1", 4, (40, 60), 10, 0),
            file("2", 5, (58, 70), 20, 1),
            file("3", 6, (0, 41), 100, 0),
            file("4", 6, (42, 69), 200, 0),
            file("5", 6, (70, 99), 400, 0),
        ];
        let slices = plan(&files);
        let of = |start| slices.iter().find(|slice| slice.keys.start == start);
        assert_eq!(of(None), None, "no deletions there, though they may be rewritten with others");
        let middle = of(Some(vec![42])).unwrap();
        // The first goes into the second, and both into all three of the lowest; of 500 entries eight may go.
        assert_eq!(middle.hoped_bytes >> 20, 730 * 492 / 500 + 30);
        assert_eq!((middle.bytes >> 20, middle.carried >> 20), (30 + 700 + 30, 30));
        assert_eq!(middle.affected, Keys { start: Some(vec![0]), end: Some(vec![99, 0]) });
        assert_eq!(of(Some(vec![70])).unwrap().bytes >> 20, 20 + 600);
    }
}
