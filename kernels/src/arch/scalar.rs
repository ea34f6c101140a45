//! The specification: what every other kernel must compute, in one line each.

use super::Arch;

/// Runs on every CPU.
pub(crate) struct Scalar;

/// Trit `i` of a packed row: two bits, lowest first, less one.
#[inline]
pub(super) fn trit(row: &[u8], i: usize) -> i8 {
    (row[i / 4] >> (2 * (i % 4)) & 3) as i8 - 1
}

impl Arch for Scalar {
    fn name(&self) -> &'static str {
        "scalar"
    }

    fn ternary_f32(&self, bytes: &[u8], d_output: usize, d_input: usize, x: &[f32], y: &mut [f32]) {
        let rows = bytes.chunks_exact(d_input.div_ceil(4));
        for (x, y) in x.chunks_exact(d_input).zip(y.chunks_exact_mut(d_output.max(1))) {
            for (y, row) in y.iter_mut().zip(rows.clone()) {
                *y = x.iter().enumerate().map(|(i, &x)| f32::from(trit(row, i)) * x).sum();
            }
        }
    }

    fn ternary_i8(&self, bytes: &[u8], d_output: usize, d_input: usize, x: &[i8], y: &mut [i32]) {
        let rows = bytes.chunks_exact(d_input.div_ceil(4));
        for (x, y) in x.chunks_exact(d_input).zip(y.chunks_exact_mut(d_output.max(1))) {
            for (y, row) in y.iter_mut().zip(rows.clone()) {
                let products =
                    x.iter().enumerate().map(|(i, &x)| i32::from(trit(row, i)) * i32::from(x));
                *y = products.sum();
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

    fn weighted_rows(&self, rows: &[f32], weights: &[f32], out: &mut [f32]) {
        let width = out.len();
        for (i, out) in out.iter_mut().enumerate() {
            *out = weights.iter().enumerate().map(|(r, weight)| weight * rows[r * width + i]).sum();
        }
    }
}
