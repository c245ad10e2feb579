//! Fuzzing on stable Rust: bytes that were good once, damaged in many ways, thrown at a decoder.
//!
//! A decoder's target stands beside the decoder, in a file `fuzz.rs`; its corpus in `tests/corpus`, a line for each
//! input: hexadecimal, or any text after `text:`. What a target accepts is kept and damaged further, so that damage goes
//! deeper than one step. `QUORATE_FUZZ_SECONDS=60` goes on for so long, from a new seed; `QUORATE_SEED=7` runs one
//! seed again.
//!
//! Invariants:
//! - One seed, one sequence of inputs. A target that panics is told with its input, ready for the corpus.
//! - Where memory is measured, an input that takes more than its room is a failure like a panic.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Inputs for each target when nothing else is asked for.
const CASES: u64 = 20_000;

/// Inputs that are kept because they were accepted.
const KEPT_MAX: usize = 2_000;

/// The longest input.
const BYTES_MAX: usize = 8_192;

/// How much memory a target may have at once.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Whatever comes.
    pub base: u64,
    /// For each byte of the input.
    pub each: u64,
}

impl Room {
    /// For what reads values out of its input: these take more bytes in memory than there. Far less than any length in
    /// an input can ask for.
    pub const DECODER: Self = Self { base: 64 << 10, each: 256 };
}

/// Runs what it is given; the most bytes of memory that this had at once. The crate of the target brings it along.
pub type Measure = fn(&mut dyn FnMut()) -> u64;

/// The same as [`fuzz`], and no input may take more memory than there is room for.
pub fn fuzz_within(room: Room, measure: Measure, name: &str, corpus: &str, target: impl Fn(&[u8]) -> bool) {
    let most = Cell::new((0, 0));
    fuzz(name, corpus, |input| {
        let mut accepted = false;
        let taken = measure(&mut || accepted = target(input));
        let bytes = input.len() as u64;
        let allowed = room.base + room.each * bytes;
        assert!(taken <= allowed, "{taken} bytes of memory for an input of {bytes}, more than {allowed}");
        most.set(most.get().max((taken, bytes)));
        accepted
    });
    let (taken, bytes) = most.get();
    println!("{name}: at most {taken} bytes of memory, for an input of {bytes}");
}

/// Throws damaged inputs of the corpus at the target, which says whether it accepted them.
pub fn fuzz(name: &str, corpus: &str, target: impl Fn(&[u8]) -> bool) {
    let (seed, seconds) = (asked("QUORATE_SEED"), asked("QUORATE_FUZZ_SECONDS"));
    // What runs with all other tests says the same each time: only who looks for news gets any.
    let seed = seed.unwrap_or_else(|| if seconds.is_some() { now_ms() } else { 1 });
    let end_ms = seconds.map(|seconds| now_ms() + 1_000 * seconds);
    println!("fuzzing {name}, QUORATE_SEED={seed}");
    let mut damage = Damage { state: seed };
    let mut kept = inputs(corpus);
    let given = kept.len();
    assert!(given > 0, "the corpus of {name} is empty");
    for input in &kept {
        tell_if_it_panics(name, input, &target);
    }
    let (mut cases, mut accepted) = (0_u64, 0_u64);
    while end_ms.map_or(cases < CASES, |end_ms| cases % 64 != 0 || now_ms() < end_ms) {
        let input = damage.next(&kept);
        cases += 1;
        if tell_if_it_panics(name, &input, &target) {
            accepted += 1;
            if kept.len() < given + KEPT_MAX {
                kept.push(input);
            } else {
                let place = given + damage.below(KEPT_MAX);
                kept[place] = input;
            }
        }
    }
    println!("{name}: {accepted} of {cases} accepted");
}

/// The inputs of a corpus.
///
/// Empty lines, and those that begin with `#`, say nothing.
pub fn inputs(corpus: &str) -> Vec<Vec<u8>> {
    let lines = corpus.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    let input = |line: &str| match line.strip_prefix("text:") {
        Some(text) => text.replace("\\n", "\n").into_bytes(),
        None => unhex(line),
    };
    lines.map(input).collect()
}

fn unhex(line: &str) -> Vec<u8> {
    let digits: Vec<_> = line.chars().filter(|digit| !digit.is_whitespace()).collect();
    let byte = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16);
    digits.chunks(2).map(|pair| byte(pair).expect("hexadecimal digits in the corpus")).collect()
}

fn tell_if_it_panics(name: &str, input: &[u8], target: &impl Fn(&[u8]) -> bool) -> bool {
    match catch_unwind(AssertUnwindSafe(|| target(input))) {
        Ok(accepted) => accepted,
        Err(panic) => {
            println!("{name} failed at this input, which belongs into its corpus:");
            for byte in input {
                print!("{byte:02x}");
            }
            println!();
            resume_unwind(panic)
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "test support: asked for by who runs the tests")]
fn asked(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|asked| asked.parse().expect("a number"))
}

#[expect(clippy::disallowed_methods, reason = "test support: the machine is not run here")]
fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or_default()
}

/// Ways to damage bytes.
struct Damage {
    state: u64,
}

impl Damage {
    /// A mixed counter (`SplitMix64`).
    fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.number() % bound.max(1) as u64).unwrap_or_default()
    }

    fn next(&mut self, from: &[Vec<u8>]) -> Vec<u8> {
        let chosen = self.below(from.len());
        let mut input = from[chosen].clone();
        for _ in 0..=self.below(4) {
            let other = self.below(from.len());
            self.once(&mut input, &from[other]);
        }
        input.truncate(BYTES_MAX);
        input
    }

    fn once(&mut self, input: &mut Vec<u8>, other: &[u8]) {
        const ODD: [u8; 8] = [0x00, 0x01, 0x7f, 0x80, 0xff, b'/', b' ', b'"'];
        let at = self.below(input.len());
        let end = at + self.below(input.len() - at.min(input.len()) + 1);
        match self.below(9) {
            0 => input.truncate(at),
            1 if !input.is_empty() => input[at] ^= 1 << self.below(8),
            2 if !input.is_empty() => input[at] = ODD[self.below(ODD.len())],
            3 if !input.is_empty() => input[at] = input[at].wrapping_add(1),
            4 => drop(input.drain(at..end.min(input.len()))),
            5 => {
                // A part of another input, in place of what stood there or between.
                let from = self.below(other.len());
                let to = from + self.below(other.len() - from.min(other.len()) + 1);
                let until = if self.below(2) == 0 { at } else { end.min(input.len()) };
                drop(input.splice(at..until, other[from..to.min(other.len())].iter().copied()));
            }
            6 => {
                let again = input[at..end.min(input.len())].to_vec();
                drop(input.splice(at..at, again));
            }
            // The longest number that seven bits a byte can write, and one that is too long.
            7 => drop(input.splice(at..at, std::iter::repeat_n(0xff, 8 + self.below(4)).chain([1]))),
            _ => input.insert(at, ODD[self.below(ODD.len())]),
        }
    }
}
