//! Buffers that outlive a step.
//!
//! A step of training asks for the same few sizes again and again. Fresh memory of that size comes from the kernel a page
//! fault at a time, and zeroed; a buffer that was used before costs nothing.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Bytes that the pool keeps at most; what comes back beyond that is freed.
const LIMIT_BYTES: usize = 1 << 30;

#[derive(Default)]
struct Pool {
    by_len: HashMap<usize, Vec<Vec<f32>>>,
    bytes: usize,
}

static POOL: Mutex<Option<Pool>> = Mutex::new(None);

/// A buffer of `len` floats whose values are unspecified: write every one.
pub fn take(len: usize) -> Vec<f32> {
    let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    let pool = pool.get_or_insert_default();
    match pool.by_len.get_mut(&len).and_then(Vec::pop) {
        Some(buffer) => {
            pool.bytes -= 4 * len;
            buffer
        }
        None => vec![0.0; len],
    }
}

/// Hands a buffer back for a later [`take`] of the same length.
pub fn give(buffer: Vec<f32>) {
    let len = buffer.len();
    // Small ones are the allocator's business, and need not keep their size class alive.
    if len < 1024 {
        return;
    }
    let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    let pool = pool.get_or_insert_default();
    if pool.bytes + 4 * len <= LIMIT_BYTES {
        pool.bytes += 4 * len;
        pool.by_len.entry(len).or_default().push(buffer);
    }
}

/// Lets the allocator keep what is freed, for buffers that the pool does not see: gradients, and what Burn allocates. By
/// default glibc gives large ones back to the kernel at once, which zeroes their pages for the next step. Elsewhere it does
/// nothing.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `mallopt` takes two integers, and locks what it changes.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
    }
}

/// Frees every pooled buffer, for instance before an evaluation of another shape.
pub fn clear() {
    *POOL.lock().unwrap_or_else(PoisonError::into_inner) = None;
}
