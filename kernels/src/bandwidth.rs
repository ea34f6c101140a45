//! How fast this machine reads memory: the limit of decoding, which reads every weight for each token.

use std::hint::black_box;
use std::time::Instant;

use crate::pages::{Line, Pages};
use crate::pool::Pool;

/// Bytes of the buffer: beyond the last cache of almost any CPU.
const BYTES: usize = 512 << 20;

/// Readings, of which the fastest counts: other work only slows one down.
const READINGS: usize = 5;

/// Tasks for each thread.
const TASKS: usize = 16;

/// Bytes a second that all threads of the pool read together, from memory on huge pages where the system has them.
pub fn measure(pool: &Pool) -> f64 {
    let buffer = Pages::new(BYTES / size_of::<Line>());
    let lines = buffer.lines();
    let read = || {
        let start = Instant::now();
        pool.run_parts(lines.len(), TASKS * pool.threads(), |part| {
            let mut sums = [0u64; 8];
            for line in &lines[part] {
                for (sum, bytes) in sums.iter_mut().zip(line.0.as_chunks::<8>().0) {
                    *sum = sum.wrapping_add(u64::from_ne_bytes(*bytes));
                }
            }
            black_box(sums);
        });
        BYTES as f64 / start.elapsed().as_secs_f64()
    };
    (0..READINGS).map(|_| read()).fold(0.0, f64::max)
}
