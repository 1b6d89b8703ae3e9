//! A short fuzz run on stable Rust. In: a function of bytes (the same that cargo-fuzz calls) and a directory of seeds. Out:
//! nothing, or the panic and the bytes that made it. The same seeds give the same run.
//!
//! `FUZZ_ROUNDS` asks for more, `FUZZ_SEED` for others.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

/// A seed is changed so often for each round that is asked for; longer ones only make it slow.
const LONGEST: usize = 64 << 10;
/// A seed of at most so many bytes is also cut at each of them.
const CUT: usize = 600;

/// What parsers look at, and numbers at the edges of their types.
const WORDS: [&[u8]; 40] = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b";",
    b",",
    b"/",
    b"//",
    b"..",
    b"%2e",
    b"%2F",
    b"%00",
    b"%",
    b"\\",
    b"?",
    b"#",
    b"@",
    b"[",
    b"]",
    b"{",
    b"}",
    b"\"",
    b"*",
    b"**",
    b"~",
    b"-1",
    b"0",
    b"1",
    b"65536",
    b"4294967296",
    b"18446744073709551616",
    b"1e400",
    b"null",
    b"\xff",
    b"\xc3\x28",
    b"\xe2\x80\xae",
    b"- &a *a\n",
];

/// Runs `target` on each seed, on its beginnings, and on `rounds` changed ones.
///
/// # Panics
/// As `target` does; and if there are no seeds.
pub fn short_run(target: fn(&[u8]), seeds: &Path, rounds: u32) {
    let seeds = read(seeds);
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let rounds = number("FUZZ_ROUNDS").unwrap_or_else(|| rounds.into());
    let mut random = Random(number("FUZZ_SEED").unwrap_or(7).wrapping_mul(2).wrapping_add(1));
    attempt(target, &[]);
    for seed in &seeds {
        attempt(target, seed);
        (0..seed.len().min(CUT)).for_each(|end| attempt(target, &seed[..end]));
    }
    for _ in 0..rounds {
        let mut bytes = random.one(&seeds).clone();
        for _ in 0..=random.below(6) {
            change(&mut bytes, &seeds, &mut random);
        }
        bytes.truncate(LONGEST);
        attempt(target, &bytes);
    }
}

/// The files of a directory, in the order of their names.
fn read(directory: &Path) -> Vec<Vec<u8>> {
    let files = std::fs::read_dir(directory).unwrap_or_else(|why| panic!("{}: {why}", directory.display()));
    let mut paths: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} has no seeds", directory.display());
    paths.iter().map(|path| std::fs::read(path).expect("a seed")).collect()
}

fn attempt(target: fn(&[u8]), bytes: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(bytes))) {
        eprintln!("these {} bytes: b\"{}\"", bytes.len(), bytes.escape_ascii());
        resume_unwind(panic);
    }
}

/// One change, in place.
fn change(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut Random) {
    let at = random.below(bytes.len() + 1);
    let until = (at + 1 + random.below(16)).min(bytes.len());
    match random.below(9) {
        0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
        1 if at < bytes.len() => bytes[at] = random.byte(),
        2 => bytes.insert(at, random.byte()),
        3 => drop(bytes.drain(at..until)),
        4 => {
            let again = bytes[at..until].to_vec();
            drop(bytes.splice(at..at, again.repeat(1 + random.below(4))));
        }
        5 => {
            let other = random.one(seeds);
            let from = random.below(other.len() + 1);
            let end = (from + random.below(64)).min(other.len());
            drop(bytes.splice(at..at, other[from..end].to_vec()));
        }
        6 => drop(bytes.splice(at..until, random.one(&WORDS).to_vec())),
        7 => bytes.truncate(at),
        _ => drop(bytes.splice(at..at, random.one(&WORDS).to_vec())),
    }
}

/// xorshift64*: enough to choose with, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8
    }

    /// From 0, less than `end`; 0 if that is 0.
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % (end.max(1) as u64)).unwrap_or(0)
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}
