//! Products of f32 matrices, in parallel.
//!
//! Sides are read through their strides, which makes `x * w^T`, `dy * w` and `dy^T * x` one function. Every entry of a
//! product is one chain of fused multiply-adds in the order of the inner index, whatever the tile, the block, the vector
//! width or the number of threads: the same bytes on every CPU with FMA.

use std::cell::Cell;

use super::blocking::{self, Arithmetic, Left, PANEL, ROWS};
pub use crate::gemm::Matrix;
use crate::gemm::{Block, PaddedBlock};
use crate::simd::{arch, prefetch, simd};

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
    blocking::product(F32, a, b, out, false);
}

/// `out += a * b`; shapes as in [`matmul`].
pub fn matmul_add(a: Matrix<'_>, b: Matrix<'_>, out: &mut [f32]) {
    blocking::product(F32, a, b, out, true);
}

/// A word is a number.
#[derive(Clone, Copy)]
struct F32;

impl Arithmetic for F32 {
    type Word = f32;

    const PER_WORD: usize = 1;

    const TILE: usize = 8;

    fn pack_left<'a>(self, a: Matrix<'a>, words: &'a mut [f32]) -> Left<'a, f32> {
        // Rows are read where they lie.
        if a.col_stride == 1 {
            return Left { words: a.values, strides: (a.row_stride, 1) };
        }
        let stride = a.rows.next_multiple_of(ROWS);
        copy_columns(a, words, stride);
        Left { words, strides: (1, stride) }
    }

    fn pack_right(self, b: Matrix<'_>, words: &mut [f32]) {
        pack_right(b, words);
    }

    fn multiply(self, block: blocking::Block<'_, f32>) {
        let blocking::Block { left, panel, rows, depth, cols, .. } = block;
        let (row_stride, col_stride) = left.strides;
        let a = Matrix { values: left.words, rows, cols: depth, row_stride, col_stride };
        let b = Matrix::strided(panel, depth, PANEL, PANEL);
        let blocking::Block { out, out_stride, accumulate, .. } = block;
        arch().dispatch(PaddedBlock(Block { a, b, out, out_stride, accumulate }, cols));
    }
}

simd! {
    /// Copies columns, `stride` apart.
    fn copy_columns<'a>(a: Matrix<'a>, words: &'a mut [f32], stride: usize) {
        for (column, words) in words.chunks_mut(stride).take(a.cols).enumerate() {
            let from = &a.values[column * a.col_stride..][..a.rows];
            prefetch_below(from, a.col_stride);
            words[..a.rows].copy_from_slice(from);
        }
    }
}

simd! {
    /// Copies rows, or transposes columns.
    fn pack_right<'a>(b: Matrix<'a>, words: &'a mut [f32]) {
        let depth = words.len() / (b.cols.div_ceil(PANEL) * PANEL);
        if b.col_stride == 1 {
            for p in 0..b.rows {
                let row = &b.values[p * b.row_stride..][..b.cols];
                prefetch_below(row, b.row_stride);
                for (words, row) in words.chunks_exact_mut(depth * PANEL).zip(row.chunks(PANEL)) {
                    words[p * PANEL..][..row.len()].copy_from_slice(row);
                }
            }
        } else {
            for (panel, words) in words.chunks_exact_mut(depth * PANEL).enumerate() {
                let first = panel * PANEL;
                transpose(b.part(0, b.rows, first, PANEL.min(b.cols - first)), words);
            }
        }
    }
}

/// Asks for what is to be copied soon: short rows are no stream that the CPU sees.
#[inline(always)]
fn prefetch_below(row: &[f32], stride: usize) {
    const ROWS: usize = 16;
    for line in row.chunks(16) {
        prefetch(line.as_ptr().wrapping_add(ROWS * stride));
    }
}

/// Packs a panel of a matrix by columns, in squares that stay in registers or the first cache.
#[inline(always)]
fn transpose(b: Matrix<'_>, words: &mut [f32]) {
    const SIDE: usize = 16;
    for j in (0..b.cols).step_by(SIDE) {
        for p in (0..b.rows).step_by(SIDE) {
            let start = &b.values[p + j * b.col_stride..];
            let square = &mut words[p * PANEL + j..];
            if p + SIDE <= b.rows && j + SIDE <= b.cols {
                let columns: [&[f32; SIDE]; SIDE] = std::array::from_fn(|j| {
                    start[j * b.col_stride..].first_chunk().expect("a whole square")
                });
                for p in 0..SIDE {
                    square[p * PANEL..][..SIDE].copy_from_slice(&columns.map(|column| column[p]));
                }
            } else {
                for j in 0..SIDE.min(b.cols - j) {
                    for p in 0..SIDE.min(b.rows - p) {
                        square[p * PANEL + j] = start[p + j * b.col_stride];
                    }
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
        for (m, k, n) in [
            (1, 1, 1),
            (3, 5, 7),
            (17, 33, 31),
            (64, 128, 128),
            (37, 300, 65),
            (200, 129, 336),
            (2, 1_100, 1_090),
        ] {
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
