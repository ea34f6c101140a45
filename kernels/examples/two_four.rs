//! Speed of 2:4 products next to dense ones, one token at a time: of matrices that lie in memory, and of one in the cache.
//! Both kinds hold the same trits, and their results are compared to the bit before anything is timed.
//!
//! ```sh
//! taskset -c 0 cargo run --release -p tern-kernels --example two_four -- 1
//! ```
//!
//! The argument is the number of threads. The two kinds take turns, in rounds too short to be interrupted often, so that other
//! work on the machine slows both down; the medians of their times count.
#![allow(clippy::print_stdout, reason = "an example that prints what it measured")]

use std::hint::black_box;
use std::time::Instant;

use tern_kernels::pool::Pool;
use tern_kernels::sparse_matrix::{PATTERNS, S24n, SparseMatrix};
use tern_kernels::ternary::Kernel;
use tern_kernels::ternary_matrix::{T2, TernaryMatrix};
use tern_kernels::tokens::Int8Tokens;

/// Rounds of each kind.
const ROUNDS: usize = 301;

/// Multiplications of a round, at least.
const WORK: usize = 1 << 24;

/// Bits from a fixed seed (xorshift64*, Vigna 2016).
fn bits(state: &mut u64) -> u32 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
}

/// One matrix of random groups, in both orders. `d_input` is a multiple of 32, so every byte is of codes alone.
fn matrices(
    pool: &Pool,
    d_output: usize,
    d_input: usize,
    state: &mut u64,
) -> (TernaryMatrix, SparseMatrix) {
    let mut sparse: Vec<u8> = Vec::with_capacity(d_output * d_input / 32 * 5);
    let mut dense: Vec<u8> = Vec::with_capacity(d_output * d_input / 4);
    for _ in 0..d_output * d_input / 32 {
        let word = u64::from(bits(state)) | u64::from(bits(state)) << 32;
        sparse.extend(&word.to_le_bytes()[..5]);
        for i in 0..8 {
            let group = PATTERNS[(word >> (5 * i) & 31) as usize];
            dense.push((0..4).map(|i| ((group[i] + 1) as u8) << (2 * i)).sum());
        }
    }
    let scale = 0.37;
    (
        TernaryMatrix::stack(pool, &[T2 { bytes: &dense, d_output, scale }], d_input),
        SparseMatrix::stack(pool, &[S24n { bytes: &sparse, d_output, scale }], d_input),
    )
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let threads = std::env::args().nth(1).map_or(Ok(1), |text| text.parse())?;
    let (pool, kernel) = (Pool::new(threads), Kernel::detect()?);
    println!("kernel {}, {threads} threads, medians of {ROUNDS} rounds", kernel.name());
    println!(
        "{:30} {:>8} {:>12} {:>12} {:>6}",
        "matrix", "seq", "dense GMAC/s", "2:4 GMAC/s", "ratio"
    );
    let mut state = 1;
    for (what, count, d_output, d_input, seq) in [
        ("2560 x 6912 from memory", 48, 2560, 6912, 1),
        ("6912 x 2560 from memory", 48, 6912, 2560, 1),
        ("2560 x 6912 in the cache", 1, 2560, 6912, 1),
        ("512 x 2560 in the cache", 1, 512, 2560, 1),
        ("256 x 256 in the cache", 1, 256, 256, 1),
        ("2560 x 6912 in the cache", 1, 2560, 6912, 4),
        ("2560 x 6912 in the cache", 1, 2560, 6912, 8),
        ("2560 x 6912 in the cache", 1, 2560, 6912, 12),
        ("2560 x 6912 in the cache", 1, 2560, 6912, 24),
    ] {
        let matrices: Vec<_> =
            (0..count).map(|_| matrices(&pool, d_output, d_input, &mut state)).collect();
        let x: Vec<f32> = (0..seq * d_input).map(|_| bits(&mut state) as f32 / 2e9 - 1.0).collect();
        let x = Int8Tokens::quantize(&pool, &x, d_input);
        let (mut y, mut z) = (vec![0.0; seq * d_output], vec![1.0; seq * d_output]);
        for (dense, sparse) in &matrices {
            kernel.ternary_int8(&pool, dense, &x, &mut y);
            kernel.sparse_int8(&pool, sparse, &x, &mut z);
            let equal = y.iter().zip(&z).all(|(y, z)| y.to_bits() == z.to_bits());
            assert!(equal, "the products of {what} differ");
        }
        let work = d_output * d_input * seq;
        let calls = WORK.div_ceil(work);
        let mut seconds = [Vec::new(), Vec::new()];
        for round in 0..ROUNDS {
            for (kind, seconds) in seconds.iter_mut().enumerate() {
                let start = Instant::now();
                for (dense, sparse) in matrices.iter().cycle().skip(round % count).take(calls) {
                    match kind {
                        0 => kernel.ternary_int8(&pool, dense, &x, &mut y),
                        _ => kernel.sparse_int8(&pool, sparse, &x, &mut y),
                    }
                    black_box(&mut y);
                }
                seconds.push(start.elapsed().as_secs_f64());
            }
        }
        let [dense, sparse] = seconds.map(|seconds| (work * calls) as f64 / median(seconds) / 1e9);
        println!("{what:30} {seq:>8} {dense:>12.1} {sparse:>12.1} {:>6.2}", sparse / dense);
    }
    Ok(())
}
