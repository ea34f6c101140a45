//! Root-mean-square normalization (RMSNorm, arXiv:1910.07467).

/// Independent partial sums: a fixed number, so that the sum does not depend on the CPU.
const LANES: usize = 8;

/// `out_i = x_i / sqrt(mean(x^2) + eps) * gain_i`.
///
/// # Shapes
///
/// - `x`, `gain`, `out`: `[hidden]`
///
/// # Panics
///
/// If the lengths differ.
pub fn rms_norm(x: &[f32], gain: &[f32], eps: f32, out: &mut [f32]) {
    assert!(x.len() == gain.len() && x.len() == out.len(), "one gain for one value");
    let mut lanes = [0.0f32; LANES];
    let blocks = x.chunks_exact(LANES);
    let rest = blocks.remainder();
    for block in blocks {
        for (lane, &value) in lanes.iter_mut().zip(block) {
            *lane += value * value;
        }
    }
    let squares = lanes.iter().sum::<f32>() + rest.iter().map(|&value| value * value).sum::<f32>();
    let scale = 1.0 / (squares / x.len() as f32 + eps).sqrt();
    for ((out, &value), &gain) in out.iter_mut().zip(x).zip(gain) {
        *out = value * scale * gain;
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
}
