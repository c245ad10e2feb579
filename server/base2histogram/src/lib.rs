//! Stands in for the crate `base2histogram`: openraft counts messages and batches in it and gives the counts out only
//! with its feature `runtime-stats`, which we do without. At its first use that crate computes tables for all widths
//! of buckets, 27 MB of them, which stay with the process; most of them nobody ever looks at.
//!
//! Invariants:
//! - It has what openraft names and keeps nothing. With `runtime-stats` openraft does not compile against it, so no
//!   count that is wrong can be read.

use std::fmt;
use std::marker::PhantomData;

/// Keeps nothing of what is recorded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Histogram<T = ()>(PhantomData<T>);

impl<T> Histogram<T> {
    /// An empty one.
    pub const fn new() -> Self {
        Self(PhantomData)
    }

    /// Does nothing.
    pub const fn record(&mut self, _value: u64) {}

    /// Does nothing.
    pub const fn record_n(&mut self, _value: u64, _count: u64) {}

    /// Those of no samples.
    pub const fn percentile_stats(&self) -> PercentileStats {
        PercentileStats { samples: 0, p0_1: 0, p1: 0, p5: 0, p10: 0, p50: 0, p90: 0, p99: 0, p99_9: 0 }
    }
}

/// Of no samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // Percentiles, by their names.
pub struct PercentileStats {
    /// How many were recorded.
    pub samples: u64,
    pub p0_1: u64,
    pub p1: u64,
    pub p5: u64,
    pub p10: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not counted")
    }
}

/// A chart without lines.
#[derive(Debug, Clone, Copy, Default)]
pub struct AsciiChart;

impl AsciiChart {
    /// An empty one.
    pub const fn new() -> Self {
        Self
    }

    /// Does nothing.
    #[must_use]
    pub fn add(self, _name: &str, _histogram: Histogram) -> Self {
        self
    }
}
