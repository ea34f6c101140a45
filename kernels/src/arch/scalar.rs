//! The specification: what every other kernel must compute, in one line each.

use super::{Arch, Shape};
use crate::pages::Line;
use crate::ternary_matrix::{BLOCK, PANEL, trit};
use crate::tokens::GROUP;

/// Runs on every CPU.
pub(crate) struct Scalar;

impl Arch for Scalar {
    fn name(&self) -> &'static str {
        "scalar"
    }

    fn ternary_int8(&self, blocks: &[Line], x: &[[i8; GROUP]], tokens: usize, sums: &mut [i32]) {
        let Shape { depth, width, .. } = Shape::new(blocks, x, BLOCK / GROUP, tokens, sums);
        for (t, sums) in sums.chunks_exact_mut(width.max(1)).enumerate() {
            for (r, sum) in sums.iter_mut().enumerate() {
                let row = &blocks[r / PANEL * depth..][..depth];
                let product = |i: usize| {
                    let code = trit(&row[i / BLOCK], r % PANEL, i % BLOCK) + 1;
                    i32::from(code) * i32::from(x[i / GROUP * tokens + t][i % GROUP])
                };
                *sum = (0..depth * BLOCK).map(product).sum();
            }
        }
    }

    fn ternary_f32(&self, blocks: &[Line], x: &[f32], tokens: usize, sums: &mut [f32]) {
        let Shape { depth, width, .. } = Shape::new(blocks, x, BLOCK, tokens, sums);
        for (t, sums) in sums.chunks_exact_mut(width.max(1)).enumerate() {
            for (r, sum) in sums.iter_mut().enumerate() {
                let row = &blocks[r / PANEL * depth..][..depth];
                let product = |i: usize| {
                    f32::from(trit(&row[i / BLOCK], r % PANEL, i % BLOCK)) * x[i * tokens + t]
                };
                *sum = (0..depth * BLOCK).map(product).fold(0.0, |sum, product| sum + product);
            }
        }
    }

    fn int8_rows(&self, lines: &[Line], x: &[[i8; GROUP]], tokens: usize, sums: &mut [i32]) {
        let Shape { depth, width, .. } = Shape::new(lines, x, 1, tokens, sums);
        for (t, sums) in sums.chunks_exact_mut(width.max(1)).enumerate() {
            for (r, sum) in sums.iter_mut().enumerate() {
                let row = &lines[r / PANEL * depth..][..depth];
                let product = |i: usize| {
                    let byte = row[i / GROUP].0[4 * (r % PANEL) + i % GROUP];
                    i32::from(byte) * i32::from(x[i / GROUP * tokens + t][i % GROUP])
                };
                *sum = (0..depth * GROUP).map(product).sum();
            }
        }
    }

    fn dense(&self, w: &[f32], d_output: usize, d_input: usize, x: &[f32], y: &mut [f32]) {
        for (x, y) in x.chunks_exact(d_input).zip(y.chunks_exact_mut(d_output.max(1))) {
            for (y, row) in y.iter_mut().zip(w.chunks_exact(d_input)) {
                *y = row.iter().zip(x).map(|(w, x)| w * x).sum();
            }
        }
    }
}
