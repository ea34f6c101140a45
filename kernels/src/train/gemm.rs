//! Products of f32 matrices in parallel, for the shapes of training: many rows, small weights.
//!
//! The tiles are those of [`crate::gemm`], whose entries do not depend on how the rows are dealt to threads. The left side is
//! read through its strides, and a transposed right side is copied once, which makes `x * w^T`, `dy * w` and `dy^T * x` one
//! kernel: weights of a small model fit the second-level cache.

use std::cell::Cell;

use rayon::prelude::*;

use crate::gemm::Block;
pub use crate::gemm::Matrix;
use crate::simd::arch;

/// Products with fewer multiply-adds than this stay on the calling thread.
const PARALLEL_FROM: usize = 1 << 18;

/// `out = a * b`, in parallel over rows of `out`.
///
/// # Shapes
///
/// - `a`: `[m, k]`
/// - `b`: `[k, n]`
/// - `out`: `[m, n]`, row-major
///
/// # Panics
///
/// If the shapes disagree.
pub fn matmul(a: Matrix<'_>, b: Matrix<'_>, out: &mut [f32]) {
    product(a, b, out, false);
}

/// `out += a * b`; shapes as in [`matmul`].
pub fn matmul_add(a: Matrix<'_>, b: Matrix<'_>, out: &mut [f32]) {
    product(a, b, out, true);
}

fn product(a: Matrix<'_>, b: Matrix<'_>, out: &mut [f32], accumulate: bool) {
    let (m, k, n) = (a.rows, a.cols, b.cols);
    assert_eq!(b.rows, k, "inner sides of a product");
    assert_eq!(out.len(), m * n, "product of {m} x {n}");
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 {
        if !accumulate {
            out.fill(0.0);
        }
        return;
    }
    // A transposed right side is copied once, into row-major order.
    if b.col_stride != 1 {
        return with_scratch(k * n, |copy| {
            transpose(b, copy);
            product(a, Matrix::new(copy, k, n), out, accumulate);
        });
    }
    let threads = rayon::current_num_threads();
    if threads == 1 || m * n * k < PARALLEL_FROM {
        return arch().dispatch(Block { a, b, out, out_stride: n, accumulate });
    }
    // The cut decides who computes a row, never how: see the head of this file.
    let rows = m.div_ceil(4 * threads).next_multiple_of(8).min(256);
    out.par_chunks_mut(rows * n).enumerate().for_each(|(chunk, out)| {
        let first = chunk * rows;
        let a = rows_of(a, first, out.len() / n);
        arch().dispatch(Block { a, b, out, out_stride: n, accumulate });
    });
}

#[inline(always)]
fn rows_of(a: Matrix<'_>, first: usize, rows: usize) -> Matrix<'_> {
    Matrix { values: &a.values[first * a.row_stride..], rows, ..a }
}

/// Copies the transpose of a column-major matrix, in squares that stay in cache.
fn transpose(b: Matrix<'_>, out: &mut [f32]) {
    const SIDE: usize = 16;
    let (k, n) = (b.rows, b.cols);
    for j0 in (0..n).step_by(SIDE) {
        for i0 in (0..k).step_by(SIDE) {
            for i in i0..(i0 + SIDE).min(k) {
                for j in j0..(j0 + SIDE).min(n) {
                    out[i * n + j] = b.values[i * b.row_stride + j * b.col_stride];
                }
            }
        }
    }
}

thread_local! {
    static SCRATCH: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Lends a thread's scratch buffer. It is taken out for the time of the call, so a nested call finds an empty one.
pub(super) fn with_scratch<R>(len: usize, body: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut scratch = SCRATCH.take();
    if scratch.len() < len {
        scratch.resize(len, 0.0);
    }
    let result = body(&mut scratch[..len]);
    SCRATCH.set(scratch);
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::tests::noise;

    /// The specification: one chain of fused multiply-adds for each entry.
    fn reference(a: Matrix<'_>, b: Matrix<'_>, out: &mut [f32], accumulate: bool) {
        for i in 0..a.rows {
            for j in 0..b.cols {
                let mut sum = if accumulate { out[i * b.cols + j] } else { 0.0 };
                for p in 0..a.cols {
                    let x = a.values[i * a.row_stride + p * a.col_stride];
                    let y = b.values[p * b.row_stride + j * b.col_stride];
                    sum = x.mul_add(y, sum);
                }
                out[i * b.cols + j] = sum;
            }
        }
    }

    #[test]
    fn equals_the_reference_to_the_bit() {
        for (m, k, n) in
            [(1, 1, 1), (3, 5, 7), (17, 33, 31), (64, 128, 128), (37, 300, 65), (200, 129, 336)]
        {
            let (x, w) = (noise(m * k, 1), noise(k * n, 2));
            for (a_transposed, b_transposed) in
                [(false, false), (true, false), (false, true), (true, true)]
            {
                let a = if a_transposed {
                    Matrix::new(&x, k, m).transposed()
                } else {
                    Matrix::new(&x, m, k)
                };
                let b = if b_transposed {
                    Matrix::new(&w, n, k).transposed()
                } else {
                    Matrix::new(&w, k, n)
                };
                let mut wanted = noise(m * n, 3);
                let mut found = wanted.clone();
                reference(a, b, &mut wanted, true);
                matmul_add(a, b, &mut found);
                assert!(wanted == found, "{m} {k} {n} {a_transposed} {b_transposed}");
                reference(a, b, &mut wanted, false);
                matmul(a, b, &mut found);
                assert!(wanted == found, "{m} {k} {n} {a_transposed} {b_transposed}");
            }
        }
    }
}
