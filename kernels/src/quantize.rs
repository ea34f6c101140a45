//! The one quantizer of activations: a float vector to eight-bit codes and a scale.

use crate::simd::{LANES, simd};

/// The smallest absmax that divides; it keeps a vector of zeros finite.
pub const EPS: f32 = 1e-5;

/// `1.5 * 2^23`: added to a float of magnitude below `2^22`, it leaves the nearest integer (halves to
/// even, the rounding of every IEEE addition) in the low bits of the mantissa.
const ROUND: f32 = 12_582_912.0;

/// Quantizes one token's activations, so that `x ≈ scale * code`; returns the scale.
///
/// `k = 127 / max(max|x|, 1e-5)`, `code = clamp(round(x * k), -128, 127)`, `scale = 1 / k` (absmax,
/// arXiv:2402.17764 section 2). Rounds halves to even, as torch does. A NaN becomes a zero code.
///
/// # Shapes
///
/// - `x`, `codes`: `[d_input]`
///
/// # Panics
///
/// If the lengths differ.
pub fn quantize_int8(x: &[f32], codes: &mut [i8]) -> f32 {
    assert_eq!(x.len(), codes.len(), "one code for one activation");
    quantize(x, codes)
}

simd! {
    fn quantize<'a>(x: &'a [f32], codes: &'a mut [i8]) -> f32 {
        let k = 127.0 / absmax(x).max(EPS);
        for (code, &value) in codes.iter_mut().zip(x) {
            *code = code_of(value * k);
        }
        k.recip()
    }
}

/// The largest magnitude; 0 if `x` is empty, NaN left out.
#[inline(always)]
pub(crate) fn absmax(x: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [0.0f32; LANES];
    let (whole, tail) = x.as_chunks::<LANES>();
    for x in whole {
        for (lane, x) in lanes.iter_mut().zip(x) {
            *lane = larger(*lane, x.abs());
        }
    }
    lanes.into_iter().chain(tail.iter().map(|x| x.abs())).fold(0.0, larger)
}

/// Clamps to an eight-bit code and rounds halves to even, in operations that every CPU vectorizes.
#[inline(always)]
pub(crate) fn code_of(scaled: f32) -> i8 {
    let zero_if_nan = if scaled.is_nan() { 0.0 } else { scaled };
    (zero_if_nan.clamp(-128.0, 127.0) + ROUND).to_bits() as i8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_round_ties_even_then_clamp() {
        let halves = (-600..=600).map(|i| i as f32 / 4.0);
        let noise = (0..=u32::MAX).step_by(4099).map(f32::from_bits).filter(|v| !v.is_nan());
        for value in halves.chain(noise) {
            let rule = value.round_ties_even().clamp(-128.0, 127.0) as i8;
            assert_eq!(code_of(value), rule, "{value:e}");
        }
    }

    #[test]
    fn largest_becomes_127_at_every_length() {
        for length in 1..40 {
            for largest in 0..length {
                let mut x: Vec<f32> = (0..length).map(|i| i as f32 / 100.0).collect();
                x[largest] = -3.0;
                let mut codes = vec![0; length];
                let scale = quantize_int8(&x, &mut codes);
                assert_eq!(codes[largest], -127);
                assert!((scale * 127.0 - 3.0).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn zeros_and_odd_values_are_codes() {
        let mut codes = [1i8; 3];
        assert!(quantize_int8(&[0.0; 3], &mut codes).is_finite());
        assert_eq!(codes, [0; 3]);
        quantize_int8(&[f32::NAN, f32::INFINITY, 1.0], &mut codes);
        assert_eq!(codes, [0, 0, 0]);
        quantize_int8(&[], &mut []);
    }
}
