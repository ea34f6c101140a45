//! Normalization: RMSNorm (arXiv:1910.07467) and LayerNorm (arXiv:1607.06450).

use crate::simd::{simd, sum};

/// `out_i = x_i / rms(x) * gain_i` for each row, `rms(x) = sqrt(mean(x^2) + eps)`.
///
/// # Shapes
///
/// - `x`, `out`: `[rows, hidden]`; `gain`: `[hidden]`
///
/// # Panics
///
/// If the shapes disagree.
pub fn rms_norm(x: &[f32], gain: &[f32], eps: f32, out: &mut [f32]) {
    assert!(!gain.is_empty() && x.len().is_multiple_of(gain.len()), "rows of {}", gain.len());
    assert_eq!(x.len(), out.len(), "one output for one value");
    normalize(x, gain, eps, out);
}

/// `out_i = (x_i - mean) / sqrt(variance + eps) * gain_i + bias_i` for each row, the variance that of the row itself.
///
/// # Shapes
///
/// - `x`, `out`: `[rows, hidden]`; `gain`, `bias`: `[hidden]`
///
/// # Panics
///
/// If the shapes disagree.
pub fn layer_norm(x: &[f32], gain: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    assert!(!gain.is_empty() && x.len().is_multiple_of(gain.len()), "rows of {}", gain.len());
    assert!(bias.len() == gain.len() && x.len() == out.len(), "one bias and output for one value");
    center(x, gain, bias, eps, out);
}

simd! {
    fn center<'a>(x: &'a [f32], gain: &'a [f32], bias: &'a [f32], eps: f32, out: &'a mut [f32]) {
        for (x, out) in x.chunks_exact(gain.len()).zip(out.chunks_exact_mut(gain.len())) {
            let (mean, r) = moments(x, eps);
            for (((out, x), gain), bias) in out.iter_mut().zip(x).zip(gain).zip(bias) {
                *out = (x - mean) * r * gain + bias;
            }
        }
    }
}

/// The mean, and one over the root of the variance and `eps`.
#[inline(always)]
pub(crate) fn moments(x: &[f32], eps: f32) -> (f32, f32) {
    let hidden = x.len() as f32;
    let mean = sum([x], |[x]| x) / hidden;
    let variance = sum([x], |[x]| (x - mean) * (x - mean)) / hidden;
    (mean, 1.0 / (variance + eps).sqrt())
}

/// `1 / rms(x)`.
#[inline(always)]
pub(crate) fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    let squares = sum([x], |[x]| x * x);
    1.0 / (squares / x.len() as f32 + eps).sqrt()
}

simd! {
    fn normalize<'a>(x: &'a [f32], gain: &'a [f32], eps: f32, out: &'a mut [f32]) {
        for (x, out) in x.chunks_exact(gain.len()).zip(out.chunks_exact_mut(gain.len())) {
            let r = inverse_rms(x, eps);
            for ((out, x), gain) in out.iter_mut().zip(x).zip(gain) {
                *out = x * r * gain;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_formula_at_every_length() {
        for length in 1..40 {
            let x: Vec<f32> = (0..length).map(|i| (i as f32 * 1.7).sin() * 3.0).collect();
            let gain: Vec<f32> = (0..length).map(|i| (i as f32 * 0.3).cos()).collect();
            let mut ours = vec![0.0; length];
            rms_norm(&x, &gain, 1e-6, &mut ours);
            let mean = x.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / length as f64;
            for ((&x, &gain), &ours) in x.iter().zip(&gain).zip(&ours) {
                let expected = f64::from(x) / (mean + 1e-6).sqrt() * f64::from(gain);
                assert!((expected - f64::from(ours)).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn layers_are_centred_at_every_length() {
        for length in 1..40 {
            let x: Vec<f32> = (0..length).map(|i| (i as f32 * 1.7).sin() * 3.0 + 5.0).collect();
            let gain: Vec<f32> = (0..length).map(|i| (i as f32 * 0.3).cos()).collect();
            let bias: Vec<f32> = (0..length).map(|i| i as f32 / 7.0).collect();
            let mut ours = vec![0.0; length];
            layer_norm(&x, &gain, &bias, 1e-5, &mut ours);
            let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / length as f64;
            let variance = x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>();
            let r = 1.0 / (variance / length as f64 + 1e-5).sqrt();
            for i in 0..length {
                let expected =
                    (f64::from(x[i]) - mean) * r * f64::from(gain[i]) + f64::from(bias[i]);
                assert!((expected - f64::from(ours[i])).abs() < 1e-5, "{length} {i}");
            }
        }
    }
}
