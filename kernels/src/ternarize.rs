//! The one quantizer of weights: latent weights to trits and a scale.
//!
//! Projection at export and the watch over a run's matrices call [`ternarize`]; the forward pass of training has a twin that
//! keeps trits as floats, and a test holds the two to the same trits.

/// The smallest mean that divides; it keeps a matrix of zeros finite (arXiv:2402.17764 section 2).
pub const EPS: f64 = 1e-5;

/// Independent partial sums: enough to hide the latency of an addition. A fixed number, so that the
/// sum does not depend on the CPU.
const LANES: usize = 16;

/// Values whose magnitudes make one partial sum: a fixed number, so that who sums a part does not change the sum.
pub(crate) const CHUNK: usize = 1 << 16;

/// Mean of the absolute values, summed in f64 in a fixed order; 0 if `w` is empty.
pub fn absmean(w: &[f32]) -> f64 {
    mean(w.chunks(CHUNK).map(sum_of_magnitudes), w.len())
}

/// The mean of `count` values, from the sums of their chunks.
pub(crate) fn mean(sums: impl Iterator<Item = f64>, count: usize) -> f64 {
    sums.sum::<f64>() / count.max(1) as f64
}

/// Sum of the absolute values of one chunk.
pub(crate) fn sum_of_magnitudes(w: &[f32]) -> f64 {
    let mut lanes = [0.0f64; LANES];
    let blocks = w.chunks_exact(LANES);
    let rest = blocks.remainder();
    for block in blocks {
        for (lane, &value) in lanes.iter_mut().zip(block) {
            *lane += f64::from(value.abs());
        }
    }
    let tail: f64 = rest.iter().map(|&value| f64::from(value.abs())).sum();
    lanes.iter().sum::<f64>() + tail
}

/// Splits latent weights into trits and one positive scale, so that `w ≈ scale * trit`.
///
/// `k = 1 / (max(mean(|w|), 1e-5) + extra_eps)`, `trit = clamp(round(w * k), -1, 1)`,
/// `scale = 1 / k` (absmean, arXiv:2402.17764 section 2). Rounds halves to even, as torch does.
/// `extra_eps` is 0 for `b158`, 1e-5 for `seed1` and 1e-8 for `minilm`. The mean is an f64; `k` and all after it are f32.
/// A NaN weight becomes a zero trit.
///
/// # Shapes
///
/// - `w`: one tensor, flattened; returns as many trits
pub fn ternarize(w: &[f32], extra_eps: f64) -> (Vec<i8>, f32) {
    let k = (1.0 / (absmean(w).max(EPS) + extra_eps)) as f32;
    let trits = w.iter().map(|&value| trit(value * k)).collect();
    (trits, k.recip())
}

/// [`ternarize`] of matrices that are one to the quantizer, such as queries, keys and values: the trits of each, and the
/// scale of all.
pub fn ternarize_as_one(parts: &[Vec<f32>], extra_eps: f64) -> (Vec<Vec<i8>>, f32) {
    let (trits, scale) = ternarize(&parts.concat(), extra_eps);
    let mut trits = trits.into_iter();
    (parts.iter().map(|part| trits.by_ref().take(part.len()).collect()).collect(), scale)
}

/// Rounds halves to even and clamps to -1, 0, 1.
///
/// Written as two comparisons: a half rounds to the even zero, so exactly the values beyond ±0.5
/// are not zero. That holds for every f32, needs no SSE4.1 `round`, and vectorizes.
#[inline]
fn trit(scaled: f32) -> i8 {
    i8::from(scaled > 0.5) - i8::from(scaled < -0.5)
}

/// The scale below which a matrix counts as collapsed: `1e-2 / sqrt(d_input)`.
///
/// A healthy scale keeps the variance of a layer's output near that of its input, so it is near
/// `1 / sqrt(d_input)`; this is a hundredth of it.
pub fn collapse_floor(d_input: usize) -> f64 {
    1e-2 / (d_input.max(1) as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparison_is_round_ties_even_then_clamp() {
        for bits in (0..=u32::MAX).step_by(997) {
            let value = f32::from_bits(bits);
            if !value.is_nan() {
                let rule = value.round_ties_even().clamp(-1.0, 1.0) as i8;
                assert_eq!(trit(value), rule, "{value:e}");
            }
        }
        for (value, expected) in [(0.5, 0), (-0.5, 0), (1.5, 1), (0.500_000_06, 1), (f32::NAN, 0)] {
            assert_eq!(trit(value), expected, "{value}");
        }
    }

    #[test]
    fn scale_is_the_mean_magnitude() {
        let (trits, scale) = ternarize(&[1.0, -0.5, 0.1, -2.4], 0.0);
        assert_eq!(trits, [1, 0, 0, -1]);
        assert!((scale - 1.0).abs() < 1e-6);
    }

    #[test]
    fn parts_of_one_matrix_have_one_scale() {
        let parts = [vec![1.0, -0.5], vec![], vec![0.1], vec![-2.4, 0.4]];
        let (trits, scale) = ternarize_as_one(&parts, 0.0);
        assert_eq!(trits, [vec![1, -1], vec![], vec![0], vec![-1, 0]]);
        assert!((scale - 0.88).abs() < 1e-6);
    }

    #[test]
    fn zeros_and_nothing_are_finite() {
        assert_eq!(ternarize(&[0.0; 3], 0.0), (vec![0; 3], (1e5f32).recip()));
        assert_eq!(ternarize(&[], 1e-5).0, Vec::<i8>::new());
    }

    #[test]
    fn trits_survive_a_second_time_and_the_scale_does_not() {
        let w: Vec<f32> = (0..1000).map(|i| ((i * 7919) % 1000) as f32 / 500.0 - 1.0).collect();
        let (trits, scale) = ternarize(&w, 0.0);
        let projected: Vec<f32> = trits.iter().map(|&t| f32::from(t) * scale).collect();
        let (again, smaller) = ternarize(&projected, 0.0);
        let nonzero = trits.iter().filter(|&&t| t != 0).count() as f32 / trits.len() as f32;
        assert_eq!(trits, again);
        assert!((smaller / scale - nonzero).abs() < 1e-5, "{smaller} {scale} {nonzero}");
    }
}
