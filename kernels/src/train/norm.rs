//! RMSNorm and LayerNorm over all tokens of a batch, and their gradients.

use rayon::prelude::*;

use super::bias::sum_rows;
use crate::norm::{self, inverse_rms, moments};
use crate::simd::{simd, sum};

/// Rows in one task, and in one partial sum of the gradients of gain and bias.
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
    sum_rows(&partial, dgain);
}

/// `y = (x - mean) / sqrt(variance + eps) * gain + bias` for each row, the variance that of the row itself
/// (arXiv:1607.06450).
///
/// # Shapes
///
/// - `x`, `y`: `[rows, hidden]`
/// - `gain`, `bias`: `[hidden]`
///
/// # Panics
///
/// If the shapes disagree.
pub fn layer_norm(x: &[f32], gain: &[f32], bias: &[f32], eps: f32, y: &mut [f32]) {
    let hidden = gain.len();
    assert_eq!(x.len(), y.len());
    assert!(hidden > 0 && x.len().is_multiple_of(hidden), "rows of {hidden}");
    x.par_chunks(ROWS * hidden)
        .zip(y.par_chunks_mut(ROWS * hidden))
        .for_each(|(x, y)| norm::layer_norm(x, gain, bias, eps, y));
}

/// The gradients of [`layer_norm`]: with `n = (x - mean) * r`, `r = 1 / sqrt(variance + eps)` and `g = dy * gain`,
/// `dx = r * (g - mean(g) - n * mean(g * n))`, `dgain = sum over rows of dy * n`, `dbias = sum over rows of dy`.
///
/// # Shapes
///
/// - `x`, `dy`, `dx`: `[rows, hidden]`
/// - `gain`, `dgain`, `dbias`: `[hidden]`
///
/// # Panics
///
/// If the shapes disagree.
pub fn layer_norm_backward(
    x: &[f32],
    gain: &[f32],
    eps: f32,
    dy: &[f32],
    dx: &mut [f32],
    [dgain, dbias]: [&mut [f32]; 2],
) {
    let hidden = gain.len();
    assert!(x.len() == dy.len() && x.len() == dx.len());
    assert!(dgain.len() == hidden && dbias.len() == hidden);
    assert!(hidden > 0 && x.len().is_multiple_of(hidden), "rows of {hidden}");
    let chunk = ROWS * hidden;
    // Each chunk's gradients of gain and bias side by side.
    let mut partial = vec![0.0; x.len().div_ceil(chunk) * 2 * hidden];
    x.par_chunks(chunk)
        .zip(dy.par_chunks(chunk))
        .zip(dx.par_chunks_mut(chunk))
        .zip(partial.par_chunks_mut(2 * hidden))
        .for_each(|(((x, dy), dx), partial)| centered_backward(x, gain, eps, dy, dx, partial));
    let mut total = vec![0.0; 2 * hidden];
    sum_rows(&partial, &mut total);
    dgain.copy_from_slice(&total[..hidden]);
    dbias.copy_from_slice(&total[hidden..]);
}

simd! {
    /// `partial` is the gradient of the gain, then that of the bias.
    fn centered_backward<'a>(
        x: &'a [f32],
        gain: &'a [f32],
        eps: f32,
        dy: &'a [f32],
        dx: &'a mut [f32],
        partial: &'a mut [f32],
    ) {
        let hidden = gain.len();
        let (dgain, dbias) = partial.split_at_mut(hidden);
        let dbias = &mut dbias[..hidden];
        for ((x, dy), dx) in
            x.chunks_exact(hidden).zip(dy.chunks_exact(hidden)).zip(dx.chunks_exact_mut(hidden))
        {
            let (mean, r) = moments(x, eps);
            let pull = sum([dy, gain], |[dy, gain]| dy * gain) / hidden as f32;
            let turn = sum([dy, gain, x], |[dy, gain, x]| dy * gain * ((x - mean) * r));
            let turn = turn / hidden as f32;
            for i in 0..hidden {
                let n = (x[i] - mean) * r;
                dx[i] = r * (dy[i] * gain[i] - pull - n * turn);
                dgain[i] += dy[i] * n;
                dbias[i] += dy[i];
            }
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
