//! Random histories over `RocksDB`: the machine against the model, on the store that a member has.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::time::{Duration, Instant};

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use quorate_server::store_rocks::RocksStore;
use quorate_state::testing::{check_history, histories};
use rocksdb::Cache;

const HISTORIES: u32 = 50;
/// As the state's own test of the model has it.
const WINDOW: u64 = 7;
/// Enough of them for a slow machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// `QUORATE_SEED` runs a seed again.
fn seed() -> u64 {
    std::env::var("QUORATE_SEED").map_or_else(|_| rand::random(), |asked| asked.parse().expect("a number"))
}

#[test]
fn the_machine_over_rocksdb_does_what_the_model_does() {
    let seed = seed();
    println!("QUORATE_SEED={seed}");
    let seed = [seed.to_be_bytes(); 4];
    let mut runner =
        TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, seed.as_flattened()));
    let (dir, cache) = (tempfile::tempdir().unwrap(), Cache::new_lru_cache(8 << 20));
    let begun = Instant::now();
    let mut done = 0;
    while done < HISTORIES && begun.elapsed() < PATIENCE {
        let history = histories(24).new_tree(&mut runner).unwrap().current();
        let path = dir.path().join(done.to_string());
        let store = RocksStore::open(&path, &cache).unwrap();
        store.retire();
        check_history(&history, WINDOW, store);
        done += 1;
    }
    println!("{done} histories in {:?}", begun.elapsed());
    assert!(done > 0);
}
