//! A bias added to every row of a batch, and its gradient.

use rayon::prelude::*;

use crate::simd::simd;

/// Rows in one task, and in one partial sum of the gradient.
const ROWS: usize = 64;

/// `x += bias` for each row.
///
/// # Shapes
///
/// - `x`: `[rows, hidden]`
/// - `bias`: `[hidden]`
///
/// # Panics
///
/// If the shapes disagree.
pub fn add_bias(x: &mut [f32], bias: &[f32]) {
    let hidden = bias.len();
    assert!(hidden > 0 && x.len().is_multiple_of(hidden), "rows of {hidden}");
    x.par_chunks_mut(ROWS * hidden).for_each(|x| add(x, bias));
}

/// The gradient of the bias: the sum of the rows of `dy`, in fixed chunks.
///
/// # Shapes
///
/// - `dy`: `[rows, hidden]`
/// - `dbias`: `[hidden]`
///
/// # Panics
///
/// If the shapes disagree.
pub fn bias_backward(dy: &[f32], dbias: &mut [f32]) {
    let hidden = dbias.len();
    assert!(hidden > 0 && dy.len().is_multiple_of(hidden), "rows of {hidden}");
    let chunk = ROWS * hidden;
    let mut partial = vec![0.0; dy.len().div_ceil(chunk) * hidden];
    dy.par_chunks(chunk)
        .zip(partial.par_chunks_mut(hidden))
        .for_each(|(dy, sum)| sum_rows(dy, sum));
    dbias.fill(0.0);
    sum_rows(&partial, dbias);
}

simd! {
    fn add<'a>(x: &'a mut [f32], bias: &'a [f32]) {
        for x in x.chunks_exact_mut(bias.len()) {
            for (x, bias) in x.iter_mut().zip(bias) {
                *x += bias;
            }
        }
    }
}

simd! {
    /// `total` += every row of `rows`.
    pub(super) fn sum_rows<'a>(rows: &'a [f32], total: &'a mut [f32]) {
        for row in rows.chunks_exact(total.len()) {
            for (total, x) in total.iter_mut().zip(row) {
                *total += x;
            }
        }
    }
}
