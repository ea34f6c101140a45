//! RMSNorm over all tokens of a batch, and its gradient.

use rayon::prelude::*;

use crate::norm::{self, inverse_rms};
use crate::simd::{simd, sum};

/// Rows in one task, and in one partial sum of the gain's gradient.
const ROWS: usize = 64;

/// `y = x / rms(x) * gain` for each row, `rms(x) = sqrt(mean(x^2) + eps)` (arXiv:1910.07467).
///
/// # Shapes
///
/// - `x`, `y`: `[rows, hidden]`
/// - `gain`: `[hidden]`
///
/// # Panics
///
/// If the shapes disagree.
pub fn rms_norm(x: &[f32], gain: &[f32], eps: f32, y: &mut [f32]) {
    let hidden = gain.len();
    assert_eq!(x.len(), y.len());
    assert!(hidden > 0 && x.len().is_multiple_of(hidden), "rows of {hidden}");
    x.par_chunks(ROWS * hidden)
        .zip(y.par_chunks_mut(ROWS * hidden))
        .for_each(|(x, y)| norm::rms_norm(x, gain, eps, y));
}

/// The gradients of [`rms_norm`]: with `r = 1 / rms(x)` and `g = dy * gain`,
/// `dx = r * g - x * r^3 * mean(g * x)` and `dgain = sum over rows of dy * x * r`.
///
/// # Shapes
///
/// - `x`, `dy`, `dx`: `[rows, hidden]`
/// - `gain`, `dgain`: `[hidden]`
///
/// # Panics
///
/// If the shapes disagree.
pub fn rms_norm_backward(
    x: &[f32],
    gain: &[f32],
    eps: f32,
    dy: &[f32],
    dx: &mut [f32],
    dgain: &mut [f32],
) {
    let hidden = gain.len();
    assert!(x.len() == dy.len() && x.len() == dx.len() && dgain.len() == hidden);
    assert!(hidden > 0 && x.len().is_multiple_of(hidden), "rows of {hidden}");
    let chunk = ROWS * hidden;
    let mut partial = vec![0.0; x.len().div_ceil(chunk) * hidden];
    x.par_chunks(chunk)
        .zip(dy.par_chunks(chunk))
        .zip(dx.par_chunks_mut(chunk))
        .zip(partial.par_chunks_mut(hidden))
        .for_each(|(((x, dy), dx), dgain)| backward(x, gain, eps, dy, dx, dgain));
    dgain.fill(0.0);
    for partial in partial.chunks(hidden) {
        for (sum, part) in dgain.iter_mut().zip(partial) {
            *sum += part;
        }
    }
}

simd! {
    fn backward<'a>(
        x: &'a [f32],
        gain: &'a [f32],
        eps: f32,
        dy: &'a [f32],
        dx: &'a mut [f32],
        dgain: &'a mut [f32],
    ) {
        let hidden = gain.len();
        for ((x, dy), dx) in
            x.chunks_exact(hidden).zip(dy.chunks_exact(hidden)).zip(dx.chunks_exact_mut(hidden))
        {
            let r = inverse_rms(x, eps);
            let dot = sum([dy, gain, x], |[dy, gain, x]| dy * gain * x);
            let pull = r * r * r * dot / hidden as f32;
            for i in 0..hidden {
                dx[i] = r * (dy[i] * gain[i]) - x[i] * pull;
                dgain[i] += dy[i] * (x[i] * r);
            }
        }
    }
}
